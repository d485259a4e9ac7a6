"""Checkpoints that a run cannot continue from: one line that names the file and the fault."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from pcam_files import SPLITS, random_split, write_split
from torch import nn
from torch.optim import SGD, Adam, AdamW

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine import schedulers
from pcam_lightning.engine.checkpoints import check_checkpoint
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.engine.muon import Muon
from pcam_lightning.errors import InputError
from pcam_lightning.models import CNN, MLP
from pcam_lightning.runs import Run

MOMENTUM_SGD = partial(SGD, lr=0.1, momentum=0.9)


class Code:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[..., bytes]:
    """Return the checkpoint of a network and an optimizer after one step."""
    root = tmp_path_factory.mktemp("data")
    for split in SPLITS:
        write_split(root, split, *random_split(8))

    def save(
        model: nn.Module,
        optimizer: Callable = Adam,
        weights_only: bool = False,
        batch_size: int = 8,
    ) -> bytes:
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
        return path.read_bytes()

    return save


@pytest.fixture(scope="module")
def sound(saved) -> bytes:
    """A checkpoint that `fault` accepts for its default network and optimizer."""
    return saved(CNN((4, 4)))


@pytest.fixture
def fault(tmp_path: Path) -> Callable[..., str | None]:
    """Return the reported fault of a checkpoint without the path, None if it is accepted."""
    path = tmp_path / "last.ckpt"

    def check(
        content: bytes,
        model: nn.Module | None = None,
        optimizer: Callable = Adam,
        scheduler: Callable | None = None,
        max_steps: int = -1,
    ) -> str | None:
        path.write_bytes(content)
        module = PCamClassifier(model or CNN((4, 4)), optimizer, scheduler)
        try:
            check_checkpoint(str(path), module, max_steps)
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            return str(error).removeprefix(f"{path}: ")
        return None

    return check


def changed(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    change(checkpoint)
    stream = io.BytesIO()
    torch.save(checkpoint, stream)
    return stream.getvalue()


@pytest.mark.parametrize("own", [True, False], ids=["of the folder", "named"])
def test_a_command_checks_it_before_the_data_and_changes_nothing(
    command, sound: bytes, tmp_path: Path, own: bool
) -> None:
    folder = tmp_path / "run"
    path = folder / "checkpoints" / "last.ckpt" if own else tmp_path / "other.ckpt"
    words = ["model=cnn", "model.channels=[4,4]", "optimizer=adam", "trainer=cpu"]
    words += [f"hydra.run.dir={folder}", "data.root=nowhere"]
    words += [] if own else [f"ckpt_path={path}"]
    cases = [(sound[:-100], str(path)), (sound, "data.root=nowhere")]
    for content, named in cases if own else cases[:1]:
        files = {path: content, folder / "metrics.csv": b"epoch,step\n0,0\n"}
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text)
        code, _, err = command(*words)
        (line,) = err.splitlines()
        assert code == 2 and line.startswith(f"error: {named}: ")
        assert Run(folder).state == "failed"
        assert {file: file.read_bytes() for file in files} == files


def test_a_sound_checkpoint_is_accepted(fault, sound: bytes) -> None:
    assert fault(sound) is None


def test_no_code_of_a_checkpoint_runs(fault, sound: bytes, tmp_path: Path) -> None:
    made = tmp_path / "made"
    content = changed(sound, lambda checkpoint: checkpoint.update(more=Code(made)))
    assert "found posix.mkdir" in fault(content)
    bare = pickle.dumps({"state_dict": Code(made)})
    assert fault(bare)
    assert not made.exists()
    pickle.loads(bare)
    assert made.exists()


def test_format_versions(fault, sound: bytes) -> None:
    for version in (None, 0, 1):  # a checkpoint of 0.1.0 has none
        change = {} if version is None else {"format_version": version}
        assert (
            fault(changed(sound, lambda checkpoint, change=change: checkpoint.update(change)))
            is None
        )
    for version in (2, -1, "1", [1]):
        content = changed(sound, lambda checkpoint, v=version: checkpoint.update(format_version=v))
        assert "format version" in fault(content)


def test_a_truncated_file(fault, sound: bytes) -> None:
    for length in (0, 1, 100, len(sound) // 2, len(sound) - 100, len(sound) - 1):
        assert fault(sound[:length]), length


def test_a_flipped_bit_in_a_tensor(fault, sound: bytes) -> None:
    content = bytearray(sound)
    with zipfile.ZipFile(io.BytesIO(sound)) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
        values = archive.read(largest)
    content[content.index(values) + len(values) // 2] ^= 1
    torch.load(io.BytesIO(content), weights_only=True)  # torch alone accepts it
    assert largest.filename in fault(bytes(content))


@pytest.mark.parametrize("content", [b"Not a checkpoint.", pickle.dumps([1, 2])])
def test_a_file_of_another_format(fault, content: bytes) -> None:
    assert fault(content)


# Network of the checkpoint, network of the run, parameter and shapes or network that are named.
@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (MLP((4,)), CNN((4, 4)), ["model.stages.0.0.weight", "model.layers.0.weight", "CNN"]),
        (CNN((4, 8)), CNN((4, 4)), ["model.stages.2.0.weight", "[8, 4, 3, 3]", "[4, 4, 3, 3]"]),
        (CNN((4, 4, 4)), CNN((4, 4)), ["model.", "CNN"]),
    ],
)
def test_another_network(fault, saved, before: nn.Module, now: nn.Module, named: list[str]) -> None:
    line = fault(saved(before), now)
    assert all(name in line for name in named)


def test_another_input_size(fault, saved) -> None:
    def shrink(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["model.layers.0.weight"] = torch.zeros(4, 64 * 64 * 3)

    line = fault(changed(saved(MLP((4,))), shrink), MLP((4,)))
    assert "[4, 12288]" in line and "[4, 27648]" in line


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (Adam, MOMENTUM_SGD, ["exp_avg_sq", "momentum_buffer", "SGD"]),
        (MOMENTUM_SGD, Adam, ["momentum_buffer", "exp_avg_sq", "Adam"]),
        (Adam, AdamW, ["decoupled_weight_decay", "AdamW"]),
        (Adam, Muon, ["exp_avg_sq", "mean, square", "Muon"]),
        (Muon, MOMENTUM_SGD, ["mean, square", "momentum_buffer", "SGD"]),
    ],
)
def test_another_optimizer(fault, saved, before, now, named: list[str]) -> None:
    line = fault(saved(CNN((4, 4)), before), optimizer=now)
    assert "optimizer" in line and all(name in line for name in named)


@pytest.mark.parametrize("model", [MLP((4,)), CNN((4, 4))], ids=["MLP", "CNN"])
def test_muon_keeps_another_state_of_matrices(fault, saved, model: nn.Module) -> None:
    assert fault(saved(model, Muon), model, Muon) is None


@pytest.mark.parametrize(
    ("before", "now", "accepted"),
    [
        ("cosine", "onecycle", False),
        ("onecycle", "cosine", False),
        ("onecycle", "plateau", False),
        ("plateau", "constant", False),
        ("onecycle", "onecycle", True),
        ("plateau", "plateau", True),
        ("step", "constant", True),  # both are functions of the step and keep the same state
    ],
)
def test_another_scheduler(fault, sound: bytes, before: str, now: str, accepted: bool) -> None:
    made = getattr(schedulers, before)(SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9), 9, 3)
    states = [entry["scheduler"].state_dict() for entry in made]
    content = changed(sound, lambda checkpoint: checkpoint.update(lr_schedulers=states))
    line = fault(content, scheduler=getattr(schedulers, now))
    assert line is None if accepted else "scheduler" in line


@pytest.mark.parametrize(("max_steps", "accepted"), [(-1, False), (2, False), (1, True)])
def test_an_epoch_that_ended_before_its_last_batch(
    fault, saved, max_steps: int, accepted: bool
) -> None:
    line = fault(saved(CNN((4, 4)), batch_size=4), max_steps=max_steps)
    assert line is None if accepted else "step 1" in line  # with max_steps=1 no step is left


def test_missing_parts(fault, saved, sound: bytes) -> None:
    assert "optimizer" in fault(saved(CNN((4, 4)), weights_only=True))
    empty = changed(sound, lambda checkpoint: checkpoint.update(optimizer_states=[]))
    assert "optimizer" in fault(empty)
    bare = changed(sound, lambda checkpoint: checkpoint.pop("state_dict"))
    assert "global_step" in fault(bare)
