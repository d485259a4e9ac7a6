"""Translation of the configs of earlier versions to the current names."""

from collections.abc import Mapping
from typing import Any

TARGETS = {
    "pcam_lightning.augment.Dihedral": "pcam_lightning.engine.augment.RandomD4",
    "pcam_lightning.augment.Stain": "pcam_lightning.engine.augment.StainJitter",
    "pcam_lightning.augment.Unchanged": "pcam_lightning.engine.augment.Identity",
    "pcam_lightning.callbacks.EpochLines": "pcam_lightning.engine.callbacks.EpochLogger",
    "pcam_lightning.callbacks.GradientNorm": "pcam_lightning.engine.callbacks.GradientNorm",
    "pcam_lightning.callbacks.LastCheckpoint": (
        "pcam_lightning.engine.callbacks.PreemptionCheckpoint"
    ),
    "pcam_lightning.callbacks.Throughput": "pcam_lightning.engine.callbacks.Throughput",
    "pcam_lightning.callbacks.progress": "pcam_lightning.engine.callbacks.progress",
    "pcam_lightning.checkpoint_io.AtomicCheckpointIO": (
        "pcam_lightning.engine.checkpoints.AtomicCheckpointIO"
    ),
    "pcam_lightning.loggers.CSVLogger": "pcam_lightning.engine.loggers.CSVLogger",
    "pcam_lightning.schedulers.constant": "pcam_lightning.engine.schedulers.constant",
    "pcam_lightning.schedulers.cosine": "pcam_lightning.engine.schedulers.cosine",
    "pcam_lightning.schedulers.onecycle": "pcam_lightning.engine.schedulers.onecycle",
    "pcam_lightning.schedulers.plateau": "pcam_lightning.engine.schedulers.plateau",
    "pcam_lightning.schedulers.step": "pcam_lightning.engine.schedulers.step",
}
"""Old to new `_target_`, at any depth of a config."""

CHOICES: dict[str, dict[Any, Any]] = {
    "sampler": {"weighted": "balanced"},
    "normalize": {"half": "symmetric"},
    "cache": {"auto": True, "off": False},
    "preflight": {"on": True, "off": False},
    "resume": {"auto": True},
    "exclude_kinds": {"nan": "nan_pixels"},
    "fail_on": {"nan": "nan_pixels"},
}
"""Key to old and new values; in a list, of its items."""

CHECKPOINT = {
    "lightning.pytorch.callbacks.ModelCheckpoint": "pcam_lightning.engine.callbacks.BestCheckpoint"
}
"""Old to new `_target_` of `callbacks.checkpoint`; other callbacks keep Lightning's class."""

COMPILATION = (
    "pcam_lightning.callbacks.Compilation",
    "pcam_lightning.engine.callbacks.Compilation",
)
"""Targets of a callback that earlier versions used for `compile`; the key alone does it today."""

LATER = {"data": {"default_root": None, "scale": "auto", "keys": None}}
"""Section to keys that earlier versions lacked, with the value of the earlier behavior."""

NETWORKS = {"pcam_lightning.models.CNN": {"center_max": False}}
"""`model._target_` to the arguments that earlier versions lacked, with the earlier behavior."""


def translate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which current names replace those of earlier versions.

    `translate(translate(x)) == translate(x)`. A config of this version does not change.
    """
    renamed = _renamed(config, "")
    for section, keys in LATER.items():
        if isinstance(renamed.get(section), dict):
            renamed[section] = keys | renamed[section]
    model = renamed.get("model")
    if isinstance(model, dict) and isinstance(target := model.get("_target_"), str):
        renamed["model"] = NETWORKS.get(target, {}) | model
    callbacks = renamed.get("callbacks")
    if not isinstance(callbacks, dict):
        return renamed
    part = callbacks.get("compilation")
    if isinstance(part, dict) and part.get("_target_") in COMPILATION:
        del callbacks["compilation"]
        if isinstance(enabled := part.get("enabled"), bool):
            renamed["compile"] = enabled
    part = callbacks.get("checkpoint")
    if isinstance(part, dict) and isinstance(target := part.get("_target_"), str):
        part["_target_"] = CHECKPOINT.get(target, target)
    return renamed


def _renamed(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _renamed(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, key) for item in value]
    if not isinstance(value, str | bool):
        return value
    table: Mapping[str | bool, Any] = {**TARGETS} if key == "_target_" else CHOICES.get(key, {})
    return table.get(value, value)
