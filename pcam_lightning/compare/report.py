"""What a comparison says: numbers for `compare.json`, tables for the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.compare.pictures import plot_comparison
from pcam_lightning.files import write_json
from pcam_lightning.provenance.divergence import first_divergence, metric_differences
from pcam_lightning.provenance.provenance import Difference, Provenance, differences
from pcam_lightning.runs import Run, find_runs
from pcam_lightning.runs.files import MissingRunFileError
from pcam_lightning.runs.run import is_run_folder

PLACES = ("batch", "loss", "tensor")
SHOWN_METRICS = ("auroc", "average_precision", "accuracy", "f2")


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything in which runs differ; the first run is what the others are held against.

    Returns plain containers: "runs", "names" (what tells their folders apart), "datasets",
    "states", "weights_digests", "differences" (see `Difference`), "pairs" (one for each run but the
    first: "same_weights", "parted" as from `provenance.divergence.first_divergence`, "metrics" as
    from
    `metric_differences`) and "verdict", one line for each.

    Raises:
        RunFileError: a run's manifest is missing, or a file of a run is damaged.
    """
    origins = [Provenance.of(run) for run in runs]
    found = differences(origins)
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
        "datasets": [origin.manifest.get("dataset", {}).get("name") or "?" for origin in origins],
        "states": [run.state for run in runs],
        "weights_digests": digests,
        "differences": [vars(each) for each in found],
        "pairs": pairs,
    }
    return report | {"verdict": [verdict(pair, found, i) for i, pair in enumerate(pairs, start=1)]}


def write_comparison(folder: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """Compare runs, write `compare.json` and `plots/curves.png`, print it, and return it."""
    report = compare(runs)
    write_json(folder / "compare.json", report)
    places = [first_place(pair["parted"]) for pair in report["pairs"]]
    steps = [place["step"] for place in places if place]
    picture = folder / "plots" / "curves.png"
    plot_comparison(picture, runs, report["names"], report["datasets"], steps)
    print_report(report)
    return report


def names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs' folders apart."""
    paths = [run.path.resolve() for run in runs]
    top = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(top).as_posix() for path in paths]


def verdict(pair: dict[str, Any], found: Sequence[Difference], index: int) -> str:
    """One line: whether run `index` ended with the first one's weights, and what may be why not."""
    mattering = [each for each in found if each.matters and each.values[index] != each.values[0]]
    causes = [f"{each.kind} {each.name}" for each in mattering]
    if pair["same_weights"]:
        less = f", though they differ in {_listed(causes)}" if causes else ""
        return f"the same weights, bit for bit{less}"
    known = "weights are not known" if pair["same_weights"] is None else "other weights"
    why = f"they differ in {_listed(causes)}" if causes else "nothing that is recorded differs"
    return f"{known}; {where(pair['parted'])}; {why}"


def first_place(divergence: dict[str, Any] | None) -> dict[str, Any] | None:
    """Of the places where two histories part, the first, with its "kind"."""
    # At one step, the rows of a batch explain its loss, and the loss its gradients.
    places = [(divergence or {}).get(kind) for kind in PLACES]
    found = [place | {"kind": kind} for kind, place in zip(PLACES, places, strict=True) if place]
    return min(found, key=lambda place: place["step"], default=None)


def where(divergence: dict[str, Any] | None) -> str:
    """In words, where two histories part."""
    if divergence is None:
        return "no gradients.parquet says where they part"
    first = first_place(divergence)
    if first is None:
        same = f"all {divergence['steps']:,} common steps are the same"
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
    """The differences, one line each, then metrics and a verdict for each run but the first."""
    console = Terminal()
    titles = report["names"]
    table = Table(box=SIMPLE, title="what differs", title_justify="left")
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
                at = f"thresholds {_threshold(one)} and {_threshold(other)}"
                console.print(f"{title}, {split}: {', '.join(shown)}; {at}", soft_wrap=True)
        console.print(f"{title}: {text}", soft_wrap=True)


def find(paths: Sequence[str]) -> list[Run]:
    """The runs at these paths; a folder that is none stands for all runs below it.

    Raises:
        RunFileError: nothing is there.
    """
    runs = []
    for path in paths:
        runs += [Run(path)] if is_run_folder(Path(path)) else find_runs(path)
    return runs


def _listed(causes: list[str], count: int = 6) -> str:
    more = f" and {len(causes) - count} more" if len(causes) > count else ""
    return ", ".join(causes[:count]) + more


def _change(name: str, value: dict[str, float]) -> str:
    return f"{name} {value['difference']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


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
