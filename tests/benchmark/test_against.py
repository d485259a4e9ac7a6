from typing import Any

import numpy as np

from pcam_lightning.benchmark.against import causes, changes
from pcam_lightning.provenance.record import Difference


def row(model: str, low: float, median: float | None, high: float) -> dict[str, Any]:
    names = {"contender": "pcam_lightning", "parameters": 1, "batch_size": 8, "device": "cpu"}
    names |= {"model": model, "precision": "32-true", "device_name": "a processor"}
    return names | {"low": low, "median": median, "high": high}


def test_verdicts_need_ranges_that_do_not_overlap() -> None:
    then = [
        row("slower", 95, 100, 105),
        row("noisy", 80, 100, 120),
        row("faster", 95, 100, 105),
        row("hardly", 99.9, 100, 100.1),
        row("gone", 95, 100, 105),
        row("too large", 0, None, 0),
    ]
    now = [
        row("slower", 80, 85, 94),
        row("noisy", 70, 85, 100),
        row("faster", 110, 120, 130),
        row("hardly", 98.1, 98.2, 98.3),
        row("new", 1, 2, 3),
        row("too large", 1, 2, 3),
    ]
    found = {each["model"]: (each["verdict"], each["ratio"]) for each in changes(now, then, 0.03)}
    assert found == {
        "slower": ("slower", 0.85),
        "noisy": ("same", 0.85),
        "faster": ("faster", 1.2),
        "hardly": ("same", 0.982),
    }


def test_equal_speeds_are_rarely_reported_as_changed() -> None:
    # 12 rows, repeats within 0.5 %, 3 % between runs: an overlap of ranges alone often fails.
    generator = np.random.default_rng(0)
    alarms = without = 0
    for _ in range(300):
        now, then = (
            [row(str(i), 0.995 * speed, speed, 1.005 * speed) for i, speed in enumerate(speeds)]
            for speeds in 100 * np.exp(generator.normal(0, 0.03, (2, 12)))
        )
        alarms += any(each["verdict"] != "same" for each in changes(now, then, 0.03))
        without += any(each["verdict"] != "same" for each in changes(now, then, 0.0))
    assert alarms <= 26  # exceeded with a probability of 0.2 % at a share of 5 %
    assert without > 270


def test_causes_list_packages_first_and_omit_the_benchmarks_own_settings() -> None:
    differing = [
        Difference("code", "pcam_lightning/engine/module.py", ["a", "b"], True),
        Difference("config", "benchmark.repeats", [3, 5], True),
        Difference("hardware", "driver", ["550", "560"], True),
        Difference("package", "torch", ["2.14", "2.15"], True),
        Difference("slurm", "job_id", [1, 2], False),
    ]
    assert causes(differing) == [
        "package torch: then 2.14, now 2.15",
        "hardware driver: then 550, now 560",
        "code pcam_lightning/engine/module.py: then a, now b",
    ]
