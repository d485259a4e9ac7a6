from pathlib import Path

import pytest

from pcam_lightning.models import CNN
from pcam_lightning.runs import Run

QUICK = ("benchmark.repeats=2", "benchmark.seconds=0.05")
SMALL = ("data.batch_size=8", "model.channels=[4,4]", "trainer=cpu", "trainer.precision=32", *QUICK)


def test_the_loader_table_has_every_contender(command, pcam_root: Path) -> None:
    arguments = [f"data.root={pcam_root}", "data.batch_size=16", *QUICK, "mode=loader"]
    code, out, err = command(
        *arguments, "trainer.precision=bf16", "hydra.run.dir=run", name="benchmark"
    )
    assert code == 0, err
    run = Run("run")
    assert out.splitlines()[-1] == f"summary: {run.path.absolute() / 'summary.json'}"
    assert run.state == "finished"
    summary = run.summary
    assert {row["dtype"] for row in summary["rows"]} == {"bfloat16"}
    assert [row["contender"] for row in summary["rows"]] == [
        "memory copy",
        "pcam_lightning, bytes",
        "sample at a time, bytes",
        "torchvision PCAM, bytes",
        "pcam_lightning, normalized",
        "sample at a time, normalized",
        "torchvision PCAM, normalized",
    ]
    for row in summary["rows"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["contender"] in out


def test_steps_are_measured_for_every_combination(command, pcam_root: Path) -> None:
    lists = ("benchmark.batch_sizes=[4,8]", "benchmark.precisions=[32,bf16]", "compile=false")
    arguments = (f"data.root={pcam_root}", *SMALL, *lists, "hydra.run.dir=run")
    code, out, err = command(*arguments, name="benchmark")
    assert code == 0, err
    summary = Run("run").summary
    rows = summary["rows"]
    assert [(row["precision"], row["batch_size"]) for row in rows[::3]] == [
        ("32-true", 4),
        ("32-true", 8),
        ("bf16-mixed", 4),
        ("bf16-mixed", 8),
    ]
    assert [row["contender"] for row in rows[:3]] == [
        "bare loop",
        "bare loop, one batch",
        "pcam_lightning",
    ]
    model = CNN((4, 4))
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["milliseconds"] == pytest.approx(
            1e3 * row["batch_size"] / row["median"], rel=0.5
        )
        assert 0 <= row["waiting"] < 1 and row["peak_host_mib"] > 100
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        assert 0 < row["share_of_flops"] < 1 and row["bytes_per_patch"] > 96 * 96 * 3
        assert row["partition"] is None and row["threads"] >= 1
    # A patch costs as many operations in a batch of any size, and in any precision.
    assert len({row["flops_per_patch"] for row in rows}) == 1
    assert len([line for line in summary["said"] if "bound by" in line]) == 4
    names = {path.name for path in Path("run/plots").iterdir()}
    assert names == {"by_batch_size.png", "by_precision.png"}

    again = ("benchmark.batch_sizes=[4]", "benchmark.against=run", "trainer.precision=32")
    code, out, err = command(
        f"data.root={pcam_root}", *SMALL, *again, "optimizer.lr=0.5", name="benchmark"
    )
    assert code == 0, err
    assert "of 3 rows as fast, within noise" in out
    assert "since then: config optimizer.lr: then 0.003, now 0.5" in out


def test_a_batch_that_memory_does_not_suffice_for_is_a_row(command, pcam_root: Path) -> None:
    sizes = "benchmark.batch_sizes=[4,10000000,8]"
    arguments = (f"data.root={pcam_root}", *SMALL, "mode=forward", sizes, "hydra.run.dir=run")
    code, out, err = command(*arguments, name="benchmark")
    assert code == 0, err
    speeds = [row["median"] for row in Run("run").summary["rows"]]
    assert [speed is None for speed in speeds] == [False, True, False]
    assert "batch 10000000, 32-true, cpu: out of memory" in out


def test_epochs_are_measured_beside_the_usual_loop(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", "model=mlp", "model.hidden=[4]", "data.batch_size=8")
    code, _, err = command(
        *arguments, *QUICK, "trainer=cpu", "mode=end_to_end", "hydra.run.dir=run", name="benchmark"
    )
    assert code == 0, err
    rows = Run("run").summary["rows"]
    assert [row["contender"] for row in rows] == ["usual loop", "pcam_lightning"]
    assert all(row["low"] > 0 for row in rows)


def test_start_up_is_measured_in_seconds(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", "data.batch_size=8", "benchmark.repeats=1")
    code, _, err = command(*arguments, "mode=startup", "hydra.run.dir=run", name="benchmark")
    assert code == 0, err
    summary = Run("run").summary
    assert summary["unit"] == "seconds"
    seconds = {row["contender"]: row["median"] for row in summary["rows"]}
    assert list(seconds) == ["--help", "--cfg job", "an error in the config", "first training step"]
    assert 0 < seconds["--help"] < seconds["first training step"]


def test_conversion_is_measured_beside_a_sequential_read(command) -> None:
    small = ("data=demo", "data.demo.train=64", "data.demo.valid=16", "data.demo.test=16")
    options = (*small, "mode=conversion", "benchmark.repeats=1", "benchmark.seconds=0.01")
    code, out, err = command(*options, "data.demo.dtype=float32", name="benchmark")
    assert code == 0, err
    assert "sequential read" in out and "conversion to uint8" in out
    code, _, err = command(*options, name="benchmark")
    assert code == 2 and "there is nothing to convert" in err


def test_callbacks_are_measured_beside_none(command, pcam_root: Path) -> None:
    small = ("data.batch_size=8", "model.channels=[4,4]", "trainer=cpu")
    options = (*small, *QUICK, "mode=callbacks", "hydra.run.dir=run")
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
        ("mode=sideways", "mode='sideways': expected 'train', 'forward', 'end_to_end', 'loader'"),
        ("benchmark.repeats=0", "benchmark.repeats=0: expected greater than 0"),
        ("benchmark.batch_sizes=[8,49]", "expected no more than the 48 training patches"),
        ("benchmark.models=[cnn,vit]", "model=vit: no such choice, expected one of cnn, densenet"),
        ("benchmark.precisions=[8]", "benchmark.precisions.0=8: expected"),
        ("benchmark.against=nowhere", "nowhere is no run folder"),
        ("benchmark.contenders=[ours]", "expected some of bare loop, bare loop, one batch, pcam_"),
        ("data.batch_size=49", "expected no more than the 48 training patches"),
    ],
)
def test_bad_input_is_one_line(command, pcam_root: Path, override: str, said: str) -> None:
    small = ("data.batch_size=8", "trainer=cpu")
    code, out, err = command(f"data.root={pcam_root}", *small, override, name="benchmark")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert said in line
