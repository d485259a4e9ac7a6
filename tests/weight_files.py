"""Pretrained weights as their publishers lay them out: repositories, caches, checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor

STATISTICS = {"mean": [0.7, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def new_state(name: str = "test_resnet", seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    """Return new weights of timm's network, with a classifier of 10 classes."""
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=10, **arguments).state_dict()


def write_repository(
    folder: Path,
    name: str = "test_resnet",
    file: str | None = "model.safetensors",
    readme: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    **stated: Any,
) -> dict[str, Tensor]:
    """Write a folder of the Hub and return its weights.

    Args:
        folder: to be created.
        name: an architecture of timm.
        file: file of the weights; None for none.
        readme: text of `README.md`.
        model_args: as in `config.json`.
        stated: keys of `pretrained_cfg`.
    """
    folder.mkdir(parents=True)
    config = {"architecture": name, "num_classes": 10, "model_args": dict(model_args or {})}
    config["pretrained_cfg"] = {"input_size": [3, 160, 160]} | STATISTICS | stated
    (folder / "config.json").write_text(json.dumps(config))
    state = new_state(name, **(model_args or {}))
    if file is not None:
        write_state(folder / file, state)
    if readme is not None:
        (folder / "README.md").write_text(readme)
    return state


def write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write weights in the format that the file's name stands for."""
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(dict(state), path)


def write_cached(cache: Path, repository: str, revision: str = "main", **given: Any) -> Any:
    """Write a repository into a cache of the Hub; arguments as for `write_repository`."""
    folder, commit = cache / f"models--{repository.replace('/', '--')}", "0123abcd" * 5
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    return write_repository(folder / "snapshots" / commit, **given)
