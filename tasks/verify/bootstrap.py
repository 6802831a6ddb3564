"""Paired bootstrap of a metric's loss: the same resampled rows score both models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.core.log import progress
from tasks.core.metrics import Metric


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Attributes:
        original: the metric of the original.
        original_interval: its two-sided percentile interval.
        shipped: the metric of the candidate.
        shipped_interval: its two-sided percentile interval.
        drop: how much worse the candidate is, whichever way the metric points; positive is a loss.
        lower: one-sided lower confidence bound of the drop.
        upper: one-sided upper confidence bound of the drop.
        n: rows.
        rarest: rows of the rarest thing that the metric counts.
    """

    original: float
    original_interval: tuple[float, float]
    shipped: float
    shipped_interval: tuple[float, float]
    drop: float
    lower: float
    upper: float
    n: int
    rarest: int


def compare(
    metric: Metric,
    labels: np.ndarray,
    original: np.ndarray,
    shipped: np.ndarray,
    confidence: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13) over rows, paired.

    Args:
        metric: what is compared.
        labels: [n], as the metric takes them.
        original: answers of the original, [n, ...].
        shipped: answers of the candidate, [n, ...].
        confidence: of each one-sided bound, and of the two-sided intervals.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: if shapes differ or a score is not finite.
    """
    count = len(labels)
    first, second = metric.prepare(labels, original), metric.prepare(labels, shipped)
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, 2))
    for index in progress(range(resamples), "bootstrap", resamples):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)
        draws[index] = first(weights), second(weights)
    drops = (draws[:, 0] - draws[:, 1]) * (1 if metric.higher_is_better else -1)
    tail = (1 - confidence) / 2
    intervals = _quantiles(draws, [tail, 1 - tail])
    lower, upper = _quantiles(drops, [1 - confidence, confidence])
    figures = first(None), second(None)
    return Comparison(
        figures[0],
        (float(intervals[0, 0]), float(intervals[1, 0])),
        figures[1],
        (float(intervals[0, 1]), float(intervals[1, 1])),
        metric.loss(*figures),
        float(lower),
        float(upper),
        count,
        metric.support(labels),
    )


def _quantiles(draws: np.ndarray, levels: list[float]) -> np.ndarray:
    """Quantiles over the resamples in which the metric is defined; NaN where it never is."""
    defined = np.isfinite(draws).reshape(len(draws), -1).all(axis=1)
    if not defined.any():
        return np.full((len(levels), *draws.shape[1:]), np.nan)
    return np.asarray(np.quantile(draws[defined], levels, axis=0))
