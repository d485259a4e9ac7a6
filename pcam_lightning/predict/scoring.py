"""Score the patches of an input with a network, a batch at a time."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from lightning import Fabric
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from pcam_lightning.data.patch_features import compute
from pcam_lightning.errors import InputError
from pcam_lightning.predict.inputs import H5Input, ImageInput, Patches

FEATURE_PATCHES = 4_000
"""Patches, evenly spaced, whose features are computed: enough to see drift (see `metrics.drift`).
Those of every patch would take longer than the forward pass of a small network."""


class Scored(NamedTuple):
    """A batch of N patches with what is known of each."""

    patches: Patches
    logit: NDArray[np.float32]
    """[N]"""
    features: dict[str, NDArray[np.float32]]
    """As from `patch_features.compute`, of some of the patches (see `FEATURE_PATCHES`)."""


def score(
    network: nn.Module, source: H5Input | ImageInput, batch_size: int, fabric: Fabric
) -> Iterator[Scored]:
    """Yield the batches of an input with their logits, in order; memory holds a few at a time.

    Raises:
        InputError: a logit is not finite.
    """
    network = fabric.setup_module(network)
    total, unit = len(source), "patch" if isinstance(source, H5Input) else "file"
    spacing = max(1, total // FEATURE_PATCHES)
    with tqdm(total=total, unit=unit, leave=False, disable=not sys.stderr.isatty()) as bar:
        for patches in source.batches(batch_size):
            with torch.inference_mode():
                image = fabric.to_device(torch.from_numpy(patches.image))
                logit = network(image).float().cpu().numpy()
            if not np.isfinite(logit).all():
                place = int((~np.isfinite(logit)).argmax())
                named = patches.columns["file"][place]
                raise InputError(f"{named}: its logit is not finite; is the checkpoint sound?")
            yield Scored(patches, logit, compute(patches.image[::spacing]))
            bar.update(len(logit) if unit == "patch" else len(set(patches.columns["file"])))
