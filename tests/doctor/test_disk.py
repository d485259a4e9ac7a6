"""Disks, quotas and locks."""

import fcntl
from pathlib import Path

import pytest

from pcam_lightning.doctor import disk, locks


def script(folder: Path, monkeypatch, text: str) -> None:
    (folder / "quota").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "quota").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_little_space_is_yellow_and_nothing_is_left(tmp_path: Path, monkeypatch) -> None:
    assert disk.examine_outputs(tmp_path / "absent" / "outputs").level == "green"
    monkeypatch.setattr(disk, "LOW_BYTES", 1 << 60)
    finding = disk.examine_outputs(tmp_path)
    assert finding.level == "yellow" and str(tmp_path) in finding.fact
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("used", "level"), [("4096M 10G 12G 100 0 0", "green"), ("11G* 10G 12G 6days 9 0 0", "yellow")]
)
def test_a_quota(used: str, level: str, tmp_path: Path, monkeypatch) -> None:
    header = "Filesystem space quota limit grace files quota limit grace"
    script(tmp_path, monkeypatch, f"echo 'Disk quotas for user me:'; echo '{header}'\n"
           f"echo '/dev/sda1 {used}'")  # fmt: skip
    (finding,) = disk.examine_quota()
    assert finding.level == level and "/dev/sda1" in finding.fact and "10G" in finding.fact


def test_locks_of_this_disk_exclude_another_process(tmp_path: Path) -> None:
    (finding,) = locks.examine(tmp_path)
    assert finding.level == "green" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("function", ["flock", "lockf"])
def test_locks_that_exclude_nobody_are_yellow(function: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, function, lambda *_: None)  # the child still takes a real lock
    (finding,) = locks.examine(tmp_path)
    assert finding.level == "yellow" and locks.KINDS[function] in finding.fact


def test_locks_of_one_machine_are_yellow(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "1 0 0:1 / / rw - ext4 /dev/sda rw\n"
        f"2 1 0:2 / {tmp_path} rw - nfs4 server:/home rw,vers=4.2,local_lock=flock\n"
    )
    (finding,) = locks.examine(tmp_path, mounts)
    assert finding.level == "yellow" and "nfs4" in finding.fact and "local_lock" in finding.fact
