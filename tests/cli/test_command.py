"""Exit codes and output of the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_processes import CONTEXT, redirect, run_train
from omegaconf import OmegaConf
from small_disk import NO_DISK, mount_disk, remount_read_only

from pcam_lightning.cli.arguments import checked_arguments
from pcam_lightning.cli.faults import report


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
        ("model=cmm", ["model/cmm", "cnn, densenet121, mlp, p4m_cnn, resnet18"]),
        ("optimizer.lr=abc", ["optimizer.lr='abc'", "expected number"]),
        ("optimizer.lrr=1", ["optimizer.lrr: no such key", "valid keys here", "lr, momentum"]),
        ("trainer", ["trainer", "expected KEY=VALUE"]),
        ("optimizer.lr=[1", ["optimizer.lr=[1", "quote", "'optimizer.lr=\"[1\"'"]),
        ("experiment_name=it's", ["experiment_name=it's", "quote"]),
        ("--model=mlp", ["--model=mlp", "expected model=mlp"]),
        ("--no-such-option", ["--no-such-option", "expected one of --help"]),
        ("-x", ["-x: no such option"]),
        ("hydra/launcher=submitit_slurm", ["hydra/launcher=submitit_slurm: ", "--multirun"]),
        ("hydra.run.dir=" + 300 * "x", [300 * "x", "File name too long"]),
        ("hydra.run.dir=/dev/null/run", ["/dev/null/run", "Not a directory"]),
        ("hydra.run.dir=/proc/run", ["/proc/run", "No such file or directory"]),
        ("experiment_name=" + 300 * "x", [300 * "x", "File name too long"]),
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
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("key", ["hydra.sweep.dir", "hydra.sweep.subdir"])
def test_a_sweep_folder_that_cannot_be_made_is_one_line(command, key: str) -> None:
    code, _, err = command("--multirun", "seed=1,2", "data=demo", f"{key}={300 * 'x'}")
    line = err.splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and "File name too long" in line
    assert "Traceback" not in err


@pytest.mark.parametrize("disk", ["full", "read-only"])
def test_a_working_directory_without_room_is_one_line(disk: str, tmp_path: Path) -> None:
    process = CONTEXT.Process(target=train_in, args=(tmp_path, disk))
    process.start()
    process.join(120)
    if process.exitcode == NO_DISK:
        pytest.skip("a disk cannot be mounted here: neither as root nor in a user namespace")
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert process.exitcode == 2
    reason = "No space left on device" if disk == "full" else "Read-only file system"
    assert line.startswith("error: ") and line.endswith(reason)


def train_in(folder: Path, disk: str) -> None:
    """Train in a folder on a disk of its own without room; stderr goes to a file beside it."""
    if not mount_disk(folder / "cwd"):
        sys.exit(NO_DISK)
    os.chdir(folder / "cwd")
    if disk == "full":
        room = os.statvfs(".")
        Path("junk").write_bytes(bytes(room.f_bavail * room.f_frsize))
    else:
        remount_read_only(folder / "cwd")
    redirect(str(folder / "out"), str(folder / "err"))
    run_train(["data=demo", "model=mlp"])


def test_a_root_config_of_a_user(command, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 5\n")
    (folder / "bare.yaml").write_text("defaults: [_self_]\nseed: 5\n")
    mine = ("--config-dir", str(folder), "--config-name")
    code, out, err = command(*mine, "mine", "--cfg", "job")
    assert code == 0 and "seed: 5" in out, err
    code, _, err = command(*mine, "mine", "optimizer.lr=-1")
    assert (code, err) == (2, "error: optimizer.lr=-1: expected greater than 0\n")
    code, _, err = command(*mine, "bare")
    (line,) = err.splitlines()
    assert code == 2 and "missing" in line


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
        ("model=cnn", "model=cnn"),
    ],
)
def test_a_dash_is_removed_from_hydra_overrides_only(typed: str, expected: str) -> None:
    assert checked_arguments("train", [typed]) == [expected]


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
    assert checked_arguments("train", typed.split()) == expected.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("data.root=~", "data.root=HOME"),
        ("data.root=~/x", "data.root=HOME/x"),
        ("runs=[~/a,b,~/c]", "runs=[HOME/a,b,HOME/c]"),
        ("~callbacks.progress", "~callbacks.progress"),
        ("a=b~/c", "a=b~/c"),
        ("a='~/c'", "a='~/c'"),
    ],
)
def test_a_tilde_is_the_home_folder(monkeypatch, typed: str, expected: str) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    (argument,) = checked_arguments("train", [typed])
    assert argument == expected.replace("HOME", "/home/somebody")


def test_the_sweep_in_the_readme_composes(command) -> None:
    sweep = "model=cnn optimizer=adam --multirun seed=1,2,3 -hydra/launcher=basic optimizer.lr=0"
    code, _, err = command(*sweep.split())
    assert code == 2
    assert err.splitlines()[-1].startswith("error: optimizer.lr=0: expected greater")


def test_an_error_of_many_lines_becomes_one(capsys) -> None:
    error = ValueError("Could not find 'a/b'\n\nAvailable options in 'a':\n\tx\n\ty\nDone.\n")
    assert report(error) == 2
    expected = "error: Could not find 'a/b', Available options in 'a': x, y, Done.\n"
    assert capsys.readouterr().err == expected


def test_null_is_the_default_of_optional_groups() -> None:
    assert checked_arguments("train", ["debug=null", "model=mlp", "sweep=null"]) == ["model=mlp"]


@pytest.mark.parametrize("group", ["logger", "augment", "hydra/launcher"])
def test_null_is_no_choice_of_a_group(command, group: str) -> None:
    code, _, err = command(f"{group}=null")
    (line,) = err.splitlines()
    assert code == 2 and line.startswith(f"error: {group}=null: expected one of ")
