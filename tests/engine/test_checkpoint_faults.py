"""Checkpoints that nothing can go on from: one line before data is read, and nothing changed."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from pcam_files import SPLITS, random_split, write_split
from torch import nn
from torch.optim import SGD, Adam

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine import schedulers
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.models import CNN, MLP
from pcam_lightning.runs import Run

CHOSEN = ["model=cnn", "model.channels=[4,4]", "optimizer=adam"]


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[..., Path]:
    """The checkpoint of a network and an optimizer after one step."""
    root = tmp_path_factory.mktemp("data")
    for split in SPLITS:
        write_split(root, split, *random_split(8))

    def save(
        model: nn.Module,
        optimizer: Callable = Adam,
        weights_only: bool = False,
        batch_size: int = 8,
    ) -> Path:
        trainer = Trainer(
            accelerator="cpu",
            max_steps=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(PCamClassifier(model, optimizer), PCamDataModule(root, batch_size=batch_size))
        path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
        trainer.save_checkpoint(path, weights_only=weights_only)
        return path

    return save


@pytest.fixture(scope="module")
def sound(saved) -> Path:
    """What a run of `CHOSEN` can go on from."""
    return saved(CNN((4, 4)))


@pytest.fixture(params=["named", "of its own"])
def refused(request, command: Callable, tmp_path: Path) -> Callable[..., str]:
    """The one line about a checkpoint that is named or the folder's own; nothing is changed."""

    def refuse(content: bytes, *overrides: str, chosen: Sequence[str] = CHOSEN) -> str:
        folder = tmp_path / "run"
        own = request.param == "of its own"
        path = folder / "checkpoints" / "last.ckpt" if own else tmp_path / "other.ckpt"
        files = {path: content, folder / "metrics.csv": b"epoch,step\n0,0\n"}
        for file, what in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(what)
        named = [] if own else [f"ckpt_path={path}"]
        # Were data looked at before the checkpoint, the line would be about the data.
        there = [f"hydra.run.dir={folder}", "data.root=nowhere", "trainer=cpu", *named]
        code, _, err = command(*chosen, *there, *overrides)
        assert code == 2
        (line,) = err.splitlines()
        assert Run(folder).state == "failed"
        assert {file: file.read_bytes() for file in files} == files
        return line.removeprefix(f"error: {path}: ")

    return refuse


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> bytes:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return stream.getvalue()


def test_a_sound_one_is_gone_on_from(refused, sound: Path) -> None:
    assert "data.root=nowhere: 6 of the 6 PatchCamelyon files" in refused(sound.read_bytes())


def test_code_in_it_is_not_run(refused, sound: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    content = changed(sound, lambda checkpoint: checkpoint.update(more=Code(made)))
    line = refused(content)
    assert "expected tensors and plain containers, found posix.mkdir" in line
    assert not made.exists()
    bare = pickle.dumps({"state_dict": Code(made)})
    assert refused(bare).startswith("cut short, damaged or no checkpoint")
    assert not made.exists()
    pickle.loads(bare)
    assert made.exists()


def test_one_that_is_cut_short(refused, sound: Path) -> None:
    whole = sound.read_bytes()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        assert refused(whole[:length]).startswith("cut short, damaged or no checkpoint"), length


def test_one_with_a_flipped_byte_in_a_tensor(refused, sound: Path) -> None:
    content = bytearray(sound.read_bytes())
    with zipfile.ZipFile(sound) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        values = archive.read(largest)
    content[content.index(values) + len(values) // 2] ^= 1
    # torch alone does not mind.
    torch.load(io.BytesIO(content), weights_only=True)
    assert refused(bytes(content)).startswith(f"damaged, the checksum of {largest.filename}")


@pytest.mark.parametrize("content", [b"", b"Not a checkpoint.", pickle.dumps([1, 2])])
def test_what_is_no_checkpoint(refused, content: bytes) -> None:
    assert refused(content).startswith("cut short, damaged or no checkpoint")


def test_one_of_another_network(refused, saved) -> None:
    line = refused(saved(MLP((4,))).read_bytes())
    assert line.startswith(
        "of another network: no model.stages.0.0.weight, it has model.layers.0.weight instead, "
        "expected the weights of CNN"
    )


def test_one_with_other_channels(refused, saved) -> None:
    assert refused(saved(CNN((4, 8))).read_bytes()).startswith(
        "of another network: model.stages.2.0.weight is [8, 4, 3, 3], expected [4, 4, 3, 3] as in "
    )
    assert refused(saved(CNN((4, 4, 4))).read_bytes()).startswith("of another network: model.")


def test_one_for_another_input_size(refused, saved) -> None:
    def shrink(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["model.layers.0.weight"] = torch.zeros(4, 64 * 64 * 3)

    content = changed(saved(MLP((4,))), shrink)
    assert refused(content, chosen=["model=mlp", "model.hidden=[4]"]).startswith(
        "of another network: model.layers.0.weight is [4, 12288], expected [4, 27648] as in MLP"
    )


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (Adam, "sgd", "it kept step, exp_avg, exp_avg_sq for each parameter, expected momentum"),
        (SGD, "adam", "expected step, exp_avg, exp_avg_sq as Adam does"),
        (Adam, "adamw", "decoupled_weight_decay was False, expected True as in AdamW"),
    ],
)
def test_one_of_another_optimizer(refused, saved, before: type, now: str, said: str) -> None:
    optimizer = partial(before, lr=0.1, **({"momentum": 0.9} if before is SGD else {}))
    line = refused(saved(CNN((4, 4)), optimizer).read_bytes(), f"optimizer={now}")
    assert line.startswith("of another optimizer: ") and said in line


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("cosine", "onecycle", "of another scheduler: "),
        ("onecycle", "cosine", "of another scheduler: "),
        ("onecycle", "plateau", "of another scheduler: "),
        ("plateau", "none", "of another scheduler: "),
        ("onecycle", "onecycle", "error: data.root=nowhere"),
        ("plateau", "plateau", "error: data.root=nowhere"),
    ],
)
def test_one_of_another_scheduler(refused, sound: Path, before: str, now: str, said: str) -> None:
    """Schedules that are functions of the step keep the same: these can replace each other."""
    made = getattr(schedulers, before)(SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9), 9, 3)
    states = [entry["scheduler"].state_dict() for entry in made]
    content = changed(sound, lambda checkpoint: checkpoint.update(lr_schedulers=states))
    assert refused(content, f"scheduler={now}").startswith(said)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ([], "its run ended at step 1, inside an epoch"),
        (["+trainer.max_steps=2"], "its run ended at step 1, inside an epoch"),
        (["+trainer.max_steps=1"], "error: data.root=nowhere"),  # nothing is left to train
    ],
    ids=str,
)
def test_one_of_an_epoch_that_was_cut_short(refused, saved, limits: list[str], said: str) -> None:
    assert refused(saved(CNN((4, 4)), batch_size=4).read_bytes(), *limits).startswith(said)


def test_one_of_weights_alone(refused, saved, sound: Path) -> None:
    line = refused(saved(CNN((4, 4)), weights_only=True).read_bytes())
    assert line.startswith("holds weights and no optimizer states")
    empty = changed(sound, lambda checkpoint: checkpoint.update(optimizer_states=[]))
    assert refused(empty).startswith("holds weights and no optimizer states")
    bare = changed(sound, lambda checkpoint: checkpoint.pop("state_dict"))
    assert refused(bare).startswith("no checkpoint of Lightning, found epoch, global_step")
