"""Small folders of every kind that the checks read, without anything to report."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pcam_lightning.data.findings import COLUMNS, write_findings
from pcam_lightning.files import write_json
from pcam_lightning.metrics.predictions import write_predictions
from pcam_lightning.metrics.summary import summarize

FINGERPRINT = "f" * 32
ROWS = 60
RATES = {0.001: 0.90, 0.01: 0.95, 0.1: 0.85}
"""Validation AUROC by learning rate."""


def write_sound(root: Path) -> None:
    """Write a sweep of nine training runs, and one folder of each other command."""
    places = [(rate, seed) for rate in RATES for seed in (1, 2, 3)]
    for number, (rate, seed) in enumerate(places):
        write_train(root / "sweep" / str(number), rate, seed, RATES[rate] + seed / 1000)
    write_json(root / "sweep" / "sweep.json", {"executor": "local", "jobs": []})
    write_audit(root / "audit", [])
    write_evaluate(root / "evaluate")
    write_run(root / "reproduce", {"identical": True, "verdict": "identical"})
    differences = [
        {"kind": "config", "name": "seed", "values": [1, 2], "matters": True, "detail": []}
    ]
    write_run(root / "compare", {"runs": ["a", "b"], "names": ["a", "b"], "verdict": ["other"]})
    write_json(
        root / "compare" / "compare.json",
        {"names": ["a", "b"], "differences": differences, "pairs": [{"same_weights": False}]},
    )
    row = {"contender": "pcam_lightning", "model": "cnn", "batch_size": 128, "median": 100.0}
    row |= {"waiting": 0.01, "overhead": 0.02}
    write_run(root / "benchmark", {"mode": "train", "dataset": "pcam", "rows": [row]})
    compared = {"patches": 100, "largest_difference": 1e-7, "flipped_decisions": 0}
    compared |= {"tolerance": 1e-4, "auroc": {"pytorch": 0.9, "exported": 0.9}}
    archive = {"archive": "pcam.zip", "model": compared, "files": ["verify.py"]}
    write_run(root / "bundle", archive | {"weights_digest": "w"})
    write_run(root / "export", {"files": {"model.onnx": compared}, "weights_digest": "w"})


def write_run(folder: Path, summary: dict[str, Any], **manifest: Any) -> None:
    """Write a finished run of a command."""
    write_json(folder / "summary.json", summary)
    write_json(
        folder / "manifest.json",
        {"started": "2026-01-01T00:00:00+00:00", "command": ["python"], "seed": None}
        | {"dataset": {"name": "pcam", "fingerprint": FINGERPRINT}}
        | manifest,
    )
    write_json(folder / "status.json", {"state": "finished", "host": "elsewhere"})


def write_train(folder: Path, rate: float, seed: int, auroc: float) -> None:
    """Write a finished run of `train`."""
    label = np.arange(ROWS) % 2
    # A few errors on both sides, so that the AUROC is no bound.
    logit = np.where(label == 1, 2.0, -2.0) * np.where(np.arange(ROWS) % 20 < 2, -1, 1)
    for split in ("val", "test"):
        write_predictions(folder / f"predictions/{split}.parquet", np.arange(ROWS), label, logit)
    table = pd.read_parquet(folder / "predictions/test.parquet")
    scores = summarize(table, 0.5, 0.5, resamples=100)
    scores["metrics"]["auroc"] = {"value": auroc, "low": auroc - 0.05, "high": auroc + 0.04}
    write_run(
        folder,
        {"dataset": "pcam", "val": scores, "test": scores, "weights_digest": f"w{rate}{seed}"}
        | {"waiting_for_data": 0.02, "seconds": 1.0}
        | {"data": {"rows": {"train": 1000}, "dropped": {"excluded": 0, "blank": 0}}},
        seed=seed,
        git={"commit": "c" * 40, "dirty": False, "patch_left_out": []},
        sources={"pcam_lightning/__init__.py": "a"},
        python={"version": "3.11.7"},
        hardware={"gpus": []},
        determinism={"deterministic_algorithms": False},
        config={
            "seed": seed,
            "run_dir": str(folder),
            "data": {"seed": seed, "exclude": None},
            "optimizer": {"lr": rate},
            "trainer": {"gradient_clip_val": 1.0, "accelerator": "auto"},
            "callbacks": {"checkpoint": {"monitor": "val/auroc", "mode": "max"}},
        },
    )
    (folder / "environment.txt").write_text("torch==2.14\n")
    (folder / "code.patch").write_bytes(b"")
    (folder / ".hydra").mkdir(exist_ok=True)
    overrides = [f"optimizer.lr={rate}", f"seed={seed}"]
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(overrides))
    write_history(folder, [0.7, 0.8, 0.9, 0.95, 0.94])
    write_gradients(folder)


def write_history(folder: Path, auroc: list[float]) -> None:
    """Write `metrics.csv` with one row per epoch."""
    epochs = range(len(auroc))
    table = pd.DataFrame({"epoch": epochs, "step": epochs, "val/auroc": auroc})
    table.to_csv(folder / "metrics.csv", index=False)


def write_gradients(folder: Path, **columns: Any) -> None:
    """Write `gradients.parquet` with 100 steps: a falling loss, and one spike on rows 1 to 20."""
    steps = 100
    rows = pa.array([None] * 50 + [list(range(1, 21))] + [None] * 49, pa.list_(pa.int64()))
    sound = {"step": range(steps), "epoch": [0] * steps, "loss": np.linspace(0.7, 0.2, steps)}
    sound |= {"norm": np.full(steps, 0.5), "norm_clipped": np.full(steps, 0.5), "rows": rows}
    pq.write_table(pa.table(sound | columns), folder / "gradients.parquet")


def write_audit(folder: Path, findings: list[tuple[str, int, str, str]]) -> None:
    """Write a finished audit with these findings (split, row, kind, value)."""
    table = pd.DataFrame(findings, columns=COLUMNS)  # type: ignore[arg-type]
    shared = table["kind"] == "slide_overlap"
    counts = {split: (shared & (table["split"] == split)).sum() for split in ("train", "test")}
    head = {"dataset": "pcam", "fingerprint": FINGERPRINT}
    write_run(folder, head | {"findings": {}, "failed_on": {}})
    splits = {"train": 1000, "valid": ROWS, "test": ROWS}
    facts = {split: {"rows": rows, "slides": 8} for split, rows in splits.items()}
    write_json(
        folder / "audit.json", head | {"splits": facts, "findings": {"slide_overlap": counts}}
    )
    write_findings(table, folder / "findings.parquet", FINGERPRINT)


def write_evaluate(folder: Path) -> None:
    """Write a finished evaluation of the first run of the sweep."""
    label = np.arange(ROWS) % 2
    write_predictions(
        folder / "predictions/test.parquet", np.arange(ROWS), label, np.where(label, 2.0, -2.0)
    )
    error = {"value": 0.02, "low": 0.0, "high": 0.05, "if_perfect": 0.02, "if_perfect_high": 0.03}
    write_run(
        folder,
        {
            "dataset": "pcam",
            "subject": "Checkpoint best.ckpt.",
            "split": "test",
            "calibration": {"before": {"ece": error | {"value": 0.3}}, "after": {"ece": error}},
            "slices": {"slides_known": True, "scored": 20, "worse": []},
            "attribution": {"method": "occlusion", "area_of_center": 1 / 9}
            | {"in_center": {"misses": 0.7, "false_alarms": 0.6}},
            "inference": {"weights_digest": "w0.0011"},
        },
    )


def runs(root: Path) -> Iterator[Path]:
    """Yield the training runs of `write_sound`."""
    yield from sorted(path.parent for path in root.glob("sweep/*/manifest.json"))


def edit(path: Path, changes: dict[str, Any]) -> None:
    """Change dotted keys of a JSON file; None removes a key."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *sections, last = key.split("/")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
        if value is None:
            del section[last]
    write_json(path, content)
