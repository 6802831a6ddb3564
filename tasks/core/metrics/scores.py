"""How well the scores of two classes rank the rows: area under the ROC curve, average precision."""

from __future__ import annotations

import numpy as np

from tasks.core.metrics.metric import NAN, Array, Metric, one_a_row


class _Ranked:
    """Both classes' rows, best score first, and where each positive row stands among them: sorted once."""

    def __init__(self, labels: Array, scores: Array) -> None:
        """``labels``: [rows], 1 positive, 0 negative. ``scores``: [rows] or [rows, 1], finite floats.

        Raises:
            ValueError: if a score is not finite, or shapes differ.
        """
        scores = one_a_row(labels, scores).astype(np.float64)
        order = np.argsort(scores, kind="stable")[::-1]
        is_positive = np.asarray(labels[order] == 1)
        self._positives, self._negatives = order[is_positive], order[~is_positive]
        own, others = -scores[self._positives], -scores[self._negatives]
        self._others_above = np.searchsorted(others, own, side="left")
        self._others_not_below = np.searchsorted(others, own, side="right")
        self._own_not_below = np.searchsorted(own, own, side="right")

    def _weighed(self, weights: Array | None) -> tuple[Array, Array, Array]:
        """Weight of each positive row, and the sums of the first 0, 1, 2, ... positive and negative rows' weights."""
        count = len(self._positives) + len(self._negatives)
        weight = np.ones(count) if weights is None else weights.astype(np.float64)
        positive = weight[self._positives]
        return positive, _sums(positive), _sums(weight[self._negatives])


def _sums(weights: Array) -> Array:
    sums = np.zeros(len(weights) + 1)
    np.cumsum(weights, out=sums[1:])
    return sums


class Auc(_Ranked):
    """Area under the ROC curve of fixed scores, for any weights of the rows.

    The chance that a positive row scores above a negative one, ties counting half: the Mann-Whitney U statistic over
    the number of pairs (Hanley and McNeil, Radiology 1982).
    """

    def __call__(self, weights: Array | None = None) -> float:
        """AUC with the given non-negative row weights [rows] (all one if None); NaN if a class has no weight."""
        weight, positives, negatives = self._weighed(weights)
        pairs = positives[-1] * negatives[-1]
        if pairs == 0:
            return NAN
        lost = (negatives[self._others_above] + negatives[self._others_not_below]) / 2
        return float((weight * (negatives[-1] - lost)).sum() / pairs)


class AveragePrecision(_Ranked):
    """Precision at every score where recall rises, weighted by the rise; no interpolation.

    The area under the precision-recall curve as steps (Davis and Goadrich, ICML 2006, on why not trapezoids).
    """

    def __call__(self, weights: Array | None = None) -> float:
        """With the given non-negative row weights [rows] (all one if None); NaN if a class has no weight."""
        weight, positives, negatives = self._weighed(weights)
        if positives[-1] == 0 or negatives[-1] == 0:
            return NAN
        found = positives[self._own_not_below]
        taken = found + negatives[self._others_not_below]
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        return float((weight * precision).sum() / positives[-1])


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
