"""Exit codes and output of the commands."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pcam_lightning.cli.command import _describe, _options_first, _without_dash


def call(*arguments: str, cwd: Path, module: str = "pcam_lightning.train"):
    """Run a command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("model=cmm", ["model/cmm", "cnn, densenet121, mlp, resnet18, resnet50"]),
        ("optimizer.lr=abc", ["optimizer.lr='abc'", "expected number"]),
        ("optimizer.lrr=1", ["optimizer.lrr: no such key", "valid keys here", "lr, betas"]),
        ("trainer", ["trainer", "missing EQUAL"]),
        ("data.root=${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE"]),
    ],
)
def test_an_invalid_config_is_one_line_and_leaves_no_folder(
    command, tmp_path: Path, argument: str, parts: list[str]
) -> None:
    code, out, err = command(argument)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and all(part in line for part in parts)
    assert list(tmp_path.iterdir()) == []


def test_help_and_config_need_no_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from pcam_lightning.train.__main__ import main; sys.argv[0] = 'train'\n"
        "try: main()\n"
        "finally: assert not {'torch', 'pandas', 'matplotlib', 'optuna'} & set(sys.modules)"
    )
    for arguments in (["--help"], ["--cfg", "job", "model=mlp"], ["optimizer.lr=abc"]):
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True
        )
        assert "AssertionError" not in result.stderr
        assert result.returncode == (2 if "optimizer.lr=abc" in arguments else 0)
    assert list(tmp_path.iterdir()) == []


def test_the_composed_config_can_be_shown_from_anywhere(tmp_path: Path) -> None:
    result = call("--cfg", "job", "model=mlp", "-hydra/launcher=basic", cwd=tmp_path)
    assert result.returncode == 0
    assert OmegaConf.create(result.stdout).model.hidden == [64, 32]
    assert result.stderr == "hint: reading -hydra/launcher=basic as hydra/launcher=basic\n"


def test_the_package_lists_its_commands(tmp_path: Path) -> None:
    result = call(module="pcam_lightning", cwd=tmp_path)
    assert result.returncode == 0
    assert "  train       Fit a classifier" in result.stdout


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("-hydra/launcher=submitit_slurm", "hydra/launcher=submitit_slurm"),
        ("-hydra.run.dir=x", "hydra.run.dir=x"),
        ("-h", "-h"),
        ("--hydra-help", "--hydra-help"),
        ("-hydra", "-hydra"),
        ("model=cnn", "model=cnn"),
    ],
)
def test_a_dash_is_removed_from_hydra_overrides_only(typed: str, expected: str) -> None:
    assert _without_dash(typed) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("a=1 --multirun b=1,2 c/d=x", "--multirun a=1 b=1,2 c/d=x"),
        ("a=1 --cfg job +b=2 ~c", "--cfg job a=1 +b=2 ~c"),
        ("a=1 --config-dir=x -m", "--config-dir=x -m a=1"),
        ("--help", "--help"),
    ],
)
def test_overrides_may_surround_an_option(typed: str, expected: str) -> None:
    assert _options_first(typed.split()) == expected.split()


def test_the_sweep_in_the_readme_composes(command) -> None:
    sweep = "model=cnn optimizer=adam --multirun seed=1,2,3 -hydra/launcher=basic optimizer.lr=0"
    code, _, err = command(*sweep.split())
    assert code == 2
    assert err.splitlines()[-1].startswith("error: optimizer.lr=0: expected greater")


def test_an_error_of_many_lines_becomes_one() -> None:
    error = ValueError("Could not find 'a/b'\n\nAvailable options in 'a':\n\tx\n\ty\nDone.\n")
    assert _describe(error) == "Could not find 'a/b', Available options in 'a': x, y, Done."


@pytest.mark.parametrize("group", ["logger", "sweep", "hydra/launcher"])
def test_null_is_no_choice_of_a_group(command, group: str) -> None:
    code, _, err = command(f"{group}=null")
    (line,) = err.splitlines()
    assert code == 2 and line.startswith(f"error: {group}=null: expected one of ")
