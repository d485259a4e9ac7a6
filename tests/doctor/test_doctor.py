"""The command `doctor`: findings, exit codes, and disks that cannot be written."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_processes import CONTEXT, redirect
from small_disk import NO_DISK, mount_disk, remount_read_only

from pcam_lightning.doctor import examination
from pcam_lightning.doctor.probe import TorchFacts

FACTS = TorchFacts({"torch": "2", "torchvision": "1", "gpus": [], "threads": 1}, "end")
"""A probe of a machine without a GPU; starting torch takes five seconds."""


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "probe_torch", lambda: FACTS)
    monkeypatch.setattr(examination.cluster, "is_cluster", lambda: False)


def levels(summary: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["level"] for each in summary["findings"]}


def test_findings_are_printed_and_kept(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", "hydra.run.dir=here")
    code, out, err = command(*arguments, name="doctor")
    assert code == 0, err
    assert out.splitlines()[-1] == f"summary: {Path('here/summary.json').absolute()}"
    summary = json.loads(Path("here/summary.json").read_text())
    found = levels(summary)
    assert found["GPU"] == summary["level"] == "yellow"
    assert {found[name] for name in ("data", "train", "valid", "test", "copies", "Slurm")} == {
        "green"
    }
    assert all(name in out for name in found)
    assert sum(summary["counts"].values()) == len(summary["findings"])
    assert all(each["mend"] for each in summary["findings"] if each["level"] != "green")
    assert json.loads(Path("here/status.json").read_text())["state"] == "finished"


def test_the_report_takes_the_folder(command) -> None:
    command("hydra.run.dir=here", name="doctor")
    code, _, err = command("inputs=[here]", "hydra.run.dir=report", name="report")
    assert code == 0, err


def test_a_damaged_file_is_red_and_named(command, pcam_root: Path) -> None:
    damaged = pcam_root / "camelyonpatch_level_2_split_valid_x.h5"
    os.truncate(damaged, damaged.stat().st_size // 2)
    code, out, err = command(f"data.root={pcam_root}", "hydra.run.dir=here", name="doctor")
    assert code == 1 and damaged.name in err and "Traceback" not in err
    assert "summary: " in out
    assert levels(json.loads(Path("here/summary.json").read_text()))["valid"] == "red"


@pytest.mark.parametrize("override", ["doctor.wait_s=0", "doctor.submit=maybe", "data.scale=x"])
def test_a_wrong_value_is_one_line_and_leaves_no_folder(command, override: str) -> None:
    code, _, err = command(override, "hydra.run.dir=here", name="doctor")
    assert code == 2 and err.startswith(f"error: {override.partition('=')[0]}")
    assert err.count("\n") == 1
    assert not Path("here").exists()


def test_help_and_config_need_no_torch() -> None:
    program = (
        "import sys; from pcam_lightning.doctor.__main__ import main; sys.argv[0] = 'doctor'\n"
        "try: main()\n"
        "finally: assert not {'torch', 'pandas', 'h5py'} & set(sys.modules)"
    )
    for option in ("--help", "--cfg=job"):
        done = subprocess.run([sys.executable, "-c", program, option], capture_output=True)
        assert done.returncode == 0, done.stderr


def test_an_area_that_breaks_hides_no_other(command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ImportError("libhdf5.so: cannot open shared object file")

    monkeypatch.setattr(examination.data, "examine", broken)
    code, out, err = command("hydra.run.dir=here", name="doctor")
    assert code == 1 and "libhdf5.so" in err and "Traceback" not in err
    assert "locks" in out


@pytest.mark.parametrize("disk", ["full", "nearly full", "read-only"])
def test_a_disk_without_room_is_red_and_the_table_appears(disk: str, tmp_path: Path) -> None:
    process = CONTEXT.Process(target=examine_on, args=(tmp_path, disk))
    process.start()
    process.join(120)
    if process.exitcode == NO_DISK:
        pytest.skip("a disk cannot be mounted here: neither as root nor in a user namespace")
    out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
    assert process.exitcode == 1 and "Traceback" not in err
    reason = "Read-only file system" if disk == "read-only" else "No space left on device"
    failed = err.splitlines()[-1]
    assert failed.startswith("failed: 1 red") and "outputs" in failed and reason in failed
    assert "to mend:" in out and "PCAM_OUTPUTS" in out
    if disk == "nearly full":  # enough for the summary
        assert "summary: " in out.splitlines()[-1]
    else:
        assert "summary: " not in out and err.startswith("warning: ") and reason in err


def examine_on(folder: Path, disk: str) -> None:
    """Run the command in a folder on a small disk; its output goes to files beside it."""
    if not mount_disk(folder / "cwd"):
        sys.exit(NO_DISK)
    os.chdir(folder / "cwd")
    room = os.statvfs(".")
    if disk == "read-only":
        remount_read_only(folder / "cwd")
    else:
        rest = 4 << 20 if disk == "nearly full" else 0
        Path("junk").write_bytes(bytes(room.f_bavail * room.f_frsize - rest))
    redirect(str(folder / "out"), str(folder / "err"))
    sys.argv = sys.orig_argv = ["pcam_lightning.doctor"]
    examination.probe_torch = lambda: FACTS
    examination.cluster.is_cluster = lambda: False
    from pcam_lightning.doctor.__main__ import main

    main()
