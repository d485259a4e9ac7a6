"""Report of an audit: numbers for `audit.json`, and a table for the terminal."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE
from rich.table import Table
from sklearn.metrics import roc_auc_score

from pcam_lightning.audit.faults import fences, valid_labels
from pcam_lightning.audit.near_duplicates import NearDuplicates
from pcam_lightning.audit.scan import SplitScan
from pcam_lightning.cli.terminal import Terminal
from pcam_lightning.data.findings import KINDS

BINS = np.arange(0, 256 + 4, 4)  # of the histogram of mean intensities


def describe(
    scans: Mapping[str, SplitScan], findings: pd.DataFrame, near: NearDuplicates | None = None
) -> dict[str, Any]:
    """Describe the splits, count findings by kind, and compute the training split's normalization.

    Mean intensities refer to cleaned patches, 0..255; channel statistics are on the 0..1 scale.
    """
    mean, std = scans["train"].channels.mean_and_std()
    counts = Counter(zip(findings["kind"], findings["split"], strict=True))
    return {
        "splits": {split: _describe_split(scan) for split, scan in scans.items()},
        "findings": {kind: {split: counts[kind, split] for split in scans} for kind in KINDS},
        "kinds": KINDS,
        "near_duplicates": near and near.facts,
        "normalization": {"source": "train", "mean": mean, "std": std},
    }


def print_report(report: Mapping[str, Any]) -> None:
    """Print a row for each property and kind of finding, and a column for each split."""
    splits = report["splits"]
    table = Table(box=SIMPLE, title=f"dataset: {report['dataset']}", title_justify="left")
    table.add_column("", no_wrap=True)
    for split in splits:
        table.add_column(split, justify="right")
    for name, text in _PROPERTIES.items():
        table.add_row(name, *(text(facts) for facts in splits.values()))
    table.add_section()
    for kind, counts in report["findings"].items():
        style = "bold" if any(counts.values()) else "dim"
        table.add_row(kind, *(f"{counts[split]:,}" for split in splits), style=style)
    console = Terminal()
    console.print(table)
    console.print(_comparison(report["near_duplicates"]))
    for split, facts in splits.items():
        if facts["storage"]["bytes"] > 1.5 * facts["storage"]["bytes_as_uint8"]:
            times = facts["storage"]["bytes"] / facts["storage"]["bytes_as_uint8"]
            console.print(f"{split}: {times:.1f} times its uint8 size; {facts['storage']['why']}")


def _describe_split(scan: SplitScan) -> dict[str, Any]:
    valid = valid_labels(scan)
    tumour = int((scan.labels == 1).sum())
    slides = scan.slides
    low, high = fences(scan.mean)
    by_class = [scan.mean[scan.labels == label] for label in (0, 1)]
    both = all(len(means) for means in by_class)
    return {
        "rows": len(scan),
        "tumour": tumour,
        "normal": int(valid.sum()) - tumour,
        "slides": None if slides is None else len(set(slides)),
        "storage": scan.storage,
        "scale": {
            "seems": scan.appearance.name,
            "percentiles": [scan.appearance.low, scan.appearance.high],
            "read_as": str(scan.scale),
        },
        "pixels": {"low": scan.low, "high": scan.high, "cleaned": vars(scan.changes.total())},
        "intensity": {
            "mean": float(scan.mean.mean()),
            "percentiles": dict(
                zip(
                    ("0", "1", "25", "50", "75", "99", "100"),
                    np.percentile(scan.mean, (0, 1, 25, 50, 75, 99, 100)).tolist(),
                    strict=True,
                )
            ),
            "fences": [float(low), float(high)],
            "mean_normal": float(by_class[0].mean()) if len(by_class[0]) else None,
            "mean_tumour": float(by_class[1].mean()) if len(by_class[1]) else None,
            # Far from 0.5, the intensity alone separates the classes.
            "label_auroc": float(roc_auc_score(scan.labels[valid] == 1, scan.mean[valid]))
            if both
            else None,
            "histogram": {
                "edges": BINS.tolist(),
                "normal": np.histogram(by_class[0], BINS)[0].tolist(),
                "tumour": np.histogram(by_class[1], BINS)[0].tolist(),
            },
        },
    }


def _comparison(facts: Mapping[str, int] | None) -> str:
    """Report how many patches were searched for near-duplicates, and what was left out."""
    if facts is None:
        return "near-duplicates: not searched (audit.near_duplicates=false)"
    text = f"near-duplicates: {facts['compared']:,} different patches compared"
    if facts["not_compared"]:
        text += f", {facts['not_compared']:,} not compared since they have too little structure"
    if facts["landmark_pairs_left_out"]:
        text += f", {facts['landmark_pairs_left_out']:,} pairs of too common landmarks left out"
    return text


def _auroc(facts: Mapping[str, Any]) -> str:
    value = facts["intensity"]["label_auroc"]
    return "one class" if value is None else f"{value:.3f}"


def _scale(facts: Mapping[str, Any]) -> str:
    seems, read_as = facts["scale"]["seems"], facts["scale"]["read_as"]
    return seems if seems == read_as else f"{seems}, read as {read_as}"


_PROPERTIES = {
    "patches": lambda facts: f"{facts['rows']:,}",
    "tumour": lambda facts: f"{facts['tumour'] / facts['rows']:.1%}",
    "slides": lambda facts: "unknown" if facts["slides"] is None else f"{facts['slides']}",
    "dtype": lambda facts: facts["storage"]["dtype"],
    "layout": lambda facts: (
        f"{facts['storage']['layout'].split(' ')[0]} {facts['storage']['compression'] or ''}"
    ).strip(),
    "GB on disk": lambda facts: f"{facts['storage']['bytes'] / 1e9:.3f}",
    "GB as uint8": lambda facts: f"{facts['storage']['bytes_as_uint8'] / 1e9:.3f}",
    "scale": _scale,
    "pixel range": lambda facts: f"{facts['pixels']['low']:g} to {facts['pixels']['high']:g}",
    "mean intensity": lambda facts: f"{facts['intensity']['mean']:.1f}",
    "AUROC of intensity": _auroc,
}
