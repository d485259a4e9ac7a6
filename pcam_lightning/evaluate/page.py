"""Report page of an evaluation: one HTML file with all pictures inside, which needs no network."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pcam_lightning.evaluate.analysis import Analysis, describe_calibration
from pcam_lightning.evaluate.report import describe_flags, describe_jitter
from pcam_lightning.evaluate.selection import Selection, format_probability
from pcam_lightning.files import atomic_write
from pcam_lightning.metrics.interval_text import describe_interval
from pcam_lightning.metrics.metrics import METRICS
from pcam_lightning.plots.page import data_uri, page_templates

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Gallery:
    """A selection of patches with its pixels."""

    selection: Selection
    patches: NDArray[np.uint8]
    """[n, 96, 96, 3], in the order of the selection."""
    heat: NDArray[np.uint8] | None = None
    """[n, 96, 96, 3], the patches with their attribution drawn over them, if computed."""
    center: NDArray[np.float64] | None = None
    """[n], the share of each attribution in the center 32 x 32 pixels; NaN if it is 0."""

    @property
    def center_mean(self) -> float | None:
        """The mean of `center` without NaN; NaN if all are NaN, None without attribution."""
        if self.center is None:
            return None
        known = self.center[np.isfinite(self.center)]
        return float(known.mean()) if len(known) else float("nan")


def write_page(
    path: str | os.PathLike[str],
    summary: Mapping[str, Any],
    analysis: Analysis,
    plots: Mapping[str, Path],
    galleries: Sequence[Gallery],
) -> None:
    """Write the page, atomically.

    All text from files (names of slides, data sets and folders) is escaped, and a content
    security policy forbids the browser to load or run anything.

    Args:
        path: HTML file to write.
        summary: as in `summary.json`.
        analysis: the results to show.
        plots: PNG files by name, embedded into the page.
        galleries: patches to show; if there are none, the page gives the summary's reason.
    """
    jitter = summary["inference"] and summary["inference"]["stain_jitter"]
    environment = page_templates(TEMPLATES)
    environment.filters |= {"number": number, "count": lambda n: f"{n:,}"}
    text = environment.get_template("page.html.j2").render(
        summary=summary,
        split=analysis.split,
        scores=summary[analysis.split],
        metrics=list(METRICS),
        interval_rests_on=describe_interval(summary[analysis.split]["interval"]["slides"]),
        calibration_text=describe_calibration(summary["temperature"], summary["prior_offset"]),
        flags=describe_flags(summary["slices"]),
        jitter=jitter and describe_jitter(jitter),
        slices=_slices(analysis.slices),
        plots={name: data_uri(file.read_bytes()) for name, file in plots.items()},
        galleries=[_gallery(analysis.table, each) for each in galleries],
    )
    atomic_write(path, text)


def number(value: float | None) -> str:
    """Return a number with three decimals, a dash if it is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.3f}"


def _slices(table: pd.DataFrame) -> list[dict[str, Any]]:
    records = table.to_dict("records")
    for record in records:
        record["worse"] = record["worse"].split()
    return records  # type: ignore[return-value]


def _gallery(table: pd.DataFrame, gallery: Gallery) -> dict[str, Any]:
    patches = []
    for i, record in enumerate(table.iloc[gallery.selection.rows].to_dict("records")):
        patches.append(
            {
                "image": data_uri(_png(gallery.patches[i])),
                "heat": None if gallery.heat is None else data_uri(_png(gallery.heat[i])),
                "center": None if gallery.center is None else gallery.center[i],
                "row": record["row"],
                "tumour": bool(record["label"]),
                "probability": format_probability(record["probability"]),
                "slide": record.get("slide"),
            }
        )
    return {
        "name": gallery.selection.name,
        "title": gallery.selection.title,
        "patches": patches,
        "center": gallery.center_mean,
    }


def _png(patch: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(patch).save(buffer, "png")
    return buffer.getvalue()
