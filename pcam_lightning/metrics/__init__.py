"""Pure functions of a predictions table: metrics, intervals, baselines, calibration, thresholds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcam_lightning.metrics.baselines import beaten_by_constant, constant_baselines
    from pcam_lightning.metrics.calibration import (
        calibrated,
        calibration_error,
        fit_temperature,
        prior_offset,
    )
    from pcam_lightning.metrics.intervals import difference_intervals, metric_intervals
    from pcam_lightning.metrics.metrics import METRICS, compute_metrics, is_tumour
    from pcam_lightning.metrics.predictions import read_predictions, write_predictions
    from pcam_lightning.metrics.summary import summarize
    from pcam_lightning.metrics.thresholds import choose_threshold, parse_rule

__all__ = [
    "METRICS",
    "beaten_by_constant",
    "calibrated",
    "calibration_error",
    "choose_threshold",
    "compute_metrics",
    "constant_baselines",
    "difference_intervals",
    "fit_temperature",
    "is_tumour",
    "metric_intervals",
    "parse_rule",
    "prior_offset",
    "read_predictions",
    "summarize",
    "write_predictions",
]

_MODULES = {
    "baselines": ("beaten_by_constant", "constant_baselines"),
    "calibration": ("calibrated", "calibration_error", "fit_temperature", "prior_offset"),
    "intervals": ("difference_intervals", "metric_intervals"),
    "metrics": ("METRICS", "compute_metrics", "is_tumour"),
    "predictions": ("read_predictions", "write_predictions"),
    "summary": ("summarize",),
    "thresholds": ("choose_threshold", "parse_rule"),
}


def __getattr__(name: str) -> Any:
    # Imported on demand: calibration needs SciPy, and the commands have to start fast.
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
