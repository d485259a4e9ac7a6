"""The whole evaluation as one HTML file, which opens from a USB stick: nothing is fetched."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pcam_lightning.evaluate.analysis import Analysis
from pcam_lightning.evaluate.selection import Selection, shown
from pcam_lightning.files import atomic_write
from pcam_lightning.metrics.metrics import METRICS

TEMPLATES = Path(__file__).parent


@dataclass(frozen=True)
class Gallery:
    """An exhibit with its pixels."""

    selection: Selection
    patches: NDArray[np.uint8]
    """[n, 96, 96, 3], in the exhibit's order."""
    heat: NDArray[np.uint8] | None = None
    """[n, 96, 96, 3], what the model looked at, if that is known."""
    center: NDArray[np.float64] | None = None
    """[n], the share of it in the center 32 x 32."""

    @property
    def center_mean(self) -> float | None:
        """Over the patches that have one, NaN if none has; None where it is not known."""
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

    Whatever comes from a file (names of slides, data and folders) is escaped, and a content
    security policy lets the browser load nothing and run nothing.

    Args:
        path: HTML file to write.
        summary: as in `summary.json`.
        analysis: what to show.
        plots: PNG files by name, to be taken into the page.
        hangings: exhibits with pixels; without any, the page says why, from the summary.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "count": lambda n: f"{n:,}"}
    text = environment.get_template("page.html.j2").render(
        summary=summary,
        split=analysis.split,
        scores=summary[analysis.split],
        metrics=list(METRICS),
        slices=_slices(analysis.slices),
        plots={name: _data_uri(file.read_bytes()) for name, file in plots.items()},
        galleries=[_gallery(analysis.table, each) for each in galleries],
    )
    atomic_write(path, text)


def number(value: float | None) -> str:
    """Three digits; a dash for what is undefined."""
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
                "image": _data_uri(_png(gallery.patches[i])),
                "heat": None if gallery.heat is None else _data_uri(_png(gallery.heat[i])),
                "center": None if gallery.center is None else gallery.center[i],
                "row": record["row"],
                "tumour": bool(record["label"]),
                "probability": shown(record["probability"]),
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


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
