"""Checks of speed: waiting for data, and the share of the framework."""

from __future__ import annotations

from pcam_lightning.checks.contents import BenchmarkSummary, TrainSummary, read_summary
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, not_applicable, passed, tip

WAITING = 0.2
"""Largest share of the training time spent waiting for data that is not reported."""
LIMIT = 0.1
"""Share of a step from which waiting or the framework limits it, as in `benchmark.verdict`."""


def waiting_for_data(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that training rarely waited for data."""
    share = read_summary(folder, TrainSummary).waiting_for_data
    if share is None:
        return not_applicable(f"waiting was not measured: `{COMMANDS['train']}`")
    facts = f"training waited for data {share:.0%} of the time"
    if share <= WAITING:
        return passed(facts)
    return tip(
        f"{facts}; try data.cache=true, more data.num_workers or, on a GPU, "
        "data.device_resident=true"
    )


def framework(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the framework does not limit the steps that a benchmark measured."""
    rows = [row for row in read_summary(folder, BenchmarkSummary).rows if row.overhead is not None]
    if not rows:
        return not_applicable(f"no step beside a bare loop: `{COMMANDS['benchmark']}`")
    row = max(rows, key=lambda each: each.overhead or 0)
    facts = (
        f"the framework takes {max(0.0, row.overhead or 0):.0%} of a step of {row.model} with "
        f"{row.batch_size} patches"
    )
    if (row.overhead or 0) < LIMIT:
        return passed(facts)
    return tip(f"{facts}; try a larger data.batch_size, or fewer callbacks and loggers")
