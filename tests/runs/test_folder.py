"""`move_folder` compares paths by their parts."""

import pytest

from pcam_lightning.runs.folder import move_folder

# Moved from /sweep/1 to /twin: a value is moved if it is the folder or a path into it.
VALUES = {
    "/sweep/1": "/twin",
    "/sweep/1/": "/twin",
    "/sweep/1/checkpoints/last.ckpt": "/twin/checkpoints/last.ckpt",
    "/sweep/10": "/sweep/10",
    "/sweep/10/checkpoints": "/sweep/10/checkpoints",
    "/sweep": "/sweep",
    "/sweep/1.5": "/sweep/1.5",
    "/data/sweep/1": "/data/sweep/1",
    "sweep/1": "sweep/1",
    "a note on /sweep/1/checkpoints": "a note on /sweep/1/checkpoints",
    "file:/sweep/1/db": "file:/sweep/1/db",
    "": "",
    ".": ".",
}


@pytest.mark.parametrize("value", VALUES)
def test_values(value: str) -> None:
    assert move_folder(value, "/sweep/1", "/twin") == VALUES[value]


def test_only_values_of_every_depth_are_moved() -> None:
    config = {"/sweep/1": [{"path": "/sweep/1/a"}, "/sweep/1/b", 1, None, 0.5, True]}
    moved = {"/sweep/1": [{"path": "/t/a"}, "/t/b", 1, None, 0.5, True]}
    assert move_folder(config, "/sweep/1", "/t") == moved


def test_quotes_and_backslashes_in_names() -> None:
    assert move_folder('/a"b\\/x', '/a"b\\', "/c") == "/c/x"
