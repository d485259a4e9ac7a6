"""The training loop that most pipelines have, to be held against: a sample at a time through PIL,
two loader processes, an optimizer that is not fused, a gradient norm fetched for each parameter.

It runs in a process of its own, so that it has the memory allocator that it would have.
"""

from collections.abc import Generator
from math import nan
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from pcam_lightning.benchmark.loader import TO_NORMALIZED, SampleAtATime
from pcam_lightning.benchmark.timer import Sample
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.models import MLP

WORKERS = 2


class NaiveLoop(NamedTuple):
    """What to train on what."""

    train: SplitFiles
    valid: SplitFiles
    model: nn.Module
    """One of `pcam_lightning.models`, whose layers are given floats here."""
    batch_size: int
    learning_rate: float
    device: str

    def epochs(self) -> Generator[Sample]:
        """Train and validate, epoch after epoch, in a process of its own."""
        context = torch.multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(self, there), daemon=False)
        process.start()
        there.close()
        try:
            while True:
                here.send("epoch")
                yield Sample(*here.recv())
        except EOFError:
            raise RuntimeError("the process of the usual loop has ended") from None
        finally:
            here.close()
            process.join()


def _serve(loop: NaiveLoop, asked: Connection) -> None:
    epochs = _train(loop)
    while True:
        try:
            asked.recv()
        except EOFError:
            return
        asked.send(next(epochs))


def _train(loop: NaiveLoop) -> Generator[tuple[int, float, int]]:
    device = torch.device(loop.device)
    model = _of_floats(loop.model).to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=loop.learning_rate)
    loaders = {
        split: DataLoader(
            SampleAtATime(files, TO_NORMALIZED),
            loop.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=WORKERS,
            multiprocessing_context="fork",  # as in a process that was not spawned
        )
        for split, files in (("train", loop.train), ("valid", loop.valid))
    }
    while True:
        patches, losses, norms = 0, [], []
        model.train()
        for image, label in loaders["train"]:
            image, label = image.to(device), label.to(device)
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(model(image).float(), label.float())
            loss.backward()
            norms.append(
                sum(p.grad.norm().item() ** 2 for p in parameters if p.grad is not None) ** 0.5
            )
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            patches += len(label)
        model.eval()
        labels, probabilities = [], []
        with torch.no_grad():
            for image, label in loaders["valid"]:
                probabilities += model(image.to(device)).sigmoid().cpu().tolist()
                labels += label.tolist()
                patches += len(label)
        roc_auc_score(labels, probabilities)
        yield patches, nan, len(losses)  # how long it waited for data, it does not say


def _of_floats(model: nn.Module) -> nn.Module:
    """The same layers, float [B, 3, 96, 96] to logits [B]."""
    if isinstance(model, MLP):
        return nn.Sequential(nn.Flatten(), model.layers, nn.Flatten(0))
    model.normalize = nn.Identity()
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
