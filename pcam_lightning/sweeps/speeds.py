"""One table of the runs of `benchmark`, from several machines or partitions."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pcam_lightning.sweeps.table import Result, at, number, run_location, text

CASE = ("model", "batch_size", "precision", "device")
FIGURES = ("median", "low", "high", "of_first", "milliseconds", "waiting", "overhead")
FIGURES += ("share_of_flops", "share_of_bandwidth", "peak_host_mib", "peak_device_mib")


def speeds_table(results: Sequence[Result]) -> pd.DataFrame | None:
    """Return a row for each measured implementation of each run, None if no run is a benchmark."""
    rows = [
        {"folder": str(result.job.folder), "overrides": " ".join(result.job.overrides)}
        | run_location(result)
        | {name: text(at(result.summary, name)) for name in ("mode", "unit")}
        | {name: text(at(row, name)) for name in ("contender", *CASE, "device_name", "threads")}
        | {name: number(at(row, name)) for name in FIGURES}
        for result in results
        if isinstance(measured := result.summary.get("rows"), list)
        for row in measured
    ]
    return pd.DataFrame(rows) if rows else None
