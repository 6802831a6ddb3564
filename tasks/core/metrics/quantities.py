"""How close predicted quantities are: root mean squared error, mean absolute error, R squared."""

from __future__ import annotations

import math

import numpy as np

from tasks.core.metrics.metric import NAN, Array, Figure, Metric, one_a_row, weighted_mean


def _errors(labels: Array, answers: Array) -> Array:
    """Answer minus label, float64 [n]."""
    answers = one_a_row(labels, answers)
    if not np.isfinite(labels).all():
        raise ValueError("labels must be finite")
    return answers.astype(np.float64) - labels


def _rmse(labels: Array, answers: Array) -> Figure:
    """Root of the mean squared error, in the target's unit."""
    mean = weighted_mean(np.square(_errors(labels, answers)))
    return lambda weights: math.sqrt(mean(weights))


def _mae(labels: Array, answers: Array) -> Figure:
    """Mean absolute error, in the target's unit."""
    return weighted_mean(np.abs(_errors(labels, answers)))


def _r2(labels: Array, answers: Array) -> Figure:
    """1 - squared errors / squared deviations from the labels' mean; NaN if the labels do not vary (Wright, 1921)."""
    squared = np.square(_errors(labels, answers))
    # R squared does not depend on the origin; near 0 the difference of squares below loses no digits.
    centred = labels.astype(np.float64) - (labels.mean(dtype=np.float64) if len(labels) else 0.0)
    squares = np.square(centred)
    steady = bool(len(labels) == 0 or labels.min() == labels.max())

    def figure(weights: Array | None) -> float:
        weight = np.ones(len(centred)) if weights is None else weights
        total = float(weight.sum())
        if steady or not total:
            return NAN
        spread = float((squares * weight).sum()) - float((centred * weight).sum()) ** 2 / total
        return 1 - float((squared * weight).sum()) / spread if spread > 0 else NAN

    return figure


METRICS = (
    Metric("rmse", ("regression",), False, False, _rmse),
    Metric("mae", ("regression",), False, False, _mae),
    Metric("r2", ("regression",), True, False, _r2),
)
