"""Logistic regression on fixed features, for many penalties or many data sets at once."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

CURVATURE_ROWS = 4
"""Rows, in multiples of the number of features, from which the curvature is estimated."""
ITERATIONS = 200
"""Limit of LBFGS iterations; a fit that reaches it is reported."""
TOLERANCE = 1e-4
"""Largest entry of the gradient, in the coordinates of the fit, at which it has converged."""


class Standardization(NamedTuple):
    """Affine map of raw features to features of mean 0 and mean squared norm 1.

    Each feature is divided by its standard deviation times the square root of the number of
    features F, so that a penalty has the same effect for any F. A constant feature becomes 0.
    """

    mean: Tensor
    """float32 [F]."""
    scale: Tensor
    """float32 [F]: the factor after the subtraction of the mean."""

    @classmethod
    def of(cls, features: Tensor) -> "Standardization":
        """Return the map that standardizes these features, float [N, F]."""
        std, mean = torch.std_mean(features, dim=0, correction=0)
        # Rounding leaves a constant feature a deviation of about 1e-7 times its mean.
        varies = std > 1e-6 * mean.abs()
        scale = torch.where(varies, 1 / (std * math.sqrt(features.shape[1])), 0)
        return cls(mean, scale)

    def __call__(self, features: Tensor) -> Tensor:
        """Standardize features, float32 [N, F], in place, and return them."""
        return features.sub_(self.mean).mul_(self.scale)

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight [..., F] and bias [...] that give the same logits on raw features."""
        raw = weight * self.scale
        return raw, bias - raw @ self.mean


class Fit(NamedTuple):
    """P linear models of standardized features: logits = features @ weight.T + bias."""

    weight: Tensor
    """float32 [P, F]."""
    bias: Tensor
    """float32 [P]."""
    loss: Tensor
    """float32 [P]: value of the objective."""
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Return logits [N, P] of standardized features [N, F]."""
        return torch.addmm(self.bias, features, self.weight.T)


class Curvature:
    """Upper bound of the objective's second derivative, which preconditions the fit.

    The second derivative of the log loss is at most C / 4, where C is the second moment of the
    features (Boehning and Lindsay 1988). In coordinates in which the bound is the identity, LBFGS
    needs few iterations for any penalty. An inexact C costs iterations and changes no result.

    Args:
        features: standardized, float32 [N, F].
        dtype: dtype in which C is computed.
    """

    def __init__(self, features: Tensor, dtype: torch.dtype = torch.float32) -> None:
        step = max(1, len(features) // (CURVATURE_ROWS * features.shape[1]))
        rows = features[::step].to(dtype)
        self._quarter = (rows.T @ rows).float() / (4 * len(rows))

    def factor(self, penalties: Tensor) -> Tensor:
        """Return the Cholesky factors L L^T = C / 4 + penalty, float32 [P, F, F]."""
        return torch.stack([self._factor(float(penalty)) for penalty in penalties])

    def _factor(self, penalty: float) -> Tensor:
        slack = 1e-3 * float(self._quarter.diagonal().mean())
        while True:  # rounding in `dtype` may leave negative eigenvalues
            matrix = self._quarter.clone()
            matrix.diagonal().add_(penalty + slack)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                return factor
            slack *= 10


def fit(features: Tensor, labels: Tensor, penalties: Tensor, factor: Tensor) -> Fit:
    """Fit a logistic regression for each penalty.

    Model p minimizes the mean log loss plus penalty_p / 2 * ||weight_p||^2. The bias has no
    penalty. With scikit-learn's LogisticRegression, C = 1 / (N * penalty).

    Args:
        features: standardized, float32 [N, F].
        labels: 0 or 1, [N].
        penalties: above 0, float32 [P].
        factor: as from `Curvature.factor`, [P, F, F].
    """
    target = labels.to(features)[:, None]

    def evaluate(u: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = _solve(factor.mT, u, upper=True)
        logits = torch.addmm(bias, features, weight.T)
        loss = (softplus(logits) - target * logits).mean(0)
        loss += penalties / 2 * weight.square().sum(1)
        error = (torch.sigmoid(logits) - target) / len(features)
        slope = error.T @ features + penalties[:, None] * weight
        return loss, _solve(factor, slope, upper=False), error.sum(0)

    u, bias, loss, converged = _minimize(len(penalties), features.shape[1], evaluate, features)
    return Fit(_solve(factor.mT, u, upper=True), bias, loss, converged)


def fit_each(features: Tensor, labels: Tensor, penalty: float) -> Fit:
    """Fit a logistic regression, with the same penalty, to each of D small data sets.

    The objective is that of `fit`. Without a preconditioner: few rows need few iterations.

    Args:
        features: standardized, float32 [D, n, F].
        labels: 0 or 1, [D, n].
        penalty: above 0.
    """
    sets, rows, width = features.shape
    target, root = labels.to(features), math.sqrt(penalty)

    def evaluate(u: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = u / root
        logits = torch.bmm(features, weight[:, :, None])[:, :, 0] + bias[:, None]
        loss = (softplus(logits) - target * logits).mean(1)
        loss += penalty / 2 * weight.square().sum(1)
        error = (torch.sigmoid(logits) - target) / rows
        slope = torch.bmm(error[:, None], features)[:, 0] + penalty * weight
        return loss, slope / root, error.sum(1)

    u, bias, loss, converged = _minimize(sets, width, evaluate, features)
    return Fit(u / root, bias, loss, converged)


def _minimize(
    models: int,
    width: int,
    evaluate: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]],
    like: Tensor,
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Minimize the sum of independent objectives by LBFGS, from zero.

    Args:
        models: number of objectives.
        width: number of weights of each.
        evaluate: maps weights [models, width] and biases [models] to the objectives [models] and
            their gradients.
        like: tensor whose dtype and device are used.

    Returns weights, biases, objectives, and whether the gradient has become small.
    """
    u = torch.zeros(models, width, dtype=like.dtype, device=like.device, requires_grad=True)
    bias = torch.zeros(models, dtype=like.dtype, device=like.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [u, bias], max_iter=ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    @torch.no_grad()
    def objective() -> Tensor:
        losses, u.grad, bias.grad = evaluate(u, bias)
        return losses.sum()

    optimizer.step(objective)
    with torch.no_grad():
        losses, slope, bias_slope = evaluate(u, bias)
    steepest = max(float(slope.abs().max()), float(bias_slope.abs().max()))
    return u.detach(), bias.detach(), losses, steepest <= 10 * TOLERANCE


def _solve(factor: Tensor, rows: Tensor, upper: bool) -> Tensor:
    """Return A^-1 x for each row x of [P, F] and triangular matrix A of [P, F, F]."""
    return torch.linalg.solve_triangular(factor, rows[:, :, None], upper=upper)[:, :, 0]
