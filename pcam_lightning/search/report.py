"""Report of a search: its best trial, table and plots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pcam_lightning.files import atomic_write, write_json
from pcam_lightning.plots import style
from pcam_lightning.runs.status import RunFileError, read_json
from pcam_lightning.runs.tables import csv_bytes

MIN_TRIALS = 10
"""Number of complete trials below which the importance of a parameter would be chance."""


def count_failed(study: Study) -> int:
    """Return the number of failed trials."""
    return len(study.get_trials(states=[TrialState.FAIL]))


def write_report(folder: Path, study: Study, metric: str) -> None:
    """Write `study.csv`, `study.json` and `plots/` of a search, and print its best trial.

    Args:
        folder: folder of the sweep; the run of trial N is in its subfolder N.
        study: study of the search.
        metric: name of the metric that the search optimizes.
    """
    table = trial_table(study)
    atomic_write(folder / "study.csv", csv_bytes(table))
    complete = study.get_trials(states=[TrialState.COMPLETE])
    best = study.best_trial if complete else None
    dataset = _dataset(folder, best)
    importance = _importance(study, complete)
    write_json(
        folder / "study.json",
        {
            "study": study.study_name,
            "dataset": dataset,
            "metric": metric,
            "direction": study.direction.name.lower(),
            "trials": table["state"].value_counts().to_dict(),
            "best": None
            if best is None
            else {
                "trial": best.number,
                "value": best.value,
                "parameters": best.params,
                "folder": str(best.number),
            },
            "importance": importance,
        },
    )
    if best is None:
        return
    plot_history(folder / "plots" / "history.png", study, metric, dataset)
    if importance is not None:
        plot_importance(
            folder / "plots" / "importance.png", importance, metric, dataset, len(complete)
        )
    settings = " ".join(f"{key}={_short(value)}" for key, value in best.params.items())
    path = os.path.relpath(folder / str(best.number))
    print(
        f"best of {len(study.trials)}: trial {best.number}, {metric} {best.value:.4f}, "
        f"{settings}, in {path}",
        flush=True,
    )


def trial_table(study: Study) -> pd.DataFrame:
    """Return one row per trial.

    Columns: `trial`, `state`, `value` (the last one if the trial was pruned), each parameter,
    `epochs` (reported to the study) and `reason` (of a failure).
    """
    return pd.DataFrame(
        [
            {"trial": trial.number, "state": trial.state.name.lower(), "value": trial.value}
            | trial.params
            | {
                "epochs": len(trial.intermediate_values),
                "reason": trial.user_attrs.get("reason"),
            }
            for trial in study.trials
        ],
        columns=None if study.trials else ["trial", "state", "value"],
    )


def plot_history(path: Path, study: Study, metric: str, dataset: str) -> None:
    """Plot each trial's value and the best value so far."""
    figure, axes = style.new_figure("Search", "trial", metric)
    complete = _points(study.get_trials(states=[TrialState.COMPLETE]))
    pruned = _points(study.get_trials(states=[TrialState.PRUNED]))
    broken = [trial.number for trial in study.get_trials(states=[TrialState.FAIL])]
    highest = study.direction == StudyDirection.MAXIMIZE
    best = (np.maximum if highest else np.minimum).accumulate(complete[1])
    numbers, best = np.append(complete[0], len(study.trials) - 1), np.append(best, best[-1])
    axes.step(numbers, best, where="post", color=style.BLUE, lw=1.2, label="best so far")
    axes.plot(*complete, "o", color=style.BLUE, ms=5, label="complete")
    if len(pruned[0]):
        axes.plot(*pruned, "x", color=style.ORANGE, ms=6, label="pruned, when it was stopped")
    style.mark_edge(axes, np.array(broken, float), style.PINK, "v", "trial", "failed")
    axes.xaxis.set_major_locator(style.whole_numbers())
    axes.margins(x=0.04)
    style.legend(axes)
    style.save(figure, path, f"dataset: {dataset}")


def plot_importance(
    path: Path, importance: dict[str, float], metric: str, dataset: str, trials: int
) -> None:
    """Plot the share of the metric's variance, 0 to 1, that each parameter explains by itself."""
    figure, axes = style.new_figure(
        "Importance",
        f"share of the variance of {metric} that single parameters explain",
        "",
        height=1.8 + 0.45 * len(importance),
    )
    names = list(importance)[::-1]
    values = [importance[name] for name in names]
    bars = axes.barh(names, values, color=style.BLUE, height=0.6)
    axes.bar_label(bars, fmt="{:.2f}", padding=4, color=style.INK)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.08)
    # Pruned trials are missing, which understates the parameters that cause pruning.
    subtitle = f"dataset: {dataset}; fANOVA over {trials} complete trials, without pruned ones"
    style.save(figure, path, subtitle)


def _points(trials: list[FrozenTrial]) -> tuple[np.ndarray, np.ndarray]:
    points = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    x, y = zip(*points, strict=True) if points else ((), ())
    return np.array(x, float), np.array(y, float)


def _importance(study: Study, complete: list[FrozenTrial]) -> dict[str, float] | None:
    if len(complete) < MIN_TRIALS or len({trial.value for trial in complete}) < 2:
        return None
    importance = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in importance.items()}


def _dataset(folder: Path, best: FrozenTrial | None) -> str:
    if best is None:
        return "unknown"
    try:
        return str(read_json(folder / str(best.number) / "summary.json")["dataset"])
    except (OSError, RunFileError, KeyError):
        return "unknown"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
