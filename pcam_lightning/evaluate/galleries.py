"""Exhibits with their pixels: pictures of patches, and of what the model looked at in them."""

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
    """Draw every exhibit of an analysis into `plots/` of a run folder.

    Args:
        folder: the run folder.
        analysis: of the predictions.
        specimens: its patches; without any nothing is drawn, and that is said.
        model: for the attribution; may be None where there is none.
        method: of attribution, or "none".
        title: what every picture is marked with.

    Returns:
        The exhibits with pixels, and for the summary `galleries` (name to the number of patches, or
        `left_out` and why) and `attribution` (`in_center`: by exhibit, the mean share of what spoke
        for the decision that lies in the center, of which `area_of_center` is the area's).
    """
    if patch_source.missing:
        log.warning("galleries are left out: %s", patch_source.missing)
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
            hot = heat(patches, maps)
            gallery = Gallery(each, patches, hot, center_share(maps))
            facts["attribution"]["in_center"][each.name] = gallery.center_mean
            path = folder / "plots" / f"{each.name}_attribution.png"
            plot_gallery(path, hot, texts, f"{method}: {heading}")
        galleries.append(gallery)
    return galleries, facts
