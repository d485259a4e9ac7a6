"""Checks of a run's training: length, loss, clipping and gradient spikes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import bdtrc

from pcam_lightning.checks.contents import TrainSummary, read_manifest, read_summary, setting
from pcam_lightning.checks.inputs import COMMANDS, Folder, Inputs
from pcam_lightning.checks.outcome import Verdict, issue, not_applicable, passed, tip
from pcam_lightning.runs.files import RunFileError
from pcam_lightning.runs.growing_table import read_table

if TYPE_CHECKING:
    import pandas as pd

MONITOR = "val/auroc"
"""The metric that selects the best epoch, unless the config names another."""
EARLY = 0.25
"""Share of the epochs that counts as the start of training."""
FEWEST_EPOCHS, FEWEST_STEPS = 4, 100
"""Smallest numbers of epochs and steps that show a trend."""
DIVERGED, FELL = 1.1, 0.98
"""Mean loss of the last tenth of the steps, relative to the first tenth: above the first number
training diverged, above the second one it did not learn."""
CLIPPED = 0.5
"""Largest share of clipped steps that is not reported."""
SPIKE_PATCHES = 8
"""Patches with the highest loss that are looked at in each gradient spike."""
SIGNIFICANCE = 0.01
DAMAGE = (
    "nan_pixels", "infinity", "out_of_range", "black", "white", "contradiction", "invalid_label",
    "label_mismatch",
)  # fmt: skip
"""Kinds of findings that make a patch blank or damaged, or its label doubtful."""


def last_epoch_best(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the score stopped improving before training ended."""
    name, score, best = _history(folder)
    if len(score) < 2:
        return _too_short("two epochs", "trainer.max_epochs=10")
    facts = f"{name} is best in epoch {best + 1} of {len(score)}"
    if best + 1 < len(score):
        return passed(facts, "metrics.csv")
    gain = abs(score[-1] - score[-2])
    return tip(
        f"{facts}, {gain:.4f} from the previous one; try trainer.max_epochs={2 * len(score)}",
        "metrics.csv",
    )


def overfitting(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the best epoch is not among the first ones."""
    name, score, best = _history(folder)
    if len(score) < FEWEST_EPOCHS:
        return _too_short(f"{FEWEST_EPOCHS} epochs", "trainer.max_epochs=10")
    facts = (
        f"{name} is best in epoch {best + 1} of {len(score)}: {score[best]:.4f} there, "
        f"{score[-1]:.4f} in the last epoch"
    )
    if best + 1 <= EARLY * len(score):
        return issue(facts, "metrics.csv")
    return passed(facts, "metrics.csv")


def training_loss(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that the training loss stayed finite and fell."""
    steps = _steps(folder, ("loss",))
    loss = steps["loss"].to_numpy(np.float64)
    if not np.isfinite(loss).all():
        first = int(np.flatnonzero(~np.isfinite(loss))[0])
        place = f"step {steps['step'].iloc[first]}"
        return issue(f"the training loss is {loss[first]} at {place}", "gradients.parquet")
    if len(loss) < FEWEST_STEPS:
        return _too_short(f"{FEWEST_STEPS} steps", "trainer.max_epochs=10")
    tenth = len(loss) // 10
    begin, end = float(loss[:tenth].mean()), float(loss[-tenth:].mean())
    facts = f"mean training loss {begin:.3f} in the first tenth of the steps, {end:.3f} in the last"
    if end > DIVERGED * begin:
        return issue(f"training diverged: {facts}", "gradients.parquet")
    if end > FELL * begin:
        return issue(f"the loss never fell: {facts}", "gradients.parquet")
    return passed(facts, "gradients.parquet")


def clipping(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that at most half of the steps had their gradients clipped."""
    limit = setting(read_manifest(folder).config, "trainer.gradient_clip_val")
    if not limit:
        return not_applicable(
            f"no limit of gradients: `{COMMANDS['train']} trainer.gradient_clip_val=1`",
            "manifest.json",
        )
    steps = _steps(folder, ("norm", "norm_clipped"))
    norm, after = (steps[name].to_numpy(np.float64) for name in ("norm", "norm_clipped"))
    if len(norm) < FEWEST_STEPS:
        return _too_short(f"{FEWEST_STEPS} steps", "trainer.max_epochs=10")
    share = float(np.mean(after < norm * (1 - 1e-6)))
    facts = f"{share:.0%} of {len(norm):,} steps were clipped to {limit:g}"
    facts += f", median norm {np.median(norm):.3g}"
    if share > CLIPPED:
        return tip(
            f"{facts}; a lower optimizer.lr, or a higher trainer.gradient_clip_val, lets the "
            "gradient decide the length of a step",
            "gradients.parquet",
        )
    return passed(facts, "gradients.parquet")


def spikes(folder: Folder, inputs: Inputs) -> Verdict:
    """Check that gradient spikes do not come from blank or damaged patches."""
    from pcam_lightning.data.findings import read_findings

    steps = _steps(folder, ("norm", "rows"))
    lists = [rows[:SPIKE_PATCHES] for rows in steps["rows"] if isinstance(rows, np.ndarray)]
    if not lists:
        return passed(f"no gradient spike in {len(steps):,} steps", "gradients.parquet")
    audit = inputs.audit_of(folder)
    if audit is None:
        return not_applicable(
            f"{len(lists)} gradient spikes, but no audit of this data: `{COMMANDS['audit']}`",
            "gradients.parquet",
        )
    data = read_summary(folder, TrainSummary).data
    total = data.rows.get("train", 0) + sum(data.dropped.values())
    if total == 0:
        return not_applicable(f"summary.json has no data.rows: `{COMMANDS['train']}`")
    findings, _ = read_findings(audit.path / "findings.parquet")
    rows = findings["row"][(findings["split"] == "train") & findings["kind"].isin(DAMAGE)]
    return _judge_spikes(lists, set(rows.tolist()), total)


def _judge_spikes(lists: Collection[np.ndarray], damaged: Collection[int], total: int) -> Verdict:
    """Compare the share of damaged patches behind spikes with their share of the training data."""
    worst = np.concatenate(list(lists)).tolist()
    hits = sum(row in damaged for row in worst)
    share = min(1.0, len(damaged) / total)
    with_damage = sum(any(row in damaged for row in rows.tolist()) for rows in lists)
    facts = (
        f"{with_damage} of {len(lists)} gradient spikes have blank or damaged patches among the "
        f"{SPIKE_PATCHES} with the highest loss ({hits} of {len(worst)} patches, "
        f"{share:.2%} of the training data)"
    )
    if hits and bdtrc(hits - 1, len(worst), share) < SIGNIFICANCE:
        return issue(facts, "gradients.parquet")
    return passed(facts, "gradients.parquet")


def _history(folder: Folder) -> tuple[str, list[float], int]:
    """Return the monitored metric, its value in each validation, and the place of the best one."""
    config = read_manifest(folder).config
    name = setting(config, "callbacks.checkpoint.monitor")
    lower = setting(config, "callbacks.checkpoint.mode") == "min"
    metrics = folder.run.metrics
    if not isinstance(name, str) or name not in metrics:
        name, lower = MONITOR, False
    score = metrics[name].dropna().to_numpy(np.float64) if name in metrics else np.empty(0)
    if len(score) == 0:
        return name, [], 0
    return name, score.tolist(), int(score.argmin() if lower else score.argmax())


def _steps(folder: Folder, columns: Collection[str]) -> pd.DataFrame:
    """Return columns of `gradients.parquet`, one row per step.

    Raises:
        RunFileError: the file is missing or damaged, or a column is missing or holds no numbers.
    """
    path = folder.path / "gradients.parquet"
    table = read_table(path, columns).to_pandas()
    for name in ("step", *columns):
        if name not in table:
            raise RunFileError(f"{path}: no column {name}")
        if name != "rows" and table[name].dtype.kind not in "iuf":
            raise RunFileError(f"{path}: column {name} holds no numbers")
    return table


def _too_short(expected: str, override: str) -> Verdict:
    return not_applicable(f"fewer than {expected}: `{COMMANDS['train']} {override}`", "metrics.csv")
