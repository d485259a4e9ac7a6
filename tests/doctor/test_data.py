"""Findings about the data folder."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import pytest
from command_processes import CONTEXT
from pcam_layouts import packed

from pcam_lightning.doctor.data import examine
from pcam_lightning.doctor.finding import Finding

X = "camelyonpatch_level_2_split_train_x.h5"


def settings(root: Path | None, **more: Any) -> dict[str, Any]:
    data = {"root": None if root is None else str(root), "default_root": None, "keys": None}
    data |= {"on_missing": "demo", "cache": True, "cache_dir": None, "demo": {"parent": "demo"}}
    return data | more


def found(data: dict[str, Any], digests: bool = False) -> dict[str, Finding]:
    return {each.name: each for each in examine(data, digests)}


def test_a_missing_default_folder_means_the_demo_set(tmp_path: Path) -> None:
    default = {"default_root": str(tmp_path / "absent")}
    assert found(settings(None, **default))["data"].level == "yellow"
    assert found(settings(None, **default, on_missing="download"))["data"].level == "red"
    assert found(settings(None))["data"].level == "green"


def test_a_named_folder_without_a_file_is_red(pcam_root: Path) -> None:
    (pcam_root / X).unlink()
    finding = found(settings(pcam_root))["data"]
    assert finding.level == "red" and X in finding.fact
    assert finding.mend == f"python -m pcam_lightning.download root={pcam_root}"


def test_a_wrong_shape_is_red_and_the_other_splits_are_examined(pcam_root: Path) -> None:
    with h5py.File(pcam_root / X, "w") as file:
        file["x"] = [[1, 2], [3, 4]]
    findings = found(settings(pcam_root))
    assert findings["train"].level == "red" and X in findings["train"].fact
    assert findings["valid"].level == findings["test"].level == "green"


def test_packed_files_stay_packed(pcam_root: Path) -> None:
    packed(pcam_root)
    before = sorted(pcam_root.iterdir())
    assert {each.level for each in found(settings(pcam_root)).values()} == {"green"}
    assert sorted(pcam_root.iterdir()) == before


def test_other_files_than_the_official_ones_are_yellow(pcam_root: Path) -> None:
    assert found(settings(pcam_root), digests=True)["digests"].level == "yellow"


def examine_as_nobody(root: Path, out: Any) -> None:
    """Send the levels of all findings by name, as a user without rights sees them."""
    from pcam_lightning.data import cache, source  # noqa: F401  (may lie in a closed folder)

    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    out.send({name: each.level for name, each in found(settings(root)).items()})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("mode", "converted", "expected"),
    [
        (0o555, False, {"data": "green", "train": "green", "copies": "green"}),
        (0o555, True, {"data": "green", "train": "green", "copies": "yellow"}),
        (0o700, False, {"data": "red"}),
    ],
)
def test_folders_of_another_user(
    mode: int, converted: bool, expected: dict[str, str], pcam_root: Path
) -> None:
    if converted:
        with h5py.File(pcam_root / X, "r+") as file:
            pixels = file["x"][()].astype("float32")  # type: ignore[index]
            del file["x"]
            file["x"] = pixels
    with tempfile.TemporaryDirectory() as folder:  # that of pytest is closed to others
        Path(folder).chmod(0o755)
        root = shutil.copytree(pcam_root, Path(folder, "pcam"))
        root.chmod(mode)
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=examine_as_nobody, args=(root, sender))
        process.start()
        sender.close()
        levels = receiver.recv()
        process.join()
    assert expected.items() <= levels.items()
