"""The command `check`: lines, exit codes and summary."""

import json
import re
import shutil
from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks.catalog import CHECKS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "folders"
    made.write_train(folder / "run", 0.01, 1, 0.9)
    made.edit(folder / "run/summary.json", {"test/beaten_by_constant": ["f2"]})
    return folder


def test_issues_come_first_then_tips_then_counts(command, root: Path) -> None:
    code, out, err = command(f"inputs=[{root}]", "hydra.run.dir=checked", name="check")
    assert (code, err) == (0, "")
    *lines, counts, last = out.splitlines()
    found = [re.match(r"(issue|tip) (PC\d+) ", line) for line in lines]
    assert [match and match[1] for match in found] == ["issue", "tip"]
    assert found[0] and found[0][2] == "PC101" and found[1] and found[1][2] == "PC301"
    assert str(root / "run") in lines[0]
    assert last == f"summary: {Path('checked/summary.json').absolute()}"

    summary = json.loads(Path("checked/summary.json").read_text())
    assert {each["code"] for each in summary["checks"]} == {check.code for check in CHECKS}
    assert summary["counts"]["issue"] == summary["counts"]["tip"] == 1
    assert sum(summary["counts"].values()) == len(summary["checks"])
    assert all(str(number) in counts for number in summary["counts"].values())
    (fired,) = [each for each in summary["checks"] if each["state"] == "issue"]
    assert fired["folder"] == str(root / "run") and fired["file"] == "summary.json"
    assert {"path": str(root / "run"), "kind": "train"} in summary["folders"]
    assert json.loads(Path("checked/status.json").read_text())["state"] == "finished"


def test_all_outcomes_are_shown_on_request(command, root: Path) -> None:
    code, out, _ = command(f"inputs={root}", "check.show=all", name="check")
    assert code == 0
    shown = re.findall(r"^(?:issue|tip|passed|not applicable) (PC\d+) ", out, re.M)
    assert set(shown) == {check.code for check in CHECKS}


@pytest.mark.parametrize(
    ("fail_on", "expected"),
    [
        ("[]", 0),
        ("[issue]", 1),
        ("[PC101]", 1),
        ("[PC301]", 1),  # a tip
        ("[PC103]", 0),
        ("[PC103,PC899]", 2),
    ],
)
def test_chosen_codes_fail_the_command(command, root: Path, fail_on: str, expected: int) -> None:
    code, out, err = command(f"inputs=[{root}]", f"check.fail_on={fail_on}", name="check")
    assert code == expected
    assert len(err.splitlines()) == (expected > 0)
    assert ("summary: " in out) == (expected < 2)


def test_folders_with_the_same_figures_share_a_line(command, root: Path) -> None:
    shutil.copytree(root / "run", root / "other")
    _, out, _ = command(f"inputs=[{root}]", name="check")
    (line,) = [line for line in out.splitlines() if "PC101" in line]
    assert str(root) in line and "1 more" in line


def test_without_issues_no_issue_fails(command, root: Path) -> None:
    made.edit(root / "run/summary.json", {"test/beaten_by_constant": []})
    code, _, err = command(f"inputs=[{root}]", "check.fail_on=[issue]", name="check")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inputs=[nowhere]"],
        ["inputs=[empty]"],
        ["inputs=[folders]", "check.fail_on=[PC999]"],
        ["inputs=[folders]", "check.show=some"],
        [],
    ],
)
def test_invalid_input_is_one_line(command, root: Path, arguments: list[str]) -> None:
    (root.parent / "empty").mkdir()
    code, out, err = command(*arguments, name="check")
    (line,) = err.splitlines()
    assert code == 2 and out == ""
    expected = arguments[-1].partition("=")[2].strip("[]") if arguments else "inputs"
    assert expected in line


def test_names_of_folders_cannot_print_control_characters(command, root: Path) -> None:
    (root / "run").rename(root / "\x1b[31mred")
    code, out, _ = command(f"inputs=[{root}]", name="check")
    assert code == 0 and "\x1b" not in out and "red" in out


def test_the_folders_do_not_change(command, root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert command(f"inputs=[{root}]", name="check")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
