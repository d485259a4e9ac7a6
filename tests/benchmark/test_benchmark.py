from pathlib import Path

import numpy as np
import pytest
from pcam_files import random_split, write_split

from pcam_lightning.benchmark import timer
from pcam_lightning.benchmark.case import cases
from pcam_lightning.benchmark.modes import implementations_of
from pcam_lightning.benchmark.roofline import COPIED, SIDE
from pcam_lightning.errors import InputError
from pcam_lightning.models import MLP
from pcam_lightning.runs import Run

QUICK = ("benchmark.repeats=2", "benchmark.seconds=0.02")
SMALL = ("data.batch_size=8", "model=mlp", "model.hidden=[4]", "trainer=cpu", *QUICK)


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer, "MAX_WARM_UPS", 1)
    monkeypatch.setitem(SIDE, "cpu", 512)
    monkeypatch.setitem(COPIED, "cpu", 2**24)


def test_training_steps_of_every_combination(command, pcam_root: Path) -> None:
    # The validation batch of the measured fits has one class.
    images, _ = random_split(20, 1)
    write_split(pcam_root, "valid", images, np.arange(20) < 10)
    lists = ("benchmark.batch_sizes=[4,8]", "benchmark.precisions=[32,bf16]")
    code, out, err = command(
        f"data.root={pcam_root}", *SMALL, *lists, "hydra.run.dir=run", name="benchmark"
    )
    assert code == 0, err
    run = Run("run")
    assert out.splitlines()[-1] == f"summary: {run.path.absolute() / 'summary.json'}"
    assert run.state == "finished"
    summary = run.summary
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
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        # Two medians of the same seconds, on a machine that may be busy.
        by_speed = 1e3 * row["batch_size"] / row["median"]
        assert 0.1 < row["milliseconds"] / by_speed < 10
        assert 0 <= row["waiting"] < 1 and row["peak_host_mib"] > 100
        assert row["parameters"] == sum(p.numel() for p in MLP((4,)).parameters())
        assert 0 < row["share_of_flops"] < 1 and row["bytes_per_patch"] > 96 * 96 * 3
        assert row["partition"] is None and row["threads"] >= 1
    # The operations per patch depend neither on the batch size nor on the precision.
    assert len({row["flops_per_patch"] for row in rows}) == 1
    assert len([line for line in summary["said"] if "bound by" in line]) == 4
    names = {path.name for path in Path("run/plots").iterdir()}
    assert names == {"by_batch_size.png", "by_precision.png"}
    # The files of the measured fits are deleted.
    assert not {"checkpoints", "gradients.parquet"} & {path.name for path in Path("run").iterdir()}


def test_forward_passes_with_a_batch_beyond_memory_and_an_earlier_run(
    command, pcam_root: Path
) -> None:
    arguments = (f"data.root={pcam_root}", *SMALL, "mode=forward", "trainer.precision=32")
    code, out, err = command(
        *arguments, "benchmark.batch_sizes=[4,10000000]", "hydra.run.dir=run", name="benchmark"
    )
    assert code == 0, err
    speeds = [row["median"] for row in Run("run").summary["rows"]]
    assert [speed is None for speed in speeds] == [False, True]
    assert "batch 10000000, 32-true, cpu: out of memory" in out

    again = ("benchmark.batch_sizes=[4]", "benchmark.against=run", "optimizer.lr=0.5")
    code, _, err = command(*arguments, *again, "hydra.run.dir=again", name="benchmark")
    assert code == 0, err
    against = Run("again").summary["against"]
    assert [row["batch_size"] for row in against["rows"]] == [4]
    assert "config optimizer.lr: then 0.003, now 0.5" in against["changed"]


def test_loaders_in_the_dtype_of_the_precision(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", *SMALL, "mode=loader", "trainer.precision=bf16")
    code, out, err = command(*arguments, "hydra.run.dir=run", name="benchmark")
    assert code == 0, err
    rows = Run("run").summary["rows"]
    assert len(rows) == 4 and {row["dtype"] for row in rows} == {"bfloat16"}
    for row in rows:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["contender"] in out


@pytest.mark.slow
def test_epochs_beside_the_naive_loop(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", *SMALL, "mode=end_to_end", "data.batch_size=48")
    code, _, err = command(*arguments, "benchmark.repeats=1", "hydra.run.dir=run", name="benchmark")
    assert code == 0, err
    rows = Run("run").summary["rows"]
    assert [row["contender"] for row in rows] == ["naive loop", "pcam_lightning"]
    assert all(row["low"] > 0 for row in rows)


@pytest.mark.slow
def test_start_up_in_seconds(command, pcam_root: Path) -> None:
    arguments = (f"data.root={pcam_root}", "data.batch_size=8", "benchmark.repeats=1")
    code, _, err = command(*arguments, "mode=startup", "hydra.run.dir=run", name="benchmark")
    assert code == 0, err
    summary = Run("run").summary
    assert summary["unit"] == "seconds"
    seconds = {row["contender"]: row["median"] for row in summary["rows"]}
    assert list(seconds) == ["--help", "--cfg job", "an error in the config", "first training step"]
    assert 0 < seconds["--help"] < seconds["first training step"]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("mode=sideways", ("mode='sideways'", "train", "forward", "end_to_end", "loader")),
        ("benchmark.against=nowhere", ("nowhere", "run folder")),
        ("benchmark.batch_sizes=[8,49]", ("49", "48 training patches")),
    ],
)
def test_bad_input_is_one_line(
    command, pcam_root: Path, override: str, parts: tuple[str, ...]
) -> None:
    code, out, err = command(f"data.root={pcam_root}", *SMALL, override, name="benchmark")
    assert code == 2 and "summary:" not in out
    (line,) = err.splitlines()
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("benchmark.models=[mlp,vit]", ("vit", "cnn", "densenet")),
        ("benchmark.contenders=[ours]", ("benchmark.contenders", "ours", "bare loop, one batch")),
    ],
)
def test_unknown_names_are_rejected_with_the_valid_ones(
    composed, pcam_root: Path, override: str, parts: tuple[str, ...]
) -> None:
    config = composed([f"data.root={pcam_root}", *SMALL, override], name="benchmark")
    with pytest.raises(InputError) as error:
        for case in cases(config, "mlp", pcam_root):
            implementations_of("train", case)
    assert all(part in str(error.value) for part in parts)
