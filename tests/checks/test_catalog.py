"""The contract of every check: it fires, it is silent, and it names a missing input."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import check_folders as made
import numpy as np
import pytest
from check_folders import edit, runs, write_audit, write_gradients, write_history

from pcam_lightning.checks.catalog import CHECKS, run_checks
from pcam_lightning.checks.inputs import Inputs, find_inputs
from pcam_lightning.checks.outcome import Outcome
from pcam_lightning.config.schema import ROOTS

DOCS = Path(__file__).parents[2] / "docs" / "checks.md"

Change = Callable[[Path], object]
LOGITS = np.where(np.arange(made.ROWS) % 2, 1.0, -1.0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    made.write_sound(folder)
    return folder


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "folders")


def on_summaries(**changes: object) -> Change:
    return lambda root: [edit(run / "summary.json", changes) for run in runs(root)]


def on_manifests(**changes: object) -> Change:
    return lambda root: [edit(run / "manifest.json", changes) for run in runs(root)]


def on(file: str, **changes: object) -> Change:
    return lambda root: edit(root / file, changes)


def without(name: str) -> Change:
    """Remove a file of every training run, or a whole folder."""

    def remove(root: Path) -> None:
        if (root / name).is_dir():
            shutil.rmtree(root / name)
        else:
            [(run / name).unlink() for run in runs(root)]

    return remove


def audited(*findings: tuple[str, int, str, str]) -> Change:
    return lambda root: write_audit(root / "audit", list(findings))


def threshold_too_high(root: Path) -> None:
    for split in ("val", "test"):
        path = root / f"sweep/0/predictions/{split}.parquet"
        label = np.arange(made.ROWS) % 2
        made.write_predictions(path, np.arange(made.ROWS), label, LOGITS - 2)


def history(*auroc: float) -> Change:
    return lambda root: [write_history(run, list(auroc)) for run in runs(root)]


def gradients(**columns: object) -> Change:
    return lambda root: [write_gradients(run, **columns) for run in runs(root)]


def only(*numbers: int) -> Change:
    """Remove all training runs but these."""

    def remove(root: Path) -> None:
        for run in runs(root):
            if int(run.name) not in numbers:
                shutil.rmtree(run)

    return remove


def equal_scores(root: Path) -> None:
    for number, run in enumerate(runs(root)):
        edit(run / "summary.json", {"val/metrics/auroc/value": 0.9 + number % 3 / 100})


def best_at_the_edge(root: Path) -> None:
    for number in (0, 1, 2):
        edit(root / f"sweep/{number}/summary.json", {"val/metrics/auroc/value": 0.99})


COPIES = [("test", 3, "cross_split_duplicate", "train:5"), ("test", 7, "duplicate", "test:1")]
HOLES = [("train", row, "black", "0.1") for row in range(1, 9)]
WORSE = {"property": "hue", "slice": "from 300", "metrics": ["sensitivity"], "note": ""}

CASES: dict[str, tuple[str, Change, Change | None]] = {
    "PC001": ("issue", on("sweep/0/status.json", state="failed", error="no memory"), None),
    "PC101": (
        "issue",
        on("sweep/0/summary.json", **{"test/beaten_by_constant": ["accuracy", "f2"]}),
        on_summaries(test=None),
    ),
    "PC102": ("tip", threshold_too_high, without("predictions/val.parquet")),
    "PC103": (
        "issue",
        on("sweep/0/summary.json", **{"test/metrics/auroc": dict(value=0.6, low=0.55, high=0.65)}),
        on_summaries(**{"test/metrics/auroc/low": None}),
    ),
    "PC201": ("tip", history(0.7, 0.8, 0.9), history(0.7)),
    "PC202": ("issue", history(0.9, *np.linspace(0.8, 0.7, 7)), history(0.9, 0.8)),
    "PC203": (
        "issue",
        gradients(loss=np.full(100, 0.69)),
        without("gradients.parquet"),
    ),
    "PC204": (
        "tip",
        gradients(norm=np.full(100, 5.0), norm_clipped=np.ones(100)),
        on_manifests(**{"config/trainer/gradient_clip_val": None}),
    ),
    "PC205": ("issue", audited(*HOLES), without("audit")),
    "PC301": ("issue", only(0, 1, 2, 3), on_summaries(**{"val/metrics/auroc": None})),
    "PC302": ("tip", best_at_the_edge, only(0, 1, 2)),
    "PC303": ("issue", equal_scores, only(0, 3)),
    "PC401": ("issue", audited(*COPIES), without("audit")),
    "PC402": ("issue", audited(*COPIES), without("audit")),
    "PC403": (
        "issue",
        on("audit/audit.json", **{"findings/slide_overlap": {"train": 5, "test": 2}}),
        on("audit/audit.json", splits={"train": {"rows": 9, "slides": None}}),
    ),
    "PC404": ("issue", audited(*HOLES), without("audit")),
    "PC405": (
        "tip",
        on("sweep/0/manifest.json", **{"dataset/name": "demo"}),
        lambda root: [edit(each, {"dataset": None}) for each in root.rglob("manifest.json")],
    ),
    "PC501": (
        "issue",
        on("evaluate/summary.json", **{"calibration/after/ece/value": 0.2}),
        on("evaluate/summary.json", calibration=None),
    ),
    "PC502": (
        "issue",
        on("evaluate/summary.json", **{"slices/worse": [WORSE]}),
        on("evaluate/summary.json", slices=None),
    ),
    "PC503": (
        "tip",
        on("evaluate/summary.json", **{"attribution/in_center": {"misses": 0.1}}),
        on("evaluate/summary.json", attribution=None),
    ),
    "PC504": (
        "issue",
        on("evaluate/manifest.json", **{"dataset/fingerprint": "e" * 32}),
        without("sweep"),
    ),
    "PC601": (
        "tip",
        on("sweep/0/manifest.json", **{"hardware/gpus": [{"name": "H100"}]}),
        on_manifests(determinism=None),
    ),
    "PC602": ("issue", on("sweep/0/manifest.json", **{"git/commit": None}), without("sweep")),
    "PC603": (
        "issue",
        lambda root: (root / "sweep/0/environment.txt").write_text("torch==2.13\n"),
        only(0),
    ),
    "PC604": ("issue", on("reproduce/summary.json", identical=False), without("reproduce")),
    "PC605": ("issue", on("compare/compare.json", differences=[]), without("compare")),
    "PC701": (
        "tip",
        on("sweep/0/summary.json", waiting_for_data=0.4),
        on_summaries(waiting_for_data=None),
    ),
    "PC702": (
        "tip",
        on("benchmark/summary.json", rows=[{"contender": "ours", "overhead": 0.4}]),
        on("benchmark/summary.json", rows=[{"contender": "ours"}]),
    ),
    "PC801": (
        "issue",
        on("export/summary.json", **{"files/model.onnx/largest_difference": 0.3}),
        lambda root: [
            edit(root / "export/summary.json", {"files": {}}),
            shutil.rmtree(root / "bundle"),
        ],
    ),
    "PC802": (
        "tip",
        on(
            "sweep/0/manifest.json",
            backbone={
                "name": "hf-hub:a/b",
                "file": "/a/b",
                "license": "cc-by-nc-4.0",
                "network": {},
            },
        ),
        without("manifest.json"),
    ),
}
"""Code to the expected state, the change that makes the check fire, and the missing input."""


def outcomes(code: str, root: Path) -> list[Outcome]:
    return run_checks(find_inputs([root]), [check for check in CHECKS if check.code == code])


def test_sound_folders_pass_every_check(root: Path) -> None:
    found = run_checks(find_inputs([root]))
    assert [each for each in found if each.state != "passed"] == []
    assert {each.code for each in found} == {check.code for check in CHECKS}


@pytest.mark.parametrize("code", CASES)
def test_it_fires_on_a_folder_made_for_it(code: str, root: Path) -> None:
    state, change, _ = CASES[code]
    change(root)
    fired = [each for each in outcomes(code, root) if each.state in ("issue", "tip")]
    assert state in {each.state for each in fired}
    for each in fired:
        assert each.folder is not None and each.file is not None
        assert (each.folder / each.file).exists() or each.folder == root / "sweep"
        assert each.text and "\n" not in each.text


@pytest.mark.parametrize("code", CASES)
def test_it_is_not_applicable_without_its_input(code: str, root: Path) -> None:
    change = CASES[code][2]
    if change is None:
        found = run_checks(Inputs(()), [check for check in CHECKS if check.code == code])
    else:
        change(root)
        found = outcomes(code, root)
    assert {each.state for each in found} == {"not applicable"}
    for each in found:
        command = re.search(r"`python -m pcam_lightning\.(\w+)", each.text)
        assert command and command[1] in ROOTS


def test_codes_are_unique_and_each_has_a_case_and_a_section() -> None:
    codes = [check.code for check in CHECKS]
    assert len(set(codes)) == len(codes) and codes == sorted(codes)
    assert set(CASES) == set(codes)
    assert dict(sections()) == {check.code: check.title for check in CHECKS}


def sections() -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^### (PC\d{3}) (.*)$", DOCS.read_text(encoding="utf-8"), re.M)


def test_a_damaged_file_is_one_issue(root: Path) -> None:
    (root / "sweep/0/summary.json").write_text("{")
    found = [each for each in run_checks(find_inputs([root])) if each.state == "issue"]
    assert [each.code for each in found] == ["PC001"]
    assert "summary.json" in found[0].text and found[0].folder == root / "sweep/0"


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("sweep/0/summary.json", "waiting_for_data", "much"),
        ("sweep/0/summary.json", "data", {"rows": {"train": -1}}),
        ("sweep/0/summary.json", "val/metrics/auroc/low", "low"),
        ("sweep/0/manifest.json", "config/callbacks", ["no", "mapping"]),
        ("sweep/0/manifest.json", "git/patch_left_out", [{"a": 1}]),
        ("sweep/0/manifest.json", "determinism", 3),
        ("evaluate/summary.json", "slices/worse", [{"property": 1}]),
        ("evaluate/summary.json", "calibration/after", [1]),
        ("benchmark/summary.json", "rows", [{"overhead": "a"}]),
        ("export/summary.json", "files", {"model.onnx": 3}),
        ("audit/audit.json", "splits", {"train": {}}),
        ("reproduce/summary.json", "identical", "yes"),
    ],
)
def test_a_value_of_another_type_is_an_issue(root: Path, file: str, key: str, value) -> None:
    edit(root / file, {key: value})
    issues = [each for each in run_checks(find_inputs([root])) if each.state == "issue"]
    assert issues and all(str(root / file) in each.text for each in issues)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\0" * 100])
def test_a_damaged_table_is_an_issue(root: Path, content: bytes) -> None:
    for name in ("gradients.parquet", "predictions/test.parquet"):
        (root / "sweep/0" / name).write_bytes(content)
    issues = [each for each in run_checks(find_inputs([root])) if each.state == "issue"]
    assert len(issues) == 2
