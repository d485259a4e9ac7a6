"""Schema of the command collect."""

from typing import Annotated

from pydantic import AfterValidator, PositiveFloat

from pcam_lightning.config.schema.fields import Name, StrictModel


def _is_metric(value: str) -> str:
    from pcam_lightning.metrics.metrics import METRICS  # imports NumPy

    if value not in METRICS:
        raise ValueError(f"expected one of {', '.join(METRICS)}")
    return value


class Collect(StrictModel):
    runs: str | list[str]
    metric: Annotated[str, AfterValidator(_is_metric)]
    watch: bool
    every_seconds: PositiveFloat
    cancel: bool
    experiment_name: Name
    run_dir: str
