from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.image import imread

from pcam_lightning.benchmark.plots import draw
from pcam_lightning.benchmark.report import saturation_points, write_tables

SPEEDS = {1: 100.0, 2: 190.0, 4: 285.0, 8: 296.0, 16: 300.0, 32: None}


def rows() -> list[dict[str, Any]]:
    return [
        {"contender": "pcam_lightning", "model": "cnn", "batch_size": size}
        | {"precision": precision, "device": "cpu", "waiting": 0.125}
        | {"median": speed and factor * speed, "low": speed and 0.9 * factor * speed}
        | {"high": speed and 1.1 * factor * speed}
        for precision, factor in (("32-true", 1.0), ("bf16-mixed", 2.0))
        for size, speed in reversed(SPEEDS.items())
    ]


def test_saturation_is_the_smallest_batch_near_the_highest_speed() -> None:
    found = {each["precision"]: each for each in saturation_points(rows())}
    assert {name: each["batch_size"] for name, each in found.items()} == {
        "32-true": 4,
        "bf16-mixed": 4,
    }
    assert found["bf16-mixed"]["median"] == 570
    assert saturation_points(rows()[:2]) == []


def test_the_csv_has_every_number_and_the_markdown_table_is_short(tmp_path: Path) -> None:
    write_tables(tmp_path, rows(), "patches/s")
    table = pd.read_csv(tmp_path / "table.csv")
    assert len(table) == 12 and set(rows()[0]) == set(table.columns)
    assert table["median"].tolist()[1:3] == [300.0, 296.0]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "|  | batch | precision | patches/s | waiting |"
    assert lines[2] == "| pcam_lightning | 32 | 32-true | out of memory | 12.5% |"
    assert lines[3] == "| pcam_lightning | 16 | 32-true | 300 ±10% | 12.5% |"
    assert "model" not in lines[0]  # the same in every row


@pytest.mark.parametrize(
    ("kept", "plots"), [(12, {"by_batch_size.png", "by_precision.png"}), (1, set())]
)
def test_plots_show_columns_in_which_rows_differ(
    tmp_path: Path, kept: int, plots: set[str]
) -> None:
    draw(tmp_path / "plots", rows()[-kept:], "dataset: demo")
    assert {path.name for path in tmp_path.glob("plots/*")} == plots
    for name in plots:
        assert imread(tmp_path / "plots" / name).std() > 0.01
