"""Report of a comparison: `compare.json`, curves and tables for the terminal."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.files import write_json
from pcam_lightning.metrics.interval_text import describe_interval
from pcam_lightning.plots.comparison import plot_comparison
from pcam_lightning.provenance.divergence import first_divergence, metric_differences
from pcam_lightning.provenance.record import Difference, Provenance, differences
from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import MissingRunFileError
from pcam_lightning.runs.run import is_run_folder

KINDS = ("batch", "loss", "tensor")
SHOWN_METRICS = ("auroc", "average_precision", "accuracy", "f2")


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Compare runs with the first one.

    Returns plain containers: "runs", "names" (distinct names of the folders), "datasets", "states",
    "weights_digests", "differences" (see `Difference`), "pairs" and "verdict". The last two have an
    entry for each run but the first. A pair holds "same_weights", "parted" (see
    `first_divergence`) and "metrics" (see `metric_differences`); a verdict is one line.

    Raises:
        RunFileError: a run's manifest is missing, or a file of a run is damaged.
    """
    provenances = [Provenance.of(run) for run in runs]
    found = differences(provenances)
    digests = [_summary(run).get("weights_digest") for run in runs]
    pairs = [
        {
            "same_weights": None if None in (digests[0], digest) else digests[0] == digest,
            "parted": first_divergence(runs[0], run),
            "metrics": metric_differences(runs[0], run),
        }
        for run, digest in zip(runs[1:], digests[1:], strict=True)
    ]
    report: dict[str, Any] = {
        "runs": [str(run.path) for run in runs],
        "names": names(runs),
        "datasets": [each.manifest.get("dataset", {}).get("name") or "?" for each in provenances],
        "states": [run.state for run in runs],
        "weights_digests": digests,
        "differences": [vars(each) for each in found],
        "pairs": pairs,
    }
    return report | {"verdict": [verdict(pair, found, i) for i, pair in enumerate(pairs, start=1)]}


def write_comparison(folder: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Write `compare.json` and `plots/curves.png`, print the comparison, and return it."""
    report = compare(runs)
    write_json(folder / "compare.json", report)
    places = [first_place(pair["parted"]) for pair in report["pairs"]]
    steps = [place["step"] for place in places if place]
    picture = folder / "plots" / "curves.png"
    plot_comparison(picture, runs, report["names"], report["datasets"], steps)
    print_report(report)
    return report


def names(runs: Sequence[Run]) -> list[str]:
    """Return the paths of the runs relative to the folder that holds them all."""
    paths = [run.path.resolve() for run in runs]
    top = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(top).as_posix() for path in paths]


def verdict(pair: dict[str, Any], found: Sequence[Difference], index: int) -> str:
    """Return a line that compares the weights of run `index` with the first run's, with causes."""
    relevant = [each for each in found if each.matters and each.values[index] != each.values[0]]
    causes = [f"{each.kind} {each.name}" for each in relevant]
    if pair["same_weights"]:
        note = f", though they differ in {_listed(causes)}" if causes else ""
        return f"the same weights, bit for bit{note}"
    weights = "unknown weights" if pair["same_weights"] is None else "other weights"
    causes_text = f"they differ in {_listed(causes)}" if causes else "no recorded fact differs"
    return f"{weights}; {describe_divergence(pair['parted'])}; {causes_text}"


def first_place(divergence: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the earliest entry of `first_divergence`, with its "kind"; None if there is none."""
    # In this order: at one step, the batch explains the loss, and the loss the gradients.
    places = [(divergence or {}).get(kind) for kind in KINDS]
    found = [place | {"kind": kind} for kind, place in zip(KINDS, places, strict=True) if place]
    return min(found, key=lambda place: place["step"], default=None)


def describe_divergence(divergence: dict[str, Any] | None) -> str:
    """Return a text about the step at which two runs diverge."""
    if divergence is None:
        return "the first divergence is unknown (no gradients.parquet)"
    first = first_place(divergence)
    if first is None:
        same = f"all {divergence['steps']:,} common steps are identical"
        return same + (f", one has {divergence['more']:,} more" if divergence["more"] else "")
    step = f"from step {first['step']} (epoch {first['epoch']})"
    if first["kind"] == "batch":
        return f"{step} their batches hold other rows"
    values = " and ".join(f"{value:.9g}" for value in first["values"])
    if first["kind"] == "loss":
        rows = " of the same rows" if divergence["rows_known"] else ""
        return f"{step} the loss{rows} differs: {values}"
    return f"{step} the gradient of {first['name']} differs: {values}"


def print_report(report: dict[str, Any]) -> None:
    """Print the differences, then metrics and a verdict for each run but the first."""
    console = Terminal()
    titles = report["names"]
    table = Table(box=SIMPLE, title="differences", title_justify="left")
    table.add_column("", no_wrap=True)
    for title in titles:
        table.add_column(title, overflow="fold")
    for each in report["differences"]:
        style = None if each["matters"] else "dim"
        values = [_short(value) for value in each["values"]]
        table.add_row(f"{each['kind']} {each['name']}", *values, style=style)
    if report["differences"]:
        console.print(table)
    for each in report["differences"]:
        if each["detail"]:
            console.print(f"{each['kind']} {each['name']}:")
            for line in each["detail"]:
                console.print(f"    {line}", soft_wrap=True)
    for title, pair, text in zip(titles[1:], report["pairs"], report["verdict"], strict=True):
        for split, compared in pair["metrics"].items():
            one, other = compared["thresholds"]
            if not compared["identical"] or one["value"] != other["value"]:
                shown = [_change(name, compared["metrics"][name]) for name in SHOWN_METRICS]
                at = f"thresholds {_threshold(one)} and {_threshold(other)}; intervals "
                at += describe_interval(compared["slides"])
                console.print(f"{title}, {split}: {', '.join(shown)}; {at}", soft_wrap=True)
        console.print(f"{title}: {text}", soft_wrap=True)


def find(paths: Sequence[str]) -> list[Run]:
    """Return the runs at these paths; a folder that is no run stands for all runs below it.

    Raises:
        RunFileError: a path is no folder.
    """
    runs = []
    for path in paths:
        runs += [Run(path)] if is_run_folder(Path(path)) else find_runs(path)
    return runs


def _listed(causes: list[str], count: int = 6) -> str:
    more = f" and {len(causes) - count} more" if len(causes) > count else ""
    return ", ".join(causes[:count]) + more


def _change(name: str, value: dict[str, float]) -> str:
    text = f"{name} {value['difference']:+.4f}"
    if math.isnan(value["low"]):
        return text
    return f"{text} [{value['low']:+.4f}, {value['high']:+.4f}]"


def _threshold(chosen: dict[str, Any]) -> str:
    return f"{chosen['value']:.4g} ({chosen['source']})"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _summary(run: Run) -> dict[str, Any]:
    try:
        return run.summary
    except MissingRunFileError:
        return {}
