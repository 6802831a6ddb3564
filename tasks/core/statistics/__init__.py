"""Bounds of a loss: which statistics fit the metric, and which the way the rows hang together."""

from __future__ import annotations

import numpy as np

from tasks.core.metrics import Metric
from tasks.core.statistics import bootstrap, proportions
from tasks.core.statistics.comparison import Comparison

__all__ = ["Comparison", "greatest_loss", "paired"]


def paired(
    metric: Metric,
    labels: np.ndarray,
    original: np.ndarray,
    shipped: np.ndarray,
    groups: np.ndarray | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Two models on the same rows, with one-sided bounds of the loss.

    A metric that is a share of right rows (accuracy, top-k, hit rate), on rows that stand alone, has Tango's score
    interval and McNemar's p (:mod:`tasks.core.statistics.proportions`). Any other metric, and any rows in groups,
    have the paired BCa bootstrap (:mod:`tasks.core.statistics.bootstrap`).

    Args:
        metric: what is compared.
        labels: [n], as the metric takes them.
        original: answers of the original, [n, ...].
        shipped: answers of the candidate, [n, ...].
        groups: which rows belong together, [n]; None where each stands alone.
        confidence: of each one-sided bound.
        resamples: bootstrap resamples, where it is one.
        seed: of the resampling.

    Raises:
        ValueError: if there are no rows, shapes differ or an answer is not finite.
    """
    if len(labels) == 0:
        raise ValueError("a comparison needs rows")
    if groups is None and proportions.is_share(metric):
        return proportions.compare(metric, labels, original, shipped, confidence)
    return bootstrap.compare(metric, labels, original, shipped, groups, confidence, resamples, seed)


def greatest_loss(
    metric: Metric,
    labels: np.ndarray,
    original: np.ndarray,
    candidate: np.ndarray,
    groups: np.ndarray | None,
    confidence: float,
    seed: int,
) -> float:
    """The one-sided upper bound of the loss alone, at a price that many candidates can pay; NaN if there is none.

    As :func:`paired`, but with the jackknife's standard error in place of a bootstrap.
    """
    if groups is None and proportions.is_share(metric):
        return proportions.compare(metric, labels, original, candidate, confidence).upper
    pair = bootstrap.Pair(metric, labels, original, candidate, groups)
    return bootstrap.Jackknife.of(pair, seed).bounds(confidence)[1]
