import json
from pathlib import Path

import pytest

from pcam_lightning.runs import Run
from pcam_lightning.runs.status import RunFileError
from pcam_lightning.runs.threshold import Threshold, read_threshold, write_threshold

THRESHOLD = Threshold(
    value=0.25,
    rule="recall>=0.95",
    temperature=1.5,
    tta="none",
    checkpoint="best.ckpt",
    weights_digest="0a",
    dataset={"name": "demo", "fingerprint": None},
    validation={"rows": 3, "tumours": 1, "metrics": {"f2": 0.5}},
)


def test_a_threshold_reads_back(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text("{}")
    assert read_threshold(tmp_path) is None and Run(tmp_path).threshold is None
    path = write_threshold(tmp_path, THRESHOLD)
    assert path == tmp_path / "threshold.json"
    assert Run(tmp_path).threshold == THRESHOLD
    assert sorted(each.name for each in tmp_path.iterdir()) == ["status.json", "threshold.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": None}, "value=None"),
        ({"value": "0.5"}, "value='0.5'"),
        ({"value": True}, "value=True"),
        ({"value": -0.1}, "value=-0.1"),
        ({"value": 1.5}, "value=1.5"),
        ({"temperature": 0}, "temperature=0"),
        ({"tta": "d8"}, "tta='d8'"),
    ],
)
def test_an_invalid_threshold_is_rejected(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "threshold.json").write_text(json.dumps(THRESHOLD.model_dump() | change))
    with pytest.raises(RunFileError, match=r"threshold\.json") as caught:
        read_threshold(tmp_path)
    assert message in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "threshold.json").write_text('{"value": 0.5}')
    with pytest.raises(RunFileError, match=r"threshold\.json: rule"):
        read_threshold(tmp_path)
