"""Issues that `train` prints about its own run."""

import logging
import shlex
from pathlib import Path

import check_folders as made
import pytest

from pcam_lightning.checks import catalog
from pcam_lightning.results.issues import print_issues
from pcam_lightning.runs import Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made.write_train(tmp_path / "run", 0.01, 1, 0.9)
    return tmp_path / "run"


def test_a_sound_run_prints_nothing(folder: Path, capsys) -> None:
    print_issues(folder)
    assert capsys.readouterr() == ("", "")


def test_many_issues_are_five_lines(folder: Path, capsys) -> None:
    made.edit(folder / "summary.json", {"test/beaten_by_constant": ["f2"]})
    made.edit(folder / "summary.json", {"test/metrics/auroc": dict(value=0.6, low=0.5, high=0.7)})
    made.edit(folder / "manifest.json", {"git/commit": None})
    made.write_history(folder, [0.9, 0.8, 0.7, 0.6])
    made.write_gradients(folder, loss=[0.7] * 100)
    print_issues(folder)
    lines = capsys.readouterr().out.splitlines()
    assert 1 < len(lines) <= 5
    assert "PC101" in lines[0] and "2 more" in lines[-1]


def test_the_command_that_lists_all_can_be_pasted(folder: Path, capfd, command) -> None:
    folder = folder.rename(folder.with_name("a run, 100%"))
    made.edit(folder / "summary.json", {"test/beaten_by_constant": ["f2"]})
    print_issues(folder)
    line = capfd.readouterr().out.splitlines()[-1]
    words = shlex.split(line.partition(" lists ")[0])
    assert words[:3] == ["python", "-m", "pcam_lightning.check"]
    code, out, err = command(*words[3:], name="check")
    assert code == 0 and "PC101" in out, err


def test_a_bug_in_a_check_does_not_fail_a_run(command, pcam_root: Path, monkeypatch) -> None:
    def broken(folder, inputs):
        raise ZeroDivisionError("a bug")

    check = catalog.Check("PC101", "Constant predictors", ("train",), broken)
    monkeypatch.setattr(catalog.run_checks, "__defaults__", ((check,),))
    code, out, err = command(
        f"data.root={pcam_root}", "debug=fast", "model=mlp", "trainer=cpu", "hydra.run.dir=run",
        "trainer.precision=32-true", "data.batch_size=8",
    )  # fmt: skip
    assert code == 0 and Run("run").state == "finished"
    assert sum("a bug" in line for line in (out + err).splitlines()) == 1
    assert "Traceback" not in out + err
    assert out.splitlines()[-1].startswith("summary: ")


def test_a_fault_is_logged_in_one_line(folder: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr("pcam_lightning.checks.report.issues_of_run", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING):
        print_issues(folder)
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
