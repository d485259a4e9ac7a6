"""Folders of synthetic runs and sweeps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcam_lightning.metrics.metrics import METRICS

CONSTANTS: dict[str, dict[str, Any]] = {
    "majority": dict.fromkeys(METRICS, 0.5) | {"f2": 0.0, "brier": 0.25, "log_loss": 0.693},
    "all_tumour": dict.fromkeys(METRICS, 0.5) | {"f2": 0.833, "brier": 0.25, "log_loss": 0.693},
}
CONSTANTS["majority"] |= {"sensitivity": 0.0, "specificity": 1.0, "precision": None}
CONSTANTS["all_tumour"] |= {"sensitivity": 1.0, "specificity": 0.0}


def scores(**given: float | None) -> dict[str, Any]:
    """Return one split of a summary: 0.9 for each metric, 0.1 for each loss, except those given."""
    values = dict.fromkeys(METRICS, 0.9) | {"brier": 0.1, "log_loss": 0.1} | given
    return {
        "metrics": {name: {"value": value} for name, value in values.items()},
        "baselines": CONSTANTS,
    }


def write_run(
    folder: Path,
    overrides: Sequence[str],
    val: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    state: str = "finished",
    error: str | None = None,
    started: str = "2026-01-01T00:00:00+00:00",
    dataset: str = "demo",
    config: dict[str, Any] | None = None,
    **status: Any,
) -> Path:
    """Write a run folder of `train`; with a summary if `state` is finished.

    Args:
        val, test: from `scores`.
        config: the manifest's config.
        status: more entries of status.json.
    """
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    (folder / ".hydra" / "config.yaml").write_text("trainer:\n  max_epochs: 5\n")
    seeds = [int(each[5:]) for each in overrides if each.startswith("seed=")]
    manifest = {
        "started": started,
        "seed": seeds[-1] if seeds else 42,
        "dataset": {"name": dataset},
        "git": {"commit": "abc"},
        "hardware": {"host": "box"},
        "slurm": None,
    }
    if config is not None:
        manifest["config"] = config
    (folder / "manifest.json").write_text(json.dumps(manifest))
    failure = error and {"type": "InputError", "text": error, "traceback": None}
    status = {"state": state, "error": failure, "host": "elsewhere", "started": started} | status
    (folder / "status.json").write_text(json.dumps(status))
    if state == "finished":
        summary = {
            "dataset": dataset,
            "seconds": 10.0,
            "training_patches_per_second": 1000.0,
            "weights_digest": "d",
            "best_checkpoint": "checkpoints/best.ckpt",
            "val": val or scores(),
            "test": test or scores(),
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_sweep(
    folder: Path, jobs: Sequence[dict[str, Any]], executor: str = "slurm", **more: Any
) -> Path:
    """Write the launcher's sweep.json; each job gets defaults for the keys it lacks.

    `more` are other entries, such as `submitter`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    filled = [
        {"number": i, "overrides": [f"seed={i}"], "folder": str(i), "job_id": f"12_{i}"}
        | {"log": f".submitit/12_{i}/12_{i}_0_log.err"}
        | job
        for i, job in enumerate(jobs)
    ]
    sweep = {"command": "train", "submitted": "2026-01-01T00:00:00+00:00", "executor": executor}
    (folder / "sweep.json").write_text(json.dumps(sweep | more | {"jobs": filled}))
    return folder
