"""How well probabilities name the class: log-loss, accuracy, macro-F1, top-k accuracy, recall of each class."""

from __future__ import annotations

import numpy as np

from tasks.core.errors import UsageError
from tasks.core.metrics.metric import NAN, Array, Figure, Metric, one_a_row, weighted_mean

#: The least probability that log-loss sees: a float32 probability below it may have been rounded to 0.
EPSILON = float(np.finfo(np.float32).eps)


def _checked(labels: Array, answers: Array) -> tuple[Array, Array]:
    """Labels as int64 [n], and probabilities [n, classes], of two classes as well.

    Raises:
        ValueError: if shapes do not fit, a probability is not finite, or a label is no index of a class.
    """
    if answers.ndim == 1 or answers.shape[1] == 1:
        second = one_a_row(labels, answers)
        answers = np.stack([1 - second, second], axis=1)
    if answers.ndim != 2 or labels.shape != answers.shape[:1]:
        raise ValueError(f"labels {labels.shape} and probabilities {answers.shape} must be one row each")
    if not np.isfinite(answers).all():
        raise ValueError("probabilities must be finite")
    indexes = labels.astype(np.int64)
    if len(indexes) and not (indexes.min() >= 0 and indexes.max() < answers.shape[1]):
        raise ValueError(f"labels must be from 0 to {answers.shape[1] - 1}")
    return indexes, answers


def _log_loss(labels: Array, answers: Array) -> Figure:
    """Mean of -ln p(own class), p clipped to :data:`EPSILON` (Bishop, 2006, equation 4.108)."""
    indexes, probabilities = _checked(labels, answers)
    own = probabilities[np.arange(len(indexes)), indexes].astype(np.float64)
    return weighted_mean(-np.log(np.clip(own, EPSILON, 1.0)))


def _accuracy(labels: Array, answers: Array) -> Figure:
    """Share of rows whose class has the greatest probability (of equal ones the first)."""
    indexes, probabilities = _checked(labels, answers)
    return weighted_mean(probabilities.argmax(axis=1) == indexes)


def top(k: int) -> Metric:
    """Top-k accuracy: share of rows whose class is among the k of greatest probability (of equal ones the first)."""

    def prepare(labels: Array, answers: Array) -> Figure:
        indexes, probabilities = _checked(labels, answers)
        classes = probabilities.shape[1]
        if k >= classes:
            found = f"base.metric is top{k}, and there are {classes} classes"
            raise UsageError("top-k accuracy needs more than k classes", found, "choose a smaller k, or accuracy")
        own = probabilities[np.arange(len(indexes)), indexes][:, None]
        earlier = np.arange(classes)[None, :] < indexes[:, None]
        before = ((probabilities > own) | ((probabilities == own) & earlier)).sum(axis=1)
        return weighted_mean(before < k)

    return Metric(f"top{k}", ("multiclass",), True, True, prepare)


def _macro_f1(labels: Array, answers: Array) -> Figure:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen, 1979; Opitz and Burst, 2019, on the mean).

    Only classes that have weight count, so that both models of a resample are averaged over the same ones.
    """
    indexes, probabilities = _checked(labels, answers)
    classes = probabilities.shape[1]
    named = probabilities.argmax(axis=1)
    right = np.flatnonzero(named == indexes)
    right_class = indexes[right]

    def figure(weights: Array | None) -> float:
        hits = None if weights is None else weights[right]
        real = np.bincount(indexes, weights, classes)
        said = np.bincount(named, weights, classes)
        present = real > 0
        if not present.any():
            return NAN
        both = np.bincount(right_class, hits, classes)[present]
        return float((2 * both / (real + said)[present]).mean())

    return figure


def class_recalls(labels: Array, answers: Array, classes: int) -> list[float]:
    """Share of each class's rows that are given that class, by class index; NaN for a class without rows.

    Args:
        labels: int64 [n], class indexes.
        answers: probabilities, [n, classes], or of class 1 [n] or [n, 1].
        classes: number of classes.
    """
    indexes, probabilities = _checked(labels, answers)
    right = indexes[probabilities.argmax(axis=1) == indexes]
    rows = np.bincount(indexes, minlength=classes)
    hits = np.bincount(right, minlength=classes)
    return [hit / row if row else NAN for hit, row in zip(hits.tolist(), rows.tolist(), strict=True)]


def _rarest(labels: Array) -> int:
    return int(np.bincount(labels.astype(np.int64), minlength=2).min())


BOTH = ("binary", "multiclass")
METRICS = (
    Metric("logloss", BOTH, False, False, _log_loss),
    Metric("accuracy", BOTH, True, True, _accuracy),
    Metric("macro_f1", BOTH, True, True, _macro_f1, _rarest),
)
