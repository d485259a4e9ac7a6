"""Disk space that the runs of a sweep need, from the checkpoints of their own networks."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcam_lightning.files import nearest_folder

CHECKPOINTS = 2
"""`best.ckpt` and `last.ckpt`."""
OTHER_FILES_BYTES = 10_000_000
"""Disk space that a run needs besides its checkpoints: predictions, gradients, pictures."""


def disk_problems(configs: Sequence[Mapping[str, Any]], sweep: Path) -> Iterator[str]:
    """Yield a line if the disk of a sweep's folder has no space for its runs.

    Args:
        configs: checked config of each run; those without a network need no space here.
        sweep: folder of the sweep, which may not exist yet.
    """
    needed = space_needed(configs)
    free = shutil.disk_usage(nearest_folder(sweep)).free
    if needed > free:
        yield (
            f"hydra.sweep.dir={sweep}: {len(configs)} runs need about {needed / 1e9:.3g} GB for "
            f"their checkpoints, {free / 1e9:.3g} GB are free; expected another disk, such as "
            "PCAM_OUTPUTS=/scratch/NAME"
        )


def space_needed(configs: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of bytes that runs with these configs write."""
    networks = Counter(
        json.dumps([config["model"], config["optimizer"]], sort_keys=True)
        for config in configs
        if config.get("model") and config.get("optimizer")
    )
    return sum(
        count * (CHECKPOINTS * checkpoint_bytes(*json.loads(network)) + OTHER_FILES_BYTES)
        for network, count in networks.items()
    )


def checkpoint_bytes(model: Mapping[str, Any], optimizer: Mapping[str, Any]) -> int:
    """Return the size of a checkpoint: the weights, and the optimizer's state for each of them.

    Args:
        model, optimizer: sections of a config. Adam keeps two values for each weight, SGD with
            momentum one.
    """
    import torch

    from pcam_lightning.config.network import build_network
    from pcam_lightning.models.pretrained import frozen_keys

    with torch.device("meta"):
        network = build_network(dict(model), pretrained=False).model
    kept = 1 if "momentum" in optimizer else 2
    if "momentum" in optimizer and not optimizer["momentum"]:
        kept = 0
    frozen = frozen_keys(network)
    parameters = dict(network.named_parameters())
    return sum(
        each.numel() * each.element_size() * (1 + kept if key in parameters else 1)
        for key, each in network.state_dict().items()
        if key not in frozen
    )
