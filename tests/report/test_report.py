"""The command `report`: its numbers against the files, its page in a browser, hostile folders."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import check_folders as made
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pcam_lightning.report.sections import gradients, search
from pcam_lightning.report.sections.gradients import CHARTS

TITLES = """Verdict, Reproducibility, Data and leakage, Configuration, Gradients and learning rate,
Experiment tracking, Search, Slices and errors, Throughput, Handover""".replace("\n", " ").split(
    ", "
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    made.write_sound(folder)
    Image.new("RGB", (300, 200), (200, 100, 150)).save(folder / "picture.png")
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "folders")


@pytest.fixture
def report(command, plots, root: Path, monkeypatch):
    """Write a report about `root`; return its folder and its `report.json`.

    The figures drawn for the report are small and empty, to save time; `test_page.py` draws them.
    """
    small = Figure(figsize=(1, 1))
    monkeypatch.setattr(gradients, "plot_histories", lambda _: small)
    monkeypatch.setattr(search, "figures_of", lambda *_: {"seeds.png": small})

    def write(*arguments: str) -> tuple[Path, dict[str, Any]]:
        code, out, err = command(f"inputs={root}", "hydra.run.dir=made", *arguments, name="report")
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == f"summary: {Path('made/summary.json').absolute()}"
        folder = Path("made").absolute()
        return folder, json.loads((folder / "report.json").read_text())

    return write


def table(found: dict[str, Any], title: str) -> pd.DataFrame:
    """Return the table whose title begins with these words."""
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    (block,) = [each for each in blocks if each.get("title", "").startswith(title)]
    frame = pd.DataFrame(block["rows"])
    frame.columns = block["columns"]
    return frame


def texts(found: dict[str, Any], kind: str) -> list[str]:
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    return [block["text"] for block in blocks if block.get("kind") == kind]


class Tables(HTMLParser):
    """The text and the sort keys of all table cells of a page, by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[str, str]]] = []
        self.key: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.key = dict(attrs)["data-key"] or ""
            self.rows[-1].append((self.key, ""))

    def handle_endtag(self, tag: str) -> None:
        self.key = None if tag == "td" else self.key

    def handle_data(self, data: str) -> None:
        if self.key is not None:
            key, text = self.rows[-1][-1]
            self.rows[-1][-1] = (key, text + data)


def test_sections_are_in_the_order_of_a_journal(report) -> None:
    folder, found = report()
    assert [section["title"] for section in found["sections"]] == TITLES
    for text in ((folder / "report.html").read_text(), (folder / "report.md").read_text()):
        places = [text.rindex(title) for title in TITLES]
        assert places == sorted(places)


def test_every_number_of_training_comes_from_the_files(report, root: Path) -> None:
    _, found = report()
    summaries = [json.loads((run / "summary.json").read_text()) for run in made.runs(root)]
    manifests = [json.loads((run / "manifest.json").read_text()) for run in made.runs(root)]

    def scores(split: str, name: str) -> np.ndarray:
        return np.array([each[split]["metrics"][name]["value"] for each in summaries])

    runs = table(found, "Training runs")
    assert runs["seed"].tolist() == [each["seed"] for each in manifests]
    for column in ("val auroc", "test auroc", "test f2", "test accuracy"):
        np.testing.assert_array_equal(runs[column], scores(*column.split()))
    ends = [each["test"]["metrics"]["auroc"] for each in summaries]
    assert runs["from"].tolist() == [each["low"] for each in ends]
    assert runs["to"].tolist() == [each["high"] for each in ends]

    seeds = table(found, "Scores over seeds")
    rates = np.array([each["config"]["optimizer"]["lr"] for each in manifests])
    for _, row in seeds.iterrows():
        chosen = rates == float(str(row["configuration"]).removeprefix("optimizer.lr="))
        assert row["seeds"] == chosen.sum() == 3
        means = [row.iloc[place] for place in range(2, 10, 2)]
        spreads = [row.iloc[place] for place in range(3, 11, 2)]
        pairs = (("val", "auroc"), ("test", "auroc"), ("test", "f2"), ("test", "accuracy"))
        for (split, name), mean, spread in zip(pairs, means, spreads, strict=True):
            values = scores(split, name)[chosen]
            assert mean == pytest.approx(values.mean())
            assert spread == pytest.approx(values.std(ddof=1))

    differ = table(found, "Settings in which runs differ")
    assert differ["optimizer.lr"].tolist() == rates.tolist()

    constants = table(found, "Choice of the metric").set_index("metric")
    # The best configuration's best run by validation AUROC.
    best = int(np.argmax(np.where(rates == 0.01, scores("val", "auroc"), 0)))
    for name, row in constants.iterrows():
        test = summaries[best]["test"]
        assert row["test"] == test["metrics"][name]["value"]
        assert row["all tumour"] == test["baselines"]["all_tumour"][name]

    gradients = table(found, "Gradients").to_dict("records")
    for run, row in zip(made.runs(root), gradients, strict=True):
        steps = pd.read_parquet(run / "gradients.parquet")
        assert row["steps"] == len(steps)
        assert row["median norm"] == pytest.approx(steps["norm"].median())
        assert row["largest norm"] == steps["norm"].max()
        assert row["spikes"] == steps["rows"].notna().sum()
        assert row["loss, last tenth"] == pytest.approx(steps["loss"].tail(10).mean())

    space = table(found, "Space").set_index("key")
    assert space.loc["optimizer.lr", "best"] == "0.01"
    glance = dict(table(found, "At a glance").to_numpy().tolist())
    chosen = rates == 0.01
    for split, name in (("val", "auroc"), ("test", "f2")):
        values = scores(split, name)[chosen]
        expected = f"{values.mean():.4f} ± {values.std(ddof=1):.4f} over seeds"
        assert glance[f"{split} {name}"].startswith(expected)


def test_every_number_of_other_commands_comes_from_the_files(report, root: Path) -> None:
    made.edit(
        root / "audit/audit.json",
        {"splits/train/tumour": 250, "splits/train/intensity": {"mean": 99.5, "label_auroc": 0.6}}
        | {"findings/duplicate": {"train": 3, "valid": 0, "test": 1}},
    )
    _, found = report()
    splits = table(found, "Splits").set_index("split")
    assert splits.loc["train", ["patches", "tumour", "slides"]].tolist() == [1000, 0.25, 8]
    assert splits.loc["train", "AUROC of intensity"] == 0.6
    findings = table(found, "Findings").set_index("finding")
    assert findings.loc["duplicate", ["train", "valid", "test"]].tolist() == [3, 0, 1]

    calibration = table(found, "Calibration").set_index("calibration")
    summary = json.loads((root / "evaluate/summary.json").read_text())
    for name, facts in summary["calibration"].items():
        assert calibration.loc[name, "error"] == facts["ece"]["value"]
        assert calibration.loc[name, "if perfect"] == facts["ece"]["if_perfect"]
    (row,) = table(found, "Benchmarks").to_dict("records")
    (expected,) = json.loads((root / "benchmark/summary.json").read_text())["rows"]
    assert {key: row[key] for key in ("median", "waiting", "overhead")} == {
        key: expected[key] for key in ("median", "waiting", "overhead")
    }
    for title, name in (("Exported models", "export"), ("Bundles", "bundle")):
        (row,) = table(found, title).to_dict("records")
        summary = json.loads((root / name / "summary.json").read_text())
        compared = summary["files"]["model.onnx"] if name == "export" else summary["model"]
        assert row["largest difference"] == compared["largest_difference"]
    assert table(found, "Repeated runs")["identical"].tolist() == ["yes"]


def test_the_page_shows_what_the_json_holds(report) -> None:
    folder, found = report()
    shown = [row for row in Tables((folder / "report.html").read_text()).rows if row]
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    held = [row for block in blocks if block["type"] == "table" for row in block["rows"]]
    assert len(shown) == len(held) > 60
    for cells, values in zip(shown, held, strict=True):
        for (key, text), value in zip(cells, values, strict=True):
            if value is None:
                assert (key, text) == ("", "-")
            elif isinstance(value, str):
                assert key == value
            else:
                assert float(key) == value
                # As many digits as are shown agree with the number.
                number = re.fullmatch(r"(-?[\d,]+(\.\d+)?(e[-+]\d+)?)(%?)", text)
                assert number, text
                scale = 100 if number[4] else 1
                assert float(number[1].replace(",", "")) / scale == pytest.approx(value, rel=0.06)


def test_each_figure_names_its_origin(report) -> None:
    folder, found = report()
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    sources = [block["source"] for block in blocks if block.get("source")]
    assert len(sources) > 10
    text = html.unescape((folder / "report.html").read_text())
    for source in sources:
        assert source["files"] and source["command"].startswith("python")
        assert source["dataset"].startswith(("pcam (ffffffff)", "not recorded"))
        assert source["files"][0] in text and source["command"] in text


def test_a_section_without_input_names_the_command(command, plots, root: Path) -> None:
    code, _, _ = command(f"inputs={root / 'audit'}", "hydra.run.dir=made", name="report")
    assert code == 0
    found = json.loads(Path("made/report.json").read_text())
    named = "\n".join(texts(found, "missing"))
    for name in ("train", "reproduce", "evaluate", "benchmark", "export", "bundle"):
        assert f"python -m pcam_lightning.{name}" in named
    assert "python -m pcam_lightning.audit" not in named


def test_demo_results_are_marked(report, root: Path) -> None:
    folder, _ = report()
    assert 'class="tag">demo' not in (folder / "report.html").read_text()
    shutil.rmtree(folder)
    made.edit(root / "sweep/0/manifest.json", {"dataset/name": "demo"})
    folder, found = report()
    page = (folder / "report.html").read_text()
    assert 'class="tag">demo' in page and 'class="demo"' in page
    assert any("real tissue" in text for text in texts(found, "warning"))
    assert "real tissue" in (folder / "report.md").read_text()


def test_notes_join_their_sections_again_and_again(report, root: Path) -> None:
    notes = root.parent / "notes.md"
    notes.write_text(
        "Read me first.\n\n# Data and leakage\n\nThe *scanner* was changed.\n\n"
        "```\n# no heading\n```\n"
        "\n## My thoughts\n\n<script>alert(1)</script> [x](javascript:alert(1)) "
        "![y](http://e.org/y.png)\n"
    )
    for _ in range(2):
        folder, found = report(f"report.notes={notes}")
        sections = {section["title"]: section["blocks"] for section in found["sections"]}
        assert list(sections) == [*TITLES, "My thoughts"]
        held = {
            title: [block["markdown"] for block in blocks if block["type"] == "notes"]
            for title, blocks in sections.items()
        }
        assert held["Verdict"] == ["Read me first."]
        (own,) = held["Data and leakage"]
        assert own.startswith("The *scanner*") and "# no heading" in own
        page = (folder / "report.html").read_text()
        assert "<em>scanner</em>" in page and "<script>alert" not in page
        assert 'href="javascript' not in page and '<img src="http' not in page
        assert "The *scanner* was changed." in (folder / "report.md").read_text()
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["report.notes=missing.md"], "missing.md"),
        (["inputs=nowhere"], "nowhere"),
        (["inputs=[]"], "inputs"),
        (["report.title=''"], "report.title"),
    ],
)
def test_invalid_input(command, root: Path, arguments: list[str], named: str) -> None:
    code, _, err = command(f"inputs={root}", "hydra.run.dir=made", *arguments, name="report")
    assert code == 2 and len(err.splitlines()) == 1 and named in err
    assert not Path("made/status.json").exists() and not Path("made/report.html").exists()


def test_names_and_pictures_of_strangers_are_only_shown(report, root: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = root / "sweep" / "<script>alert(1)<" / "script>"
    shutil.copytree(root / "sweep/0", folder)
    made.edit(root / "sweep/1/manifest.json", {"dataset/name": evil, "git/commit": evil})
    made.edit(root / "sweep/2/status.json", {"state": "failed", "error": {"text": evil}})
    made.edit(root / "evaluate/summary.json", {"galleries": {"../../picture": 3, "misses": 3}})
    for name, content in (("gradient_norm", b"GIF89a"), ("gradient_layers", b"\x89PNG\r\n\x1a\n")):
        for run in made.runs(root):
            (run / "plots").mkdir(exist_ok=True)
            (run / "plots" / f"{name}.png").write_bytes(content)
    written, found = report()
    page = (written / "report.html").read_text()
    assert page.count("<script") == 1 and "&lt;script&gt;alert(1)&lt;" in page
    assert (
        sum("no PNG" in text or "not a readable PNG" in text for text in texts(found, "warning"))
        == 2
    )
    names = [each for section in found["sections"] for each in section["blocks"]]
    assert not any("picture" in each.get("title", "") for each in names)


def test_pictures_are_copied_as_pixels(report, root: Path) -> None:
    for run in made.runs(root):
        for name in CHARTS:
            (run / "plots").mkdir(exist_ok=True)
            path = run / "plots" / f"{name}.png"
            path.write_bytes((root / "picture.png").read_bytes() + b"<script>hidden</script>")
    folder, found = report()
    blocks = [block for section in found["sections"] for block in section["blocks"]]
    files = [folder / block["file"] for block in blocks if block["type"] == "picture"]
    own = [each for each in files if b"hidden" in each.read_bytes()]
    assert not own and len(files) >= len(CHARTS)
    text = (folder / "report.md").read_text()
    assert all(f"<{each.relative_to(folder)}>" in text for each in files)
    shown = [each for each in files if each.stem.partition("_")[2] in CHARTS]
    with Image.open(shown[0]) as image:
        assert image.size == (300, 200)
        red, green, blue = image.convert("RGB").getpixel((9, 9))  # type: ignore[misc]
        assert (abs(red - 200) + abs(green - 100) + abs(blue - 150)) < 30


def test_pictures_beyond_the_limit_are_named(report, root: Path, monkeypatch) -> None:
    monkeypatch.setattr("pcam_lightning.report.document.PICTURE_BYTES", 0)
    folder, found = report()
    assert not list((folder / "pictures").glob("*")) if (folder / "pictures").exists() else True
    assert any("Not shown" in text and "metrics.csv" in text for text in texts(found, "warning"))


@pytest.mark.slow
def test_two_hundred_runs_make_a_small_page(command, plots, root: Path) -> None:
    for number in range(191):
        shutil.copytree(root / "sweep" / str(number % 9), root / "sweep" / f"copy{number}")
    code, _, _ = command(f"inputs={root}", "hydra.run.dir=made", name="report")
    assert code == 0
    found = json.loads(Path("made/report.json").read_text())
    assert len(table(found, "Training runs")) == 200
    assert Path("made/report.html").stat().st_size < 30e6


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("bundle/summary.json", "archive", {}),
        ("export/summary.json", "files", ["a", {"b": 1}]),
        ("export/summary.json", "files", {"../../etc/passwd": 1}),
        ("benchmark/summary.json", "said", {"a": None}),
        ("compare/summary.json", "verdict", [1, {"x": "y"}]),
        ("evaluate/summary.json", "slices/worse", [None, 3, {"slice": []}]),
        ("evaluate/summary.json", "galleries", {"left_out": 1, "misses": 3}),
        ("reproduce/summary.json", "identical", "yes"),
        ("audit/audit.json", "splits/train", {"rows": "many", "storage": []}),
        ("sweep/0/manifest.json", "hardware", {"gpus": 3, "cpu": []}),
        ("sweep/0/summary.json", "seconds", None),
        ("sweep/0/manifest.json", "dataset", None),
    ],
)
def test_odd_values_are_no_bug(report, root: Path, file: str, key: str, value: Any) -> None:
    path = root / file
    content = json.loads(path.read_text())
    *sections, last = key.split("/")
    section = content
    for name in sections:
        section = section[name]
    section[last] = value
    path.write_text(json.dumps(content))
    report()
