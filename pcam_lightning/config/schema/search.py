"""Schema of the Optuna sweeper."""

from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from pcam_lightning.config.schema.fields import Name, Seed, StrictModel


class Search(StrictModel):
    trials: PositiveInt
    parallel: PositiveInt
    metric: Literal["val/auroc", "val/average_precision", "val/accuracy", "val/f2", "val/loss"]
    startup_trials: NonNegativeInt
    pruner: Literal["median"] | None
    warmup_epochs: NonNegativeInt
    seed: Seed
    study: Name
    storage: str | None
    params: dict[str, Any] | None
