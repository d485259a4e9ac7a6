"""Pictures of an audit: intensities and counts by class, and galleries of the findings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pcam_lightning.audit.correlation import Alignment
from pcam_lightning.audit.scan import SplitScan
from pcam_lightning.data.findings import KINDS
from pcam_lightning.plots.galleries import plot_gallery
from pcam_lightning.plots.scores import CLASS_NAMES
from pcam_lightning.plots.style import BLUE, GRAY, ORANGE, save

COLORS = dict(zip(CLASS_NAMES, (BLUE, ORANGE), strict=True))


def draw_audit(
    folder: Path, report: Mapping[str, Any], scans: Mapping[str, SplitScan],
    findings: pd.DataFrame, gallery: int, near_duplicates: pd.DataFrame | None = None,
) -> None:  # fmt: skip
    """Write the plots, and a gallery of up to `gallery` patches for each kind of finding.

    Equal patches are shown next to each other, and so are near-duplicates (the table of
    `NearDuplicates`), with the transformation between them.
    """
    _plot_intensity(folder / "intensity.png", report)
    _plot_classes(folder / "classes.png", report)
    patches = {split: scan.patches() for split, scan in scans.items()}

    def draw_gallery(name: str, rows: list[tuple[str, int, str]], title: str) -> None:
        pixels = np.concatenate([patches[split][np.array([row])] for split, row, _ in rows])
        captions = [
            f"{split}:{row} {_label(scans[split], row)}\n{text}".strip()
            for split, row, text in rows
        ]
        heading = f"{title}, dataset: {report['dataset']}"
        plot_gallery(folder / f"{name}.png", pixels, captions, heading)

    relations = _relations(near_duplicates)
    for kind in KINDS:
        of_kind = findings["kind"] == kind
        columns = (findings.loc[of_kind, name].tolist() for name in ("split", "row", "value"))
        found = list(zip(*columns, strict=True))
        rows: list[tuple[str, int, str]] = []
        pairs: set[frozenset[str]] = set()
        for split, row, value in _spread(found, gallery):
            other, _, other_row = value.partition(":")
            pair = frozenset((f"{split}:{row}", value))
            if other not in scans:
                rows.append((split, row, _UNITS.get(kind, "{}").format(value)))
            elif pair not in pairs:
                pairs.add(pair)
                text = relations.get((kind, split, row), f"equals {value}")
                rows += [(split, row, text), (other, int(other_row), "")]
        if rows:
            draw_gallery(f"found_{kind}", rows[:gallery], f"{kind}: {len(found):,} found")
    half = max(1, gallery // 2)
    for split, scan in scans.items():
        order = np.argsort(scan.mean, kind="stable")
        ends = [*order[:half], *order[-half:]] if len(order) > 2 * half else list(order)
        rows = [(split, int(row), f"mean {scan.mean[row]:.1f}") for row in ends]
        draw_gallery(f"extremes_{split}", rows, f"darkest and brightest of {split}")


def _relations(near_duplicates: pd.DataFrame | None) -> dict[tuple[str, str, int], str]:
    """Return the captions of near-duplicates by kind, split and row."""
    if near_duplicates is None:
        return {}
    return {
        (kind, split, row): f"shows {other}:{other_row}, {Alignment(*alignment)}"
        for split, row, kind, other, other_row, *alignment in near_duplicates.itertuples(
            index=False
        )
    }


_UNITS = {
    "nan_pixels": "{} values",
    "infinity": "{} values",
    "out_of_range": "{} values",
    "black": "mean {}",
    "white": "mean {}",
    "outlier": "mean {}",
}


def _spread(found: list[tuple[Any, ...]], count: int) -> list[tuple[Any, ...]]:
    """Return up to `count` findings at even distances in the list, so that it covers all splits."""
    if len(found) <= count:
        return found
    return [found[place] for place in np.linspace(0, len(found) - 1, count).astype(int)]


def _label(scan: SplitScan, row: int) -> str:
    label = scan.labels[row]
    return CLASS_NAMES[int(label)] if label in (0, 1) else f"label {label:g}"


def _plot_intensity(path: Path, report: Mapping[str, Any]) -> None:
    splits = report["splits"]
    figure = Figure(figsize=(4.2 * len(splits), 3.8), dpi=150, layout="constrained")
    for place, (split, facts) in enumerate(splits.items(), start=1):
        axes = figure.add_subplot(1, len(splits), place)
        intensity = facts["intensity"]
        edges = intensity["histogram"]["edges"]
        for name, color in COLORS.items():
            counts = np.array(intensity["histogram"][name])
            share = counts / max(1, counts.sum())
            axes.stairs(share, edges, color=color, fill=True, alpha=0.35, label=name)
            axes.stairs(share, edges, color=color, linewidth=1.5)
        for fence in intensity["fences"]:
            if 0 < fence < 255:
                axes.axvline(fence, color=GRAY, linestyle=":", linewidth=1.5)
        auroc = intensity["label_auroc"]
        text = "one class only" if auroc is None else f"AUROC of the intensity: {auroc:.3f}"
        axes.set_title(f"{split}, {text}", fontsize=10, loc="left")
        axes.set(xlim=(0, 256), xlabel="mean intensity of a patch, 0 to 255")
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.set_ylabel("share of the class")
            axes.legend(frameon=False)
    title = f"Intensity by class (dotted: limits of outliers), dataset: {report['dataset']}"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    save(figure, path)


def _plot_classes(path: Path, report: Mapping[str, Any]) -> None:
    splits = report["splits"]
    figure = Figure(figsize=(6.4, 0.9 + 0.8 * len(splits)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    names = list(splits)
    left = np.zeros(len(names))
    for name, color in COLORS.items():
        counts = np.array([splits[split][name] for split in names])
        shares = counts / np.array([splits[split]["rows"] for split in names])
        bars = axes.barh(names, shares, left=left, color=color, label=name)
        texts = [f"{count:,}\n{share:.1%}" for count, share in zip(counts, shares, strict=True)]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        left += shares
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the patches in the files")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    axes.set_title(f"Classes, dataset: {report['dataset']}", fontsize=12, loc="right")
    save(figure, path)
