"""Naive training loop for comparison, as most pipelines have it.

It reads a sample at a time through PIL in two loader processes, uses an optimizer that is not
fused, and fetches the norm of each parameter's gradient. It runs in its own process, where the
memory allocator has its default settings.
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

from pcam_lightning.benchmark.loader import SampleAtATime
from pcam_lightning.benchmark.timer import Sample
from pcam_lightning.data.files import SplitFiles
from pcam_lightning.models import MLP

WORKERS = 2


class NaiveLoop(NamedTuple):
    """Network, data and settings of the loop."""

    train: SplitFiles
    valid: SplitFiles
    model: nn.Module
    """A network of `pcam_lightning.models`; its layers get floats here."""
    batch_size: int
    learning_rate: float
    device: str

    def epochs(self) -> Generator[Sample]:
        """Train and validate in another process and yield a sample after each epoch, endlessly."""
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
            raise RuntimeError("the process of the naive loop has ended") from None
        finally:
            here.close()
            process.join()


def _serve(loop: NaiveLoop, requests: Connection) -> None:
    epochs = _train(loop)
    while True:
        try:
            requests.recv()
        except EOFError:
            return
        requests.send(next(epochs))


def _train(loop: NaiveLoop) -> Generator[tuple[int, float, int]]:
    device = torch.device(loop.device)
    model = _float_network(loop.model).to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=loop.learning_rate)
    loaders = {
        split: DataLoader(
            SampleAtATime(files),
            loop.batch_size,
            shuffle=split == "train",
            drop_last=split == "train",
            num_workers=WORKERS,
            multiprocessing_context="fork",  # torch's default in a process that was not spawned
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
        yield patches, nan, len(losses)  # the time of waiting for data is unknown


def _float_network(model: nn.Module) -> nn.Module:
    """Return the same layers as a network from floats [B, 3, 96, 96] to logits [B]."""
    if isinstance(model, MLP):
        return nn.Sequential(nn.Flatten(), model.layers, nn.Flatten(0))
    model.normalize = nn.Identity()
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
