"""Training machinery around a network: Lightning module, schedules, checkpoints, callbacks."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcam_lightning.engine.module import PCamClassifier

__all__ = ["PCamClassifier"]


def __getattr__(name: str) -> Any:
    # Imported on demand: parts of the engine need neither torch nor Lightning.
    if name == "PCamClassifier":
        from pcam_lightning.engine.module import PCamClassifier

        return PCamClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
