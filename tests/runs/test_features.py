"""`features.json` is what training wrote, or one line names it."""

import json
from pathlib import Path
from typing import get_args

import pytest

from pcam_lightning.data.patch_features import FEATURES
from pcam_lightning.runs.features import Name, read_features, write_features
from pcam_lightning.runs.files import RunFileError

SOUND = {"patches": 2, "quantiles": {"hue": [300.0, 310.0]}}


def test_written_features_are_read(tmp_path: Path) -> None:
    assert read_features(tmp_path) is None
    write_features(tmp_path, SOUND)
    assert read_features(tmp_path) == SOUND


def test_the_names_are_those_of_the_features() -> None:
    assert get_args(Name) == tuple(FEATURES)


@pytest.mark.parametrize(
    "damaged",
    [
        {"patches": 0},
        {"quantiles": {"color": [0.0, 1.0]}},
        {"quantiles": {"hue": []}},
        {"quantiles": {"hue": ["a", "b"]}},
        {"quantiles": None},
    ],
)
def test_damaged_features_are_one_line(tmp_path: Path, damaged) -> None:
    (tmp_path / "features.json").write_text(json.dumps(SOUND | damaged))
    with pytest.raises(RunFileError, match=r"features\.json") as caught:
        read_features(tmp_path)
    assert "\n" not in str(caught.value)
