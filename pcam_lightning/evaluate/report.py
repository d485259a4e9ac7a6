"""Terminal output of an evaluation."""

import math
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.evaluate.analysis import Analysis, describe_calibration
from pcam_lightning.metrics.interval_text import describe_interval, format_interval

SHOWN = ("auroc", "average_precision", "accuracy", "f2", "sensitivity", "specificity", "precision")


def print_report(summary: Mapping[str, Any], analysis: Analysis, notes: int = 8) -> None:
    """Print metrics beside constant predictors, threshold, calibration, and slices with a note.

    Args:
        summary: as in `summary.json`.
        analysis: the analysis behind the summary.
        notes: maximum number of slices; worse slices come first.
    """
    split, console = analysis.split, Terminal(soft_wrap=True)
    scores, chosen, unproven = summary[split], summary["threshold"], _unproven(summary)
    table = Table(box=SIMPLE, title=f"dataset: {summary['dataset']}", title_justify="left")
    table.add_column("", no_wrap=True)
    others = [] if split == "val" or "val" not in summary else ["val"]
    constants = ("all_tumour", "majority")
    for column in (*others, split, "95% interval", *(each.replace("_", " ") for each in constants)):
        table.add_column(column, justify="right", no_wrap=True)
    for name in SHOWN:
        score, mark = scores["metrics"][name], "~" if name in unproven else ""
        mark = "!" if name in scores["beaten_by_constant"] else mark
        table.add_row(
            name,
            *(_number(summary[other]["metrics"][name]["value"]) for other in others),
            _number(score["value"]) + mark,
            format_interval(score),
            *(_number(scores["baselines"][constant][name]) for constant in constants),
        )
    console.print(table)
    console.print(f"intervals {describe_interval(scores['interval']['slides'])}")
    if scores["beaten_by_constant"]:
        names = ", ".join(scores["beaten_by_constant"])
        console.print(f"! a constant predictor is at least as good: {names}")
    if unproven:
        names = ", ".join(unproven)
        console.print(f"~ not significantly better than a constant predictor: {names}")
    source = f"{chosen['rule']}, chosen on val" if chosen["chosen_on"] else "given"
    if chosen["chosen_on"] == split:
        source += f"; metrics that depend on it are too optimistic on {split}"
    console.print(f"threshold: {chosen['value']:.4g} ({source})")
    calibration = summary["calibration"]
    error = calibration["before"]["ece"]
    text = f"calibration error: {_number(error['value'])}"
    if calibration["after"]:
        after = calibration["after"]["ece"]["value"]
        how = describe_calibration(summary["temperature"], summary["prior_offset"])
        text += f", {_number(after)} with {how}"
        error = calibration["after"]["ece"]
    console.print(f"{text}; {_number(error['if_perfect'])} expected if perfectly calibrated")
    if calibration["note"]:
        console.print(calibration["note"])
    if summary["tta"]:
        change = summary["tta"]["gain"]["auroc"]
        cost = summary["inference"] and summary["inference"]["tta_cost"]
        text = f"tta: auroc {change['value']:+.4f}"
        if not math.isnan(change["low"]):
            text += f" [{change['low']:+.4f}, {change['high']:+.4f}]"
        console.print(text + (f", {cost:.1f} times the time" if cost else ""))
    if jitter := summary["inference"] and summary["inference"]["stain_jitter"]:
        console.print(describe_jitter(jitter))
    decided = {each["undecided"]: each["accuracy"] for each in summary["abstention"]}
    console.print(
        f"accuracy: {_number(decided[0.0])} on all patches, {_number(decided[0.1])} without the "
        "most uncertain tenth"
    )
    worse = len(summary["slices"]["worse"])
    console.print(
        f"slices: {worse} of {summary['slices']['scored']} {describe_flags(summary['slices'])}"
    )
    noted = [each for each in analysis.slices.to_dict("records") if each["note"]]
    for each in noted[:notes]:
        console.print(f"  {each['property']} {each['slice']}: {each['note']}")
    if len(noted) > notes:
        console.print(f"  and {len(noted) - notes} more in slices.csv")


def describe_jitter(jitter: Mapping[str, Any]) -> str:
    """Return the AUROC in random stain colors, and that without, as text."""
    without = jitter["auroc_without"]
    scores = ", ".join(
        f"{_number(auroc)} on {split} ({_number(without[split])} without)"
        for split, auroc in jitter["auroc"].items()
    )
    return f"in random stain colors (strength {jitter['strength']:g}): auroc {scores}"


def describe_flags(slices: Mapping[str, Any]) -> str:
    """Return what it means that slices are flagged, as text for "N of M slices are ..."."""
    if slices["slides_known"]:
        return "significantly worse than the whole split"
    return (
        "worse than the whole split, if patches are independent (slides are not known, and a slice "
        "with patches of difficult slides looks the same)"
    )


def _unproven(summary: Mapping[str, Any]) -> list[str]:
    """Return the metrics that are better than each constant's, but not significantly."""
    beaten = summary[summary["split"]]["beaten_by_constant"]
    return [name for name in summary["not_beyond_constant"] if name not in beaten]


def _number(value: float | None) -> str:
    return "undefined" if value is None or math.isnan(value) else f"{value:.3f}"
