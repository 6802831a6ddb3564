"""Paired bootstrap of a drop in AUC: the same resampled rows score both models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.core.log import progress
from tasks.core.metrics import Auc


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Attributes:
        original: AUC of the original.
        original_interval: its two-sided percentile interval.
        shipped: AUC of the candidate.
        shipped_interval: its two-sided percentile interval.
        drop: original minus shipped; positive is a loss.
        lower: one-sided lower confidence bound of the drop.
        upper: one-sided upper confidence bound of the drop.
        n: rows.
        rarest: rows of the rarer class.
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
    labels: np.ndarray, original: np.ndarray, shipped: np.ndarray, confidence: float, resamples: int, seed: int
) -> Comparison:
    """Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13) over rows, paired.

    Args:
        labels: [n], 0 or 1.
        original: scores of the original, [n].
        shipped: scores of the candidate, [n].
        confidence: of each one-sided bound, and of the two-sided intervals.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: if shapes differ or a score is not finite.
    """
    count = len(labels)
    first, second = Auc(labels, original), Auc(labels, shipped)
    generator = np.random.default_rng(seed)
    draws = np.empty((resamples, 2))
    for index in progress(range(resamples), "bootstrap", resamples):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)
        draws[index] = first(weights), second(weights)
    drops = draws[:, 0] - draws[:, 1]
    tail = (1 - confidence) / 2
    intervals = np.nanquantile(draws, [tail, 1 - tail], axis=0)
    lower, upper = np.nanquantile(drops, [1 - confidence, confidence])
    return Comparison(
        first(),
        (float(intervals[0, 0]), float(intervals[1, 0])),
        second(),
        (float(intervals[0, 1]), float(intervals[1, 1])),
        first() - second(),
        float(lower),
        float(upper),
        count,
        int(min((labels == 1).sum(), (labels == 0).sum())),
    )
