"""How well the scores of two classes rank the rows: area under the ROC curve, average precision."""

from __future__ import annotations

import numpy as np

from tasks.core.metrics.metric import NAN, Array, Metric, one_a_row


class _Sorted:
    """Rows in order of their scores, ties together: sorted once, then linear per call."""

    def __init__(self, labels: Array, scores: Array) -> None:
        """``labels``: [rows], 1 positive, 0 negative. ``scores``: [rows] or [rows, 1], finite floats.

        Raises:
            ValueError: if a score is not finite, or shapes differ.
        """
        scores = one_a_row(labels, scores)
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._tie_starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        self._positive = np.asarray(labels[self._order] == 1)

    def _tied(self, weights: Array | None) -> tuple[Array, Array]:
        """Weight of the positive and of the negative rows of each distinct score, ascending."""
        weight = np.ones(len(self._order)) if weights is None else weights[self._order].astype(np.float64)
        positive = weight * self._positive
        negative = weight - positive
        if len(self._tie_starts) < len(weight):
            positive = np.add.reduceat(positive, self._tie_starts)
            negative = np.add.reduceat(negative, self._tie_starts)
        return positive, negative


class Auc(_Sorted):
    """Area under the ROC curve of fixed scores, for any weights of the rows.

    The chance that a positive row scores above a negative one, ties counting half: the Mann-Whitney U statistic over
    the number of pairs (Hanley and McNeil, Radiology 1982).
    """

    def __call__(self, weights: Array | None = None) -> float:
        """AUC with the given non-negative row weights [rows] (all one if None); NaN if a class has no weight."""
        positive, negative = self._tied(weights)
        pairs = positive.sum() * negative.sum()
        if pairs == 0:
            return NAN
        below = np.cumsum(negative) - negative / 2
        return float((positive * below).sum() / pairs)


class AveragePrecision(_Sorted):
    """Precision at every score where recall rises, weighted by the rise; no interpolation.

    The area under the precision-recall curve as steps (Davis and Goadrich, ICML 2006, on why not trapezoids).
    """

    def __call__(self, weights: Array | None = None) -> float:
        """With the given non-negative row weights [rows] (all one if None); NaN if a class has no weight."""
        positive, negative = self._tied(weights)
        total = positive.sum()
        if total == 0 or negative.sum() == 0:
            return NAN
        found = np.cumsum(positive[::-1])
        taken = found + np.cumsum(negative[::-1])
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        return float((positive[::-1] * precision).sum() / total)


def auc(labels: Array, scores: Array) -> float:
    """Area under the ROC curve; see :class:`Auc`."""
    return Auc(labels, scores)()


def rarer(labels: Array) -> int:
    """Rows of the rarer of two classes."""
    return int(min((labels == 1).sum(), (labels == 0).sum()))


METRICS = (
    Metric("auc", ("binary",), True, True, Auc, rarer),
    Metric("average_precision", ("binary",), True, True, AveragePrecision, rarer),
)
