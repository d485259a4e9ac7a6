import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pcam_lightning.evaluate.analysis import Analysis, analyze, write_analysis
from pcam_lightning.evaluate.page import Gallery, number, write_page
from pcam_lightning.metrics.predictions import sigmoid


@pytest.fixture
def tables() -> dict[str, pd.DataFrame]:
    found = {}
    for seed, split in enumerate(("val", "test")):
        generator = np.random.default_rng(seed)
        label = generator.integers(2, size=120)
        logit = generator.normal(2.0 * label - 1, 1)
        found[split] = pd.DataFrame(
            {"row": np.arange(120), "label": label, "logit": logit, "probability": sigmoid(logit)}
        )
    return found


def page(folder: Path, tables: dict[str, pd.DataFrame], name: str = "demo", **options) -> str:
    analysis: Analysis = analyze(tables, "test", 0.5, resamples=100, gallery=2, **options)
    plots = write_analysis(folder, analysis, tables, f"dataset: {name}")
    generator = np.random.default_rng(0)
    galleries = [
        Gallery(each, generator.integers(0, 256, (len(each.rows), 96, 96, 3), dtype=np.uint8))
        for each in analysis.selections
    ]
    extra = {"dataset": name, "subject": f"Run {name}", "inference": None, "attribution": None}
    write_page(folder / "page.html", analysis.summary | extra, analysis, plots, galleries)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_everything_is_in_the_page(tmp_path: Path, tables) -> None:
    text = page(tmp_path, tables)
    plots = len(list((tmp_path / "plots").iterdir()))
    assert text.count("data:image/png;base64,") == plots + 6  # two patches of each exhibit
    assert "made-up patches that say nothing about real tissue" in text
    assert "http" not in text.replace("http-equiv", "")


def test_names_are_escaped(tmp_path: Path, tables) -> None:
    evil = "<img src=x onerror=alert(1)>"
    tables["test"]["slide"] = np.where(np.arange(120) < 60, evil, "b")
    text = page(tmp_path, tables, evil)
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_undefined_is_a_dash(tmp_path: Path, tables) -> None:
    tables["test"]["label"] = 0
    text = page(tmp_path, tables)
    assert "<tr><td>auroc</td>" in text and ">-</td>" in text
    assert "nan" not in text.split("<h2", 1)[1].lower().replace("base64", "").split("data:image")[0]
    assert [number(value) for value in (None, np.nan, 0.0)] == ["-", "-", "0.000"]


def test_the_room_knows_nothing_of_torch_lightning_and_hydra() -> None:
    rooms = "analysis, page, report, selection, slices"
    program = (
        f"import sys; from pcam_lightning.evaluate import {rooms}\n"
        "assert not {'torch', 'lightning', 'hydra', 'captum'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
