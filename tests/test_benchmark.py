from pathlib import Path

import pytest

from pcam_lightning.runs import Run


def test_the_loader_table_has_every_contender(command, pcam_root: Path) -> None:
    arguments = [f"data.root={pcam_root}", "data.batch_size=16", "repeats=2", "seconds=0.05"]
    code, out, err = command(
        *arguments, "trainer.precision=bf16", "hydra.run.dir=run", name="benchmark"
    )
    assert code == 0, err
    run = Run("run")
    assert out.splitlines()[-1] == f"summary: {run.path.absolute() / 'summary.json'}"
    assert run.state == "finished"
    summary = run.summary
    assert summary["normalised_dtype"] == "bfloat16"
    assert [row["contender"] for row in summary["rows"]] == [
        "memory copy",
        "pcam_lightning, bytes",
        "sample at a time, bytes",
        "torchvision PCAM, bytes",
        "pcam_lightning, normalised",
        "sample at a time, normalised",
        "torchvision PCAM, normalised",
    ]
    for row in summary["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["contender"] in out


def test_conversion_is_measured_beside_a_sequential_read(command) -> None:
    small = ("data=demo", "data.demo.train=64", "data.demo.valid=16", "data.demo.test=16")
    options = (*small, "mode=conversion", "repeats=1", "seconds=0.01")
    code, out, err = command(*options, "data.demo.dtype=float32", name="benchmark")
    assert code == 0, err
    assert "sequential read" in out and "conversion to uint8" in out
    code, _, err = command(*options, name="benchmark")
    assert code == 2 and "there is nothing to convert" in err


def test_callbacks_are_measured_beside_none(command, pcam_root: Path) -> None:
    small = ("data.batch_size=8", "model.channels=[4,4]", "trainer=cpu", "trainer.max_epochs=2")
    options = (*small, "mode=callbacks", "repeats=2", "seconds=0.2", "hydra.run.dir=run")
    code, _, err = command(f"data.root={pcam_root}", *options, name="benchmark")
    assert code == 0, err
    rows = Run("run").summary["rows"]
    assert [row["contender"] for row in rows] == [
        "no callbacks",
        "gradient_norm",
        "last_checkpoint",
        "last_checkpoint, at every step",
        "all callbacks",
    ]
    assert rows[0]["of_first"] == 1 and all(row["low"] > 0 for row in rows)
    # What the fits wrote is gone: it is no run's.
    assert not {"checkpoints", "gradients.parquet"} & {path.name for path in Path("run").iterdir()}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("mode=sideways", "mode='sideways': expected 'loader', 'conversion' or 'callbacks'"),
        ("repeats=0", "repeats=0: expected greater than 0"),
        ("data.batch_size=49", "expected no more than the 48 training patches"),
    ],
)
def test_bad_input_is_one_line(command, pcam_root: Path, override: str, said: str) -> None:
    code, out, err = command(f"data.root={pcam_root}", override, name="benchmark")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert said in line
