"""Scores of features: logistic regression, nearest neighbors and few-shot curves."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcam_lightning.config.compose import Config
from pcam_lightning.config.precision import compute_dtype
from pcam_lightning.engine.predictions import Predictions
from pcam_lightning.metrics.metrics import compute_metrics
from pcam_lightning.metrics.predictions import sigmoid
from pcam_lightning.probe.features import load
from pcam_lightning.probe.few_shot import Shots, few_shot_curve
from pcam_lightning.probe.fits import Fits
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
    """For similarities, and where rounding changes no result."""

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
    """Predictions of "val" and "test", with the chosen penalty."""
    few_shot: list[Shots]
    facts: dict[str, Any]
    """For the summary."""


def score(features: Features, options: ProbeOptions, device: torch.device) -> Scores:
    """Fit the probes on the training features, choose by validation AUROC, and score."""
    fits, train = Fits.of(features), _Training(features, device)
    precision = {"dtype": str(options.dtype)}
    raw = {
        name: load(split.path, split.row, device)
        for name, split in (("val", features.val), ("test", features.test))
    }
    seconds: dict[str, float] = {}
    known: dict[str, bool] = {}

    def recall(name: str, settings: dict[str, Any], compute: Callable[[], Any]) -> dict[str, Any]:
        start = time.monotonic()
        found, known[name] = fits.recall(name, settings | precision, compute)
        seconds[name] = time.monotonic() - start
        return found

    penalties = sorted(set(options.penalties))
    linear = recall(
        "logistic", {"penalties": penalties}, lambda: _linear(features, train, raw, options)
    )
    if not linear["converged"]:
        log.warning("the logistic regression has not converged: expected larger probe.penalties")
    best = penalties.index(linear["penalty"])
    _report_edge(penalties, best)
    few = ("few_shot", "few_shot_penalty", "draws", "seed")
    curve = recall(
        "few_shot",
        {key: getattr(options, key) for key in few},
        lambda: {"curve": _few_shot(features, train, raw["test"], options)},
    )["curve"]
    train.forget()
    neighbors = recall(
        "neighbors",
        {"neighbors": options.neighbors},
        lambda: {"found": _neighbors(features, train.label, raw, options)},
    )["found"]
    weight, bias = (torch.tensor(linear[key], device=device) for key in ("weight", "bias"))
    predictions = {
        name: Predictions(
            torch.from_numpy(split.row),
            torch.from_numpy(split.label),
            torch.addmv(bias, raw[name], weight).cpu(),
        )
        for name, split in (("val", features.val), ("test", features.test))
    }
    facts = {
        "penalty": linear["penalty"],
        "penalties": linear["tried"],
        "neighbors": neighbors,
        "few_shot": curve,
        "few_shot_penalty": options.few_shot_penalty,
        "seconds": seconds,
        "reused": known,
    }
    shots = [Shots(**each) for each in curve]
    return Scores(weight.cpu(), bias.cpu(), predictions, shots, facts)


class _Training:
    """Labels and standardized features of the training patches, loaded when they are needed."""

    def __init__(self, features: Features, device: torch.device) -> None:
        self._split, self._device = features.train, device
        self.label = torch.from_numpy(features.train.label).to(device)

    @cached_property
    def standardization(self) -> Standardization:
        return Standardization.of(self._raw)

    @cached_property
    def standardized(self) -> Tensor:
        """float32 [N, F], in place of the raw features: memory holds one of them."""
        values = self.standardization(self._raw)
        del self._raw
        return values

    @cached_property
    def _raw(self) -> Tensor:
        return load(self._split.path, self._split.row, self._device)

    def forget(self) -> None:
        """Free the memory of the features."""
        self.__dict__.pop("standardized", None)
        self.__dict__.pop("_raw", None)


def _linear(
    features: Features, train: _Training, raw: dict[str, Tensor], options: ProbeOptions
) -> dict[str, Any]:
    """Return the logistic regression with the best validation AUROC, for raw features."""
    curvature = Curvature(train.standardized, options.dtype)
    penalties = sorted(set(options.penalties))
    values = torch.tensor(penalties, device=train.label.device)
    models = fit(train.standardized, train.label, values, curvature.factor(values))
    weights, biases = train.standardization.fold(models.weight, models.bias)
    logits = torch.addmm(biases, raw["val"], weights.T).T.cpu().numpy()
    tried = [_auroc(features.val, sigmoid(each)) for each in logits]
    best = int(np.argmax(tried))
    return {
        "penalty": penalties[best],
        "tried": [
            {"penalty": penalty, "val_auroc": auroc}
            for penalty, auroc in zip(penalties, tried, strict=True)
        ],
        "weight": weights[best].tolist(),
        "bias": biases[best].item(),
        "converged": models.converged,
    }


def _few_shot(
    features: Features, train: _Training, test: Tensor, options: ProbeOptions
) -> list[dict[str, Any]]:
    if not options.few_shot:
        return []
    curve = few_shot_curve(
        train.standardized,
        features.train.label,
        train.standardization(test.clone()),
        lambda logit: _auroc(features.test, sigmoid(logit)),
        options.few_shot,
        options.draws,
        options.few_shot_penalty,
        options.seed,
    )
    return [each._asdict() for each in curve]


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
