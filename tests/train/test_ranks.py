"""Two ranks on the CPU: the same patches, exact metrics, one run folder, one end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_processes import CommandProcess, checkpoint_time, python_path, wait_for
from lightning import Callback, LightningModule, Trainer
from sklearn import metrics

from pcam_lightning.data import PCamDataModule
from pcam_lightning.engine.module import PCamClassifier
from pcam_lightning.models import CNN, MLP
from pcam_lightning.runs import Run
from pcam_lightning.runs.stop_signals import stop_signals
from pcam_lightning.seeds import derive_seed

pytestmark = pytest.mark.xdist_group("ranks")  # one process has the fixtures

SIZES = {"train": 256, "valid": 65, "test": 67}  # two ranks are padded on both of the odd ones
EPOCHS, BATCH = 4, 16
STEPS = SIZES["train"] // (2 * BATCH)


class Rows(Callback):
    """Writes the epoch and the rows of every training batch to a file of its rank."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        with (self.folder / f"rows_{trainer.global_rank}.txt").open("a") as file:
            print(trainer.current_epoch, *batch.row.tolist(), file=file)


class Failing(Callback):
    """Raises on one rank in the fourth step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, 3):
            raise RuntimeError(f"planted on rank {self.rank}")


class Poisoned(Callback):
    """Makes the weights of one rank not finite after the fourth step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_rank, trainer.global_step) == (self.rank, 4):
            with torch.no_grad():
                next(pl_module.parameters()).fill_(torch.nan)


class Pausing(Callback):
    """Makes a file of its rank when a hook is called, and waits there for a signal."""

    def __init__(self, folder: str, hook: str) -> None:
        self.folder = Path(folder)
        setattr(self, hook, self._wait)

    def _wait(self, trainer: Trainer, *_: Any) -> None:
        path = self.folder / f"waiting_{trainer.global_rank}"
        if not path.exists():
            path.touch()
            deadline = time.monotonic() + 120
            while stop_signals.first is None and time.monotonic() < deadline:
                time.sleep(0.01)


class Collectives(Callback):
    """Counts the collective operations of each rank in all training steps."""

    NAMES = ("all_reduce", "broadcast", "barrier")

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.calls = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name in self.NAMES:
            function = getattr(torch.distributed, name)

            def counted(*arguments: Any, function: Any = function, **more: Any) -> Any:
                self.calls += trainer.training
                return function(*arguments, **more)

            setattr(torch.distributed, name, counted)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self.folder / f"collectives_{trainer.global_rank}.txt").write_text(str(self.calls))


@pytest.fixture(scope="module")
def parent(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo")


def arguments(parent: Path, folder: Path) -> list[str]:
    return [
        "data=demo",
        f"data.demo.parent={parent}",
        *(f"data.demo.{split}={rows}" for split, rows in SIZES.items()),
        f"data.batch_size={BATCH}",
        "data.sampler=shuffle",
        f"hydra.run.dir={folder}",
        "trainer.precision=32-true",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.log_every_n_steps=1",
        "logger=csv",
    ]


PAIR = ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
NETWORK = ["model=cnn", "model.channels=[4,8]", "model.dropout=0.3"]


INTERACTIVE = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
INTERACTIVE |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
"""Variables of a shell inside a Slurm job."""
STEP = INTERACTIVE | {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_ID": "0"}
"""Variables of a process that `srun --ntasks=2` starts."""


def launch(parent: Path, folder: Path, *more: str) -> subprocess.Popen[str]:
    """Start `python -m pcam_lightning.train`, where Lightning starts the second rank."""
    command = [sys.executable, "-m", "pcam_lightning.train", *arguments(parent, folder), *PAIR]
    return subprocess.Popen(
        [*command, *more],
        stdout=-1,
        stderr=-1,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()} | INTERACTIVE,
        start_new_session=True,
    )


def start_ranks(parent: Path, folder: Path, *more: str) -> tuple[CommandProcess, CommandProcess]:
    """Start two ranks as Slurm does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    words = [*arguments(parent, folder), *PAIR, *more]
    step = STEP | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    first, second = (
        CommandProcess(words, step | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank})
        for rank in ("0", "1")
    )
    return first, second


def finish(process: subprocess.Popen[str] | CommandProcess, code: int = 0) -> tuple[str, str]:
    """Wait for the end of a command, and return its output.

    Ranks that Lightning starts hold its pipes: none of them is left afterwards.
    """
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out, err


@pytest.fixture(scope="module")
def pair(parent: Path, tmp_path_factory) -> tuple[Run, str, str]:
    folder = tmp_path_factory.mktemp("pair") / "run"
    watch = ["+callbacks.rows._target_=test_ranks.Rows", f"+callbacks.rows.folder={folder.parent}"]
    watch += ["+callbacks.collectives._target_=test_ranks.Collectives"]
    watch += [f"+callbacks.collectives.folder={folder.parent}"]
    out, err = finish(launch(parent, folder, *NETWORK, *watch))
    return Run(folder), out, err


def rows_of(folder: Path, rank: int) -> np.ndarray:
    """[epoch, step, row]; the first column, the epoch, is checked and left out."""
    lines = np.loadtxt(folder / f"rows_{rank}.txt", dtype=int)
    epochs = lines.reshape(EPOCHS, STEPS, -1)
    assert (epochs[..., 0] == np.arange(EPOCHS)[:, None]).all()
    return epochs[..., 1:]


def test_no_row_comes_twice_in_an_epoch(pair) -> None:
    ranks = [rows_of(pair[0].path.parent, rank) for rank in (0, 1)]
    for epoch in np.concatenate(ranks, axis=2):
        assert sorted(epoch.flat) == list(range(SIZES["train"]))


def test_two_ranks_write_one_run_folder(pair) -> None:
    run, out, err = pair
    assert err == ""
    for once in ("dataset: demo, in", "run: ", f"epoch 1/{EPOCHS}", "summary: "):
        assert sum(line.startswith(once) for line in out.splitlines()) == 1, once
    assert out.splitlines()[-1] == f"summary: {run.path / 'summary.json'}"
    assert (run.state, run.status["attempt"]) == ("finished", 1)
    assert not (run.path / "attempts").exists()
    assert [path.name for path in run.path.glob("*.log")] == ["train.log"]
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
    }
    assert run.gradients["step"].tolist() == list(range(EPOCHS * STEPS))
    for name, count in (("train/loss", EPOCHS * STEPS), ("val/auroc", EPOCHS), ("test/auroc", 1)):
        steps = run.metrics.dropna(subset=[name])["step"]
        assert len(steps) == count and not steps.duplicated().any(), name


def test_ranks_do_not_communicate_at_every_step(pair) -> None:
    folder = pair[0].path.parent
    calls = [int((folder / f"collectives_{rank}.txt").read_text()) for rank in (0, 1)]
    assert calls[0] == calls[1] < EPOCHS * STEPS * len(Collectives.NAMES)


def test_ranks_that_slurm_starts(parent: Path, tmp_path: Path) -> None:
    ranks = start_ranks(parent, tmp_path / "run", *NETWORK, "trainer.max_epochs=1")
    (out, err), (other, other_err) = (finish(rank) for rank in ranks)
    assert "summary: " in out and "summary: " not in other
    assert err == other_err == ""
    assert Run(tmp_path / "run").state == "finished"


def test_metrics_are_equal_to_metrics_of_one_rank(pair, parent: Path) -> None:
    run = pair[0]
    module = PCamClassifier(CNN((4, 8)))
    module.load_state_dict(torch.load(run.best_checkpoint, weights_only=True)["state_dict"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    datamodule = PCamDataModule(run.manifest["dataset"]["root"], batch_size=BATCH)
    trainer.validate(module, datamodule, verbose=False)
    trainer.test(module, datamodule, verbose=False)
    for split, rows in (("val", SIZES["valid"]), ("test", SIZES["test"])):
        table, alone = run.predictions(split), module.predictions[split]
        assert table["row"].tolist() == alone.row.tolist() == list(range(rows))
        assert table["label"].tolist() == alone.label.tolist()
        # The order of sums in a convolution depends on the batch.
        np.testing.assert_allclose(table["logit"], alone.logit, rtol=0, atol=1e-5)
        found = {name: each["value"] for name, each in run.summary[split]["metrics"].items()}
        assert run.summary[split]["rows"] == rows
        assert found["auroc"] == pytest.approx(
            metrics.roc_auc_score(alone.label, alone.logit), abs=1e-9
        )
        assert found["accuracy"] == ((alone.logit.numpy() >= 0) == alone.label.numpy()).mean()
        logged = run.metrics[f"{split}/auroc"].dropna()
        assert np.isclose(logged, found["auroc"], rtol=0, atol=1e-6).any()


def test_two_ranks_train_like_one_with_batches_twice_as_large(parent: Path, tmp_path: Path) -> None:
    # Batch norm, dropout and augmentation differ between ranks; Adam would enlarge the rounding of
    # gradients near zero.
    plain = ["model=mlp", "model.dropout=0", "augment=none", "optimizer=sgd", "optimizer.lr=0.01"]
    plain += ["scheduler=none", "+callbacks.rows._target_=test_ranks.Rows"]
    plain += [f"+callbacks.rows.folder={tmp_path}/${{trainer.devices}}"]
    for devices in (1, 2):
        (tmp_path / str(devices)).mkdir()
    for process in start_ranks(parent, tmp_path / "pair", *plain):
        finish(process)
    larger = ["trainer=cpu", f"data.batch_size={2 * BATCH}"]
    finish(CommandProcess([*arguments(parent, tmp_path / "alone"), *plain, *larger]))
    rows = np.concatenate([rows_of(tmp_path / "2", rank) for rank in (0, 1)], axis=2)
    np.testing.assert_array_equal(rows, rows_of(tmp_path / "1", 0))

    torch.manual_seed(derive_seed(42, "initialisation"))
    before = PCamClassifier(MLP()).state_dict()
    pair, alone = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("pair", "alone")
    )
    for name in (name for name in before if "layers" in name):
        # The order of summation differs: some dozen roundings, far less than the weights change.
        torch.testing.assert_close(pair[name], alone[name], rtol=0, atol=1e-6)
        assert (alone[name] - before[name]).abs().max() > 1e-3


def test_bad_input_is_one_line(parent: Path, tmp_path: Path) -> None:
    for override in ("optimizer.lrr=1", "data.root=nowhere"):
        words = [*arguments(parent, tmp_path / "run"), *PAIR, override]
        out, err = finish(CommandProcess(words), code=2)
        (line,) = err.splitlines()
        assert line.startswith(f"error: {override.partition('=')[0]}")
        assert "summary: " not in out


def test_a_sweep_of_two_ranks_is_rejected(command: Callable, parent: Path, tmp_path: Path) -> None:
    sweep = [each for each in arguments(parent, tmp_path) if "hydra.run.dir" not in each]
    code, _, err = command("--multirun", "seed=1,2", *sweep, *PAIR, f"hydra.sweep.dir={tmp_path}")
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: trainer.devices: 2 ranks in a sweep")
    assert "hydra.launcher.tasks_per_node=2" in line


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failing_rank_ends_the_other(parent: Path, tmp_path: Path, rank: int) -> None:
    folder = tmp_path / "run"
    failing = ["+callbacks.failing._target_=test_ranks.Failing", f"+callbacks.failing.rank={rank}"]
    out, err = finish(launch(parent, folder, *NETWORK, *failing), code=1)
    assert f"planted on rank {rank}" in err
    assert "summary: " not in out
    assert Run(folder).state == "failed"


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_that_diverges_stops_both(parent: Path, tmp_path: Path, rank: int) -> None:
    folder = tmp_path / "run"
    plant = ["+callbacks.plant._target_=test_ranks.Poisoned", f"+callbacks.plant.rank={rank}"]
    first, second = start_ranks(parent, folder, *NETWORK, *plant)
    _, err = finish(first, code=1)
    finish(second, code=1)
    (line,) = err.splitlines()
    assert line.startswith("failed: diverged at step 4 (loss nan, lr ")
    assert Run(folder).status["error"]["text"] == line.removeprefix("failed: ")


@pytest.mark.slow
def test_stopped_and_killed_ranks_end_bit_identical(pair, parent: Path, tmp_path: Path) -> None:
    whole, folder = pair[0], tmp_path / "run"
    for attempt, number in enumerate((signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL), start=1):
        before = checkpoint_time(folder)
        every = f"callbacks.last_checkpoint.every_minutes={0 if number == signal.SIGKILL else 60}"
        if number == signal.SIGUSR2:  # reaches one of the ranks; Lightning started the other
            ranks = [launch(parent, folder, *NETWORK, every)]
        else:
            ranks = [*start_ranks(parent, folder, *NETWORK, every)]
        wait_for(lambda before=before: checkpoint_time(folder) != before, ranks[0])
        for rank in ranks:
            os.kill(rank.pid, number)
        if number == signal.SIGKILL:
            for rank in ranks:
                finish(rank, code=-number)
            assert Run(folder).state == "killed"
            continue
        errors = [finish(rank, code=128 + number)[1].splitlines() for rank in ranks]
        assert len(errors[0]) == 1 and not any(errors[1:])
        assert errors[0][0].startswith(f"preempted: signal {number.name}; ")
        run = Run(folder)
        assert (run.state, run.status["attempt"]) == ("preempted", attempt)
    for rank in start_ranks(parent, folder, *NETWORK):
        finish(rank)
    run = Run(folder)
    assert run.summary["weights_digest"] == whole.summary["weights_digest"]
    last, expected = (
        torch.load(each.last_checkpoint, weights_only=True)["state_dict"] for each in (run, whole)
    )
    assert all(torch.equal(last[name], expected[name]) for name in expected)
    pd.testing.assert_frame_equal(run.gradients, whole.gradients, check_exact=True)
    pd.testing.assert_frame_equal(
        run.predictions("test"), whole.predictions("test"), check_exact=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_test_batch_start"])
def test_ranks_stopped_while_they_score_end_bit_identical(
    pair, parent: Path, tmp_path: Path, hook: str
) -> None:
    folder = tmp_path / "run"
    pausing = ["+callbacks.pausing._target_=test_ranks.Pausing"]
    pausing += [f"+callbacks.pausing.folder={tmp_path}", f"+callbacks.pausing.hook={hook}"]
    process = launch(parent, folder, *NETWORK, *pausing)
    wait_for(lambda: all((tmp_path / f"waiting_{rank}").exists() for rank in (0, 1)), process)
    os.killpg(process.pid, signal.SIGHUP)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = finish(process, code=128 + signal.SIGHUP)
    assert err.startswith("preempted: signal SIGHUP") and err.count("\n") == 1
    run = Run(folder)
    assert run.state == "preempted"
    if hook == "on_validation_batch_start":  # of the first epoch
        assert "val/auroc" not in run.metrics
    for rank in start_ranks(parent, folder, *NETWORK, *pausing):
        finish(rank)
    assert run.summary["weights_digest"] == pair[0].summary["weights_digest"]
    assert run.summary["test"] == pair[0].summary["test"]
    pd.testing.assert_frame_equal(run.gradients, pair[0].gradients, check_exact=True)
