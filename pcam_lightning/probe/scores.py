"""Scores of features: logistic regression, nearest neighbors and few-shot curves."""

import logging
import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcam_lightning.config.compose import Config
from pcam_lightning.config.precision import compute_dtype
from pcam_lightning.engine.module import Predictions
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.probe.features import load
from pcam_lightning.probe.few_shot import Shots, few_shot_curve
from pcam_lightning.probe.logistic import Curvature, Standardization, fit
from pcam_lightning.probe.neighbors import neighbor_shares
from pcam_lightning.probe.splits import Features, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeOptions:
    """Settings of a probe."""

    penalties: list[float]
    neighbors: list[int]
    few_shot: list[int]
    draws: int
    few_shot_penalty: float
    seed: int
    dtype: torch.dtype
    """For computations whose rounding changes no result."""

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the settings in a config of `probe`."""
        options = {key: value for key, value in config["probe"].items() if key != "features_dir"}
        dtype = compute_dtype(config["trainer"]["precision"])
        return cls(**options, seed=config["seed"], dtype=dtype)


@dataclass(frozen=True)
class Scores:
    """Result of a probe."""

    weight: Tensor
    """float32 [F]: of the head, for raw features."""
    bias: Tensor
    """float32 []."""
    predictions: dict[str, Predictions]
    """Of "val" and "test", with the chosen penalty."""
    few_shot: list[Shots]
    facts: dict[str, Any]
    """For the summary."""


def score(features: Features, options: ProbeOptions, device: torch.device) -> Scores:
    """Fit the probes on the training features, choose by validation AUROC, and score."""
    seconds: dict[str, float] = {}
    start = time.monotonic()
    train = load(features.train.path, features.train.row, device)
    target = torch.from_numpy(features.train.label).to(device)
    val, test = (load(split.path, split.row, device) for split in (features.val, features.test))
    standardize = Standardization.of(train)
    train = standardize(train)  # in place: memory holds the training features once
    curvature = Curvature(train, options.dtype)
    penalties = torch.tensor(sorted(set(options.penalties)), device=device)
    models = fit(train, target, penalties, curvature.factor(penalties))
    if not models.converged:
        log.warning("the logistic regression has not converged: expected larger probe.penalties")
    weights, biases = standardize.fold(models.weight, models.bias)
    logits = torch.addmm(biases, val, weights.T).T.cpu().numpy()
    tried = [_auroc(features.val, sigmoid(each)) for each in logits]
    best = int(np.argmax(tried))
    _report_edge(penalties.tolist(), best)
    seconds["logistic"] = time.monotonic() - start

    start = time.monotonic()
    curve = []
    if options.few_shot:
        curve = few_shot_curve(
            train,
            features.train.label,
            standardize(test.clone()),
            lambda logit: _auroc(features.test, sigmoid(logit)),
            options.few_shot,
            options.draws,
            options.few_shot_penalty,
            options.seed,
        )
    seconds["few_shot"] = time.monotonic() - start
    del train
    raw = {"val": val, "test": test}
    start = time.monotonic()
    neighbors = _neighbors(features, target, raw, options)
    seconds["neighbors"] = time.monotonic() - start
    predictions = {
        name: Predictions(
            torch.from_numpy(split.row),
            torch.from_numpy(split.label),
            torch.addmv(biases[best], raw[name], weights[best]).cpu(),
        )
        for name, split in (("val", features.val), ("test", features.test))
    }
    facts = {
        "penalty": float(penalties[best]),
        "penalties": [
            {"penalty": float(penalty), "val_auroc": auroc}
            for penalty, auroc in zip(penalties, tried, strict=True)
        ],
        "neighbors": neighbors,
        "few_shot": [each._asdict() for each in curve],
        "few_shot_penalty": options.few_shot_penalty,
        "seconds": seconds,
    }
    return Scores(weights[best].cpu(), biases[best].cpu(), predictions, curve, facts)


def _neighbors(
    features: Features, target: Tensor, raw: dict[str, Tensor], options: ProbeOptions
) -> dict[str, Any] | None:
    """Return the number of neighbors with the best validation AUROC, and its scores."""
    rows, counts = len(target), options.neighbors
    if lacking := sorted({count for count in counts if count > rows}):
        log.warning(
            "probe.neighbors: %s left out, more than the %d training patches",
            ", ".join(map(str, lacking)), rows,
        )  # fmt: skip
    if not (counts := sorted(set(counts) - set(lacking))):
        return None
    train = load(features.train.path, features.train.row, target.device)
    queries = torch.cat([raw["val"], raw["test"]])
    shares = neighbor_shares(train, target, queries, counts, options.dtype).cpu().numpy()
    val, test = np.split(shares, [len(raw["val"])])
    tried = [_auroc(features.val, share) for share in val.T]
    best = int(np.argmax(tried))
    return {
        "k": counts[best],
        "val": {"auroc": tried[best]},
        "test": {"auroc": _auroc(features.test, test[:, best])},
        "tried": [
            {"k": count, "val_auroc": auroc} for count, auroc in zip(counts, tried, strict=True)
        ],
    }


def _report_edge(penalties: list[float], best: int) -> None:
    if len(penalties) > 1 and best in (0, len(penalties) - 1):
        side = "smallest" if best == 0 else "largest"
        beyond = "smaller" if best == 0 else "larger"
        log.warning(
            "probe.penalties: the best penalty, %g, is the %s one tried; expected %s ones as well",
            penalties[best], side, beyond,
        )  # fmt: skip


def _auroc(split: Split, probability: NDArray[np.float64]) -> float:
    return compute_metrics(split.label, probability)["auroc"]
