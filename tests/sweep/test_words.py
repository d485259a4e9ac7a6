"""The command line of a sweep that continues, and the overrides that are not to be trusted."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pcam_lightning.config import schema
from pcam_lightning.config.compose import CONF
from pcam_lightning.errors import InputError
from pcam_lightning.sweep.words import continuation


def write(
    folder: Path,
    *task: str,
    hydra: tuple[str, ...] = ("hydra.mode=MULTIRUN",),
    job: dict[str, Any] | None = None,
    sources: tuple[dict[str, str], ...] = (),
) -> Path:
    """Write the `multirun.yaml` of a sweep; JSON is YAML."""
    content = {
        "hydra": {
            "job": {"name": "train", "config_name": "train"} | (job or {}),
            "overrides": {"task": list(task), "hydra": list(hydra)},
            "runtime": {"config_sources": [{"provider": "main", "path": str(CONF)}, *sources]},
        }
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "multirun.yaml").write_text(json.dumps(content))
    return folder


# Overrides of a first start by an untrusted file. A rejected one could run code, read a config of
# the stranger, or write outside the sweep's folder.
SAFE = [
    "seed=1,2,3", "seed=range(1,4)", "model=cnn,mlp", "model=choice(cnn,mlp)", "+experiment=a",
    "model.dropout=0.1", "model.channels=[8,16]", "optimizer.lr=interval(1e-4,1e-2)",
    "data.root=/scratch/pcam", "data.root='a, b'", "data.batch_size=64", "trainer.max_epochs=2",
    "trainer=ddp", "experiment=mlp_journal", "experiment_name=a", "sweep=grid18", "debug=fast",
    "cluster=snellius",
    "callbacks=default", "hydra/sweeper=optuna", "hydra/launcher=slurm_gpu", "hydra.mode=MULTIRUN",
    "hydra.launcher.timeout_min=02:00:00", "hydra.launcher.mem_gb=16G", "++hydra.launcher.qos=long",
    "hydra.sweeper.trials=9", "preflight=false", "resume=false",
    "hydra.launcher.runs_per_job=4",
]  # fmt: skip
UNSAFE = [
    "model._target_=os.system", "+callbacks.x._target_=os.system", "callbacks={a:{_target_:b}}",
    "+callbacks.x.y=1", "logger.csv.save_dir=/x", "logger={csv:{save_dir:/x}}", "run_dir=/x",
    "ckpt_path=/x", "data.cache_dir=/x", "data={cache_dir:/x}", "data.demo.parent=/x",
    "data.on_missing=download", "trainer.default_root_dir=/x", "trainer={default_root_dir:/x}",
    "trainer.profiler=advanced", "hydra.run.dir=/x", "hydra.sweep.subdir=../x", "hydra/output=x",
    "hydra.job.chdir=true", "hydra.searchpath=[/x]", "hydra/launcher=evil",
    "hydra/launcher=../../x", "hydra.launcher.setup=[id]", "hydra.launcher.python=x",
    "hydra.launcher.submitit_folder=/x", "+hydra.launcher.srun_args=[x]",
    "hydra.sweeper.storage=/x",
    "+hydra.launcher.additional_parameters={wrap:id}", "hydra.launcher.qos='a\nid'",
    "hydra.launcher._target_=x", "experiment=../../x", "experiment='../x'", "model=/x/y",
    "model=a,../x", r"model=..\/x", "sweep=[../x]", "hydra/sweeper=../x", "seed=${oc.env:HOME}",
    "experiment_name=${oc.env:HOME}", r"model.name=$\{oc.env:HOME\}", "--config-dir=/x", "-cd", "",
    "hydra.sweeper._target_=x", "hydra.callbacks.x=1", "model@optimizer=x", "modelx=1",
]  # fmt: skip


@pytest.mark.parametrize("word", SAFE)
def test_names_numbers_and_places_to_read_from_are_kept(tmp_path: Path, word: str) -> None:
    assert word in continuation(write(tmp_path, word), [])


@pytest.mark.parametrize("word", UNSAFE)
@pytest.mark.parametrize("part", ["task", "hydra"])
def test_other_overrides_need_trust(tmp_path: Path, word: str, part: str) -> None:
    folder = write(tmp_path, word) if part == "task" else write(tmp_path, hydra=(word,))
    with pytest.raises(InputError) as caught:
        continuation(folder, [])
    assert "multirun.yaml" in str(caught.value) and "trusted=true" in str(caught.value)
    assert word in continuation(folder, [], trusted=True)


def test_a_folder_of_configs_needs_trust(tmp_path: Path) -> None:
    own = {"provider": "command-line", "path": "/own conf"}
    folder = write(tmp_path, "model=mine", sources=(own,), job={"config_name": "mine"})
    with pytest.raises(InputError, match=r"--config-dir=/own conf.*trusted=true"):
        continuation(folder, [])
    words = continuation(folder, [], trusted=True)
    assert words[:4] == [
        "-m",
        "pcam_lightning.train",
        "--config-dir=/own conf",
        "--config-name=mine",
    ]


def test_the_command_is_given_again_in_the_same_folder(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "a sweep, 100%",
        "seed=1,2",
        "model=cnn",
        hydra=("hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2", "hydra.sweep.dir=old"),
    )
    words = continuation(folder, [])
    assert words[:3] == ["-m", "pcam_lightning.train", "--multirun"]
    given = ["seed=1,2", "model=cnn", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2"]
    assert words[3:-1] == given
    assert words[-1] == f'hydra.sweep.dir="{folder}"'


# Overrides of the first start, overrides typed now, and those of the second start.
@pytest.mark.parametrize(
    ("first", "typed", "second"),
    [
        (["hydra.launcher.mem_gb=2"], ["hydra.launcher.mem_gb=32"], ["hydra.launcher.mem_gb=32"]),
        (["++hydra.launcher.qos=a"], ["+hydra.launcher.qos=b"], ["+hydra.launcher.qos=b"]),
        (["hydra.launcher.retry=[failed]", "seed=1"], [], ["seed=1"]),
        (
            ["hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2", "seed=1"],
            ["hydra/launcher=submitit_local"],
            ["seed=1", "hydra/launcher=submitit_local"],
        ),
        (["hydra.launcher.mem_gb=2"], ["hydra.launcher.nodes=1"], None),
    ],
)
def test_typed_overrides_replace_those_of_the_first_start(
    tmp_path: Path, first: list[str], typed: list[str], second: list[str] | None
) -> None:
    words = continuation(write(tmp_path, hydra=tuple(first)), typed)
    assert words[3:-1] == (first + typed if second is None else second)


# Each content of multirun.yaml is reported with the file or the key at fault.
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "continue="),
        ("- 1", "hydra.job.name"),
        ("a: [", "multirun.yaml"),
        ("{}", "hydra.job.name"),
        ("{hydra: 1}", "hydra.job.name"),
        ("{hydra: {job: {name: os}}}", "hydra.job.name='os'"),
        ("{hydra: {job: {name: sweep}}}", "hydra.job.name='sweep'"),
        ("{hydra: {job: {name: [1]}}}", "hydra.job.name=[1]"),
    ],
)
def test_a_folder_without_a_readable_command(tmp_path: Path, content, named: str) -> None:
    if content is not None:
        (tmp_path / "multirun.yaml").write_text(content)
    with pytest.raises(Exception) as caught:
        continuation(tmp_path, [])
    assert isinstance(caught.value, InputError)
    assert named in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(schema.ROOTS) - {"sweep"}))
def test_every_command_can_continue(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, job={"name": name, "config_name": name})
    assert continuation(folder, [])[1] == f"pcam_lightning.{name}"


def test_a_stranger_s_config_is_not_composed(tmp_path: Path) -> None:
    """Hydra itself would read a file outside of `conf/` as a config group's choice."""
    (tmp_path / "evil.yaml").write_text("# @package _global_\nseed: 777\n")
    word = f"experiment={os.path.relpath(tmp_path / 'evil', CONF / 'experiment')}"
    folder = write(tmp_path / "sweep", word)
    words = [sys.executable, "-m", "pcam_lightning.sweep", f"continue={folder}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "trusted=true" in done.stderr
    assert done.stderr.count("\n") == 1
