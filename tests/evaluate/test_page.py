"""Tests of the report page."""

import re
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


def page(folder: Path, tables: dict[str, pd.DataFrame], plots: bool, subject: str = "") -> str:
    analysis: Analysis = analyze(tables, "test", 0.5, resamples=100, gallery=2)
    paths = write_analysis(folder, analysis, tables, "dataset: demo") if plots else {}
    generator = np.random.default_rng(0)
    galleries = [
        Gallery(each, generator.integers(0, 256, (len(each.rows), 96, 96, 3), dtype=np.uint8))
        for each in analysis.selections
    ]
    extra = {"dataset": "demo", "subject": subject, "inference": None, "attribution": None}
    write_page(folder / "page.html", analysis.summary | extra, analysis, paths, galleries)
    return (folder / "page.html").read_text(encoding="utf-8")


def test_the_page_contains_all_pictures_and_loads_nothing(tmp_path: Path, tables) -> None:
    markup = "<img src=x onerror=alert(1)>"
    tables["test"]["slide"] = np.where(np.arange(120) < 60, markup, "b")
    text = page(tmp_path, tables, plots=True, subject=f"Checkpoint {markup}.")
    plots = len(list((tmp_path / "plots").iterdir()))
    patches = 3 * 2 + text.count('id="worst_slice"') * 2
    assert text.count("data:image/png;base64,") == plots + patches
    assert "synthetic patches" in text
    # Text from files is escaped, and the browser must not load or run anything.
    assert "<img src=x" not in text and "<script" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 1
    assert "Content-Security-Policy" in text and "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)


def test_undefined_is_a_dash(tmp_path: Path, tables) -> None:
    tables["test"]["label"] = 0
    text = page(tmp_path, tables, plots=False)
    assert "<tr><td>auroc</td>" in text and ">-</td>" in text
    assert "nan" not in text.split("<h2", 1)[1].lower().split("data:image")[0]
    assert [number(value) for value in (None, np.nan, 0.0)] == ["-", "-", "0.000"]


def test_analysis_and_report_import_neither_torch_nor_hydra() -> None:
    modules = "analysis, page, report, selection, slices"
    program = (
        f"import sys; from pcam_lightning.evaluate import {modules}\n"
        "assert not {'torch', 'lightning', 'hydra', 'captum'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
