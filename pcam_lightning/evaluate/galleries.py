"""Galleries of selected patches, with and without attribution maps."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcam_lightning.evaluate.analysis import Analysis
from pcam_lightning.evaluate.page import Gallery
from pcam_lightning.evaluate.patches import PatchSource
from pcam_lightning.evaluate.selection import captions, center_share
from pcam_lightning.plots.galleries import heat, plot_gallery

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


def draw_galleries(
    folder: Path,
    analysis: Analysis,
    patch_source: PatchSource,
    model: "nn.Module | None",
    method: str,
    title: str,
) -> tuple[list[Gallery], dict[str, Any]]:
    """Draw every selection of an analysis into `plots/` of a run folder.

    Args:
        folder: the run folder.
        analysis: the selections to draw.
        patch_source: the pixels; without them nothing is drawn, and a warning is logged.
        model: the network to explain; None is allowed if `method` is "none".
        method: attribution method, or "none".
        title: text in the title of every picture.

    Returns:
        The galleries, and two entries for the summary. `galleries` maps names to numbers of
        patches, or `left_out` to the reason. `attribution` is None or holds the `method`,
        `in_center` (gallery to the mean share of the attribution in the center 32 x 32 pixels)
        and `area_of_center` (the center's share of the area).
    """
    if patch_source.missing:
        log.warning("no galleries: %s", patch_source.missing)
        return [], {"galleries": {"left_out": f"left out: {patch_source.missing}"}}
    facts: dict[str, Any] = {"galleries": {}, "attribution": None}
    if method != "none":
        facts["attribution"] = {"method": method, "area_of_center": 1 / 9, "in_center": {}}
    pixels, galleries = patch_source.patches(analysis.split), []
    for each in analysis.selections:
        facts["galleries"][each.name] = len(each.rows)
        patches = pixels[analysis.table["row"].to_numpy()[each.rows]]
        heading = f"{each.title}, {analysis.split}, {title}"
        texts = captions(analysis.table, each.rows)
        gallery = Gallery(each, patches)
        if len(patches):
            plot_gallery(folder / "plots" / f"{each.name}.png", patches, texts, heading)
        if len(patches) and method != "none":
            from pcam_lightning.evaluate.attribution import attribute

            assert model is not None
            maps = attribute(model, patches, analysis.threshold, method)
            overlays = heat(patches, maps)
            gallery = Gallery(each, patches, overlays, center_share(maps))
            facts["attribution"]["in_center"][each.name] = gallery.center_mean
            path = folder / "plots" / f"{each.name}_attribution.png"
            plot_gallery(path, overlays, texts, f"{method}: {heading}")
        galleries.append(gallery)
    return galleries, facts
