"""Configs that continue a run, and configs that count as those of a finished run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pcam_files import SPLITS, random_split, write_split

from pcam_lightning.data.files import split_files
from pcam_lightning.data.identity import file_digests, fingerprint
from pcam_lightning.errors import InputError
from pcam_lightning.runs.resume import check_resumable, choose_checkpoint, finished_summary

# No weight depends on these: they may change in the folder of a run. Each list is one config.
HARMLESS = [
    ["data.normalize=symmetric"],  # what the default stands for without published weights
    [
        "preflight=false",
        "cluster=snellius",
        "cluster.account=me",
        "experiment_name=other",
        "logger=csv",
        "+logger.more._target_=lightning.pytorch.loggers.CSVLogger",
        "data.num_workers=3",
        "data.cache=false",
        "data.cache_dir=cache",
        "data.keys=[x,y]",
        "data.device_resident=false",
        "data.on_missing=error",
        "data.demo.parent=elsewhere",
        "trainer.log_every_n_steps=1",
        "trainer.enable_model_summary=true",
        "+trainer.enable_progress_bar=false",
        "+trainer.profiler=simple",
        "trainer.default_root_dir=elsewhere",
        "callbacks.progress=null",
        "callbacks.throughput=null",
        "callbacks.learning_rate=null",
    ],
    [
        "~logger.tensorboard",
        "~callbacks.progress",
        "callbacks.learning_rate.logging_interval=epoch",
        "callbacks.gradient_norm.window=50",
        "callbacks.last_checkpoint.every_minutes=1",
        "+callbacks.bar._target_=lightning.pytorch.callbacks.RichProgressBar",
        "+callbacks.device._target_=lightning.pytorch.callbacks.DeviceStatsMonitor",
    ],
]
# These may change weights or the best checkpoint.
HARMFUL = [
    "seed=1",
    "compile=true",
    "model=mlp",
    "model.dropout=0.5",
    "augment=none",
    "optimizer.lr=0.5",
    "optimizer=sgd",
    "scheduler=none",
    "data.batch_size=7",
    "data.sampler=shuffle",
    "data.filter=blank",
    "data.normalize=train",
    "data.demo.seed=1",
    "trainer.precision=64-true",
    "trainer.gradient_clip_val=null",
    "trainer.accumulate_grad_batches=2",
    "trainer.devices=2",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=2",
    "trainer.check_val_every_n_epoch=2",
    "trainer.deterministic=true",
    "+trainer.enable_checkpointing=false",
    "callbacks.checkpoint.monitor=val/loss",
    "callbacks.checkpoint=null",
    "callbacks.early_stopping.patience=1",
    "~callbacks.early_stopping",
    "+callbacks.own._target_=test_callbacks.Own",
]
# These affect only the remaining part of an unfinished run.
STILL_TO_COME = ["trainer.max_epochs=20", "trainer.limit_test_batches=2"]


def write_folder(folder: Path, config: dict[str, Any], state: str, **dataset: Any) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    trainer = config["trainer"] | {"precision": "32-true"}  # as `train` replaces "auto"
    manifest = {"config": config | {"trainer": trainer}, "dataset": dataset}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "status.json").write_text(json.dumps({"state": state, "finished": "then"}))
    (folder / "summary.json").write_text("{}")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders with different patches."""
    folders = []
    for first in (0, 10):
        folders.append(tmp_path_factory.mktemp("data"))
        for seed, split in enumerate(SPLITS, start=first):
            write_split(folders[-1], split, *random_split(16, seed))
    return folders[0], folders[1]


@pytest.fixture
def folder(tmp_path: Path, composed, roots) -> Path:
    """The folder of a finished run."""
    config = composed([f"data.root={roots[0]}"])
    digest = fingerprint(file_digests(split_files(roots[0])))
    write_folder(tmp_path / "run", config, "finished", name="pcam", fingerprint=digest)
    return tmp_path / "run"


def unfinished(folder: Path) -> Path:
    (folder / "status.json").write_text(json.dumps({"state": "failed"}))
    return folder


@pytest.mark.parametrize("overrides", HARMLESS)
def test_settings_that_change_no_weights(folder: Path, composed, roots, overrides) -> None:
    config = composed([f"data.root={roots[0]}", *overrides])
    assert finished_summary(config, folder) == folder / "summary.json"
    assert check_resumable(config, unfinished(folder)) is not None


@pytest.mark.parametrize("override", HARMFUL)
def test_settings_that_may_change_weights(folder: Path, composed, roots, override) -> None:
    key = override.lstrip("+~").partition("=")[0]
    config = composed([f"data.root={roots[0]}", override])
    for ask in (finished_summary, check_resumable):
        with pytest.raises(InputError, match=rf"^[^\n]*{key}[^\n]*$"):
            ask(config, folder if ask == finished_summary else unfinished(folder))


@pytest.mark.parametrize("override", STILL_TO_COME)
def test_settings_of_the_remaining_part(folder: Path, composed, roots, override) -> None:
    config = composed([f"data.root={roots[0]}", override])
    with pytest.raises(InputError, match=rf"^[^\n]*{override.partition('=')[0]}[^\n]*$"):
        finished_summary(config, folder)
    assert check_resumable(config, unfinished(folder)) is not None


def test_a_run_folder_may_be_moved(folder: Path, composed, roots, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "run2")
    config = composed([f"data.root={roots[0]}", f"run_dir={moved}"])
    assert finished_summary(config, moved) == moved / "summary.json"
    assert check_resumable(config, unfinished(moved)) is not None


def test_other_data_is_rejected(folder: Path, composed, roots, tmp_path) -> None:
    for root in (roots[1], tmp_path / "nowhere", "null"):
        with pytest.raises(InputError, match=r"^data\.root=[^\n]*$"):
            finished_summary(composed([f"data.root={root}"]), folder)
    copy = tmp_path / "copy"
    copy.symlink_to(roots[0])
    assert finished_summary(composed([f"data.root={copy}"]), folder) is not None


def test_a_finished_run_without_its_data(composed, tmp_path: Path) -> None:
    for name, root in (("pcam", tmp_path / "gone"), ("demo", "null")):
        config = composed([f"data.root={root}"])
        write_folder(tmp_path / name, config, "finished", name=name, fingerprint="f")
        assert finished_summary(config, tmp_path / name) is not None


def test_a_new_start_on_request(folder: Path, composed, roots) -> None:
    for override in ("resume=false", f"ckpt_path={folder}/checkpoints/last.ckpt"):
        assert finished_summary(composed([f"data.root={roots[0]}", override]), folder) is None
    assert finished_summary(composed(), folder.parent / "other") is None


def test_a_run_begun_from_a_checkpoint_continues_from_its_own(composed, tmp_path: Path) -> None:
    config = composed(["data.root=null", "ckpt_path=old.ckpt"])
    folder = tmp_path / "run"
    assert choose_checkpoint(config, folder) == "old.ckpt"
    write_folder(folder, config, "failed", name="demo", fingerprint="f")
    own = str(folder / "checkpoints" / "last.ckpt")
    assert choose_checkpoint(config, folder) == own
    assert choose_checkpoint(config | {"ckpt_path": None}, folder) == own
    assert choose_checkpoint(config | {"ckpt_path": "new.ckpt"}, folder) == "new.ckpt"
    assert choose_checkpoint(config | {"resume": False}, folder) == "old.ckpt"
    (folder / "status.json").write_text(json.dumps({"state": "finished"}))
    assert finished_summary(config, folder) == folder / "summary.json"


def test_a_repeated_command_loads_no_torch(folder: Path, roots) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    program = (
        "import sys; from pcam_lightning.train import __main__ as train\n"
        "try: train.main()\n"
        "finally: assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    words = [f"data.root={roots[0]}", f"hydra.run.dir={folder}"]
    for more, code in ((["logger=csv"], 0), (["optimizer.lr=0.5"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *words, *more], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr
        if code:
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        else:
            assert done.stdout.splitlines()[1:] == [f"summary: {folder / 'summary.json'}"]
            assert done.stderr == ""
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
