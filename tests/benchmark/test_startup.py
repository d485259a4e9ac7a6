import pytest

from pcam_lightning.benchmark import startup


def test_rows_have_the_spread_without_the_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0] * 4 + [1.0] * 4 + [2.0] * 4 + [6.0] * 4)
    monkeypatch.setattr(startup, "_time", lambda words, code: next(seconds))
    rows = startup.time_commands(["model=cnn"], repeats=3)
    assert rows[0] == {"contender": "--help", "median": 2, "low": 1, "high": 6}
    assert len(rows) == 4


def test_a_command_is_timed_and_its_exit_code_checked() -> None:
    assert 0 < startup._time(["--help"], 0) < 60
    with pytest.raises(RuntimeError, match=r"optimizer\.lrr"):
        startup._time(["optimizer.lrr=1"], 0)
