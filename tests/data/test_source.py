"""Data set of a run: a named folder is never replaced by the demo set."""

from pathlib import Path
from typing import Any

import pytest

from pcam_lightning.data.layout import missing_files
from pcam_lightning.data.source import find_root, find_source, recorded_root
from pcam_lightning.errors import InputError


def section(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    demo = {"parent": str(tmp_path / "demo"), "seed": 0, "train": 16, "valid": 16, "test": 16}
    demo |= {"dtype": "uint8", "damage": False}
    return {"root": None, "default_root": None, "on_missing": "demo", "demo": demo} | changes


@pytest.mark.parametrize("root", ["nowhere", "", "data/pcam"])
def test_a_named_root_that_lacks_files_is_an_error(tmp_path: Path, root: str) -> None:
    with pytest.raises(InputError, match=r"data\.root="):
        find_source(section(tmp_path, root=root, default_root=root))
    assert not (tmp_path / "demo").exists()


def test_the_demo_set_replaces_the_default_root_only(tmp_path: Path) -> None:
    source = find_source(section(tmp_path, default_root=str(tmp_path / "nowhere")))
    assert source.name == "demo" and not missing_files(source.root)
    with pytest.raises(InputError, match="nowhere"):
        find_source(section(tmp_path, default_root="nowhere", on_missing="error"))


def test_the_default_root_is_used_if_it_has_the_files(tmp_path: Path, pcam_root: Path) -> None:
    data = section(tmp_path, default_root=str(pcam_root))
    assert find_source(data).name == "pcam" and find_root(data) == pcam_root


def test_the_data_set_of_a_finished_run_is_selected_again(tmp_path: Path) -> None:
    assert recorded_root({"name": "demo", "root": "/a"}) == {
        "root": None,
        "default_root": None,
        "on_missing": "error",
    }
    assert recorded_root({"name": "pcam", "root": "/a"})["root"] == "/a"
    with pytest.raises(InputError, match="dataset"):
        recorded_root({})
