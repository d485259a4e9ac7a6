"""Table of a run's scores in the terminal."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.metrics.calibration import prior_offset
from pcam_lightning.metrics.interval_text import describe_interval, format_interval

NOTABLE_OFFSET = 0.1
"""Error of the log-odds that is reported: at a share of tumour outside 47.5 to 52.5 %."""
SHOWN_METRICS = ("auroc", "average_precision", "accuracy", "f2", "sensitivity", "specificity")


def print_result(folder: Path, summary: Mapping[str, Any], balanced: bool) -> None:
    """Print metrics of validation and test beside constant baselines, and the paths of plots.

    Args:
        folder: run folder.
        summary: as from `files.write_result`.
        balanced: whether the training drew both classes equally often.
    """
    test = summary["test"]
    table = Table(box=SIMPLE, title=f"dataset: {summary['dataset']}", title_justify="left")
    table.add_column("", no_wrap=True)
    for column in ("val", "test", "95% interval", "all tumour", "majority"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in SHOWN_METRICS:
        scores = test["metrics"][name]
        constants = [test["baselines"][constant][name] for constant in ("all_tumour", "majority")]
        mark = "!" if name in test["beaten_by_constant"] else ""
        table.add_row(
            name,
            _number(summary["val"]["metrics"][name]["value"]),
            _number(scores["value"]) + mark,
            format_interval(scores),
            *map(_number, constants),
        )
    console = Terminal()
    console.print(table)
    console.print(f"intervals {describe_interval(test['interval']['slides'])}", soft_wrap=True)
    if test["beaten_by_constant"]:
        console.print(f"! constants score as well: {', '.join(test['beaten_by_constant'])}")
    share = test["train_prevalence"]
    if balanced and abs(prior_offset(share, 0.5)) >= NOTABLE_OFFSET:
        console.print(
            f"data.sampler=balanced drew both classes equally often, but {share:.1%} of the "
            "training patches are tumour: probabilities are wrong by as much, until "
            "`python -m pcam_lightning.evaluate` corrects them",
            soft_wrap=True,
        )
    console.print(f"plots: {os.path.relpath(folder)}/plots", soft_wrap=True)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
