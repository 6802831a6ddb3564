"""Metrics that every room computes the same way."""

from __future__ import annotations

import numpy as np


class Auc:
    """Area under the ROC curve of fixed scores, for any weights of the rows: sorted once, then linear per call.

    AUC is the chance that a positive row scores above a negative one, ties counting half (Mann-Whitney U).
    Weights are how often a row occurs, so a bootstrap resample is one call.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray) -> None:
        """``labels``: [rows], 1 positive, 0 negative. ``scores``: [rows], finite floats.

        Raises:
            ValueError: if a score is not finite, or shapes differ.
        """
        if labels.shape != scores.shape or labels.ndim != 1:
            raise ValueError(f"labels {labels.shape} and scores {scores.shape} must be one row each")
        if not np.isfinite(scores).all():
            raise ValueError("scores must be finite")
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._tie_starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        self._positive = np.asarray(labels[self._order] == 1)

    def __call__(self, weights: np.ndarray | None = None) -> float:
        """AUC with the given non-negative row weights [rows] (all one if None); NaN if a class has no weight."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order].astype(np.float64)
        positive = np.add.reduceat(weight * self._positive, self._tie_starts)
        negative = np.add.reduceat(weight * ~self._positive, self._tie_starts)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return float("nan")
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / pairs)


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve; see :class:`Auc`."""
    return Auc(labels, scores)()
