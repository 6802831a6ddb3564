"""What a metric is, and the two shapes of arithmetic that most metrics share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Kinds of problem.
TASKS = ("binary", "multiclass", "regression", "ranking")
NAN = float("nan")

Array = NDArray[Any]
#: A metric of fixed labels and answers, for any row weights [rows] (all one if None).
Figure = Callable[["Array | None"], float]


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes:
        name: as params files name it.
        tasks: the kinds of problem (:data:`TASKS`) that it fits.
        higher_is_better: its direction.
        bounded: whether it lies between 0 and 1, so that a margin is an absolute difference.
        prepare: labels [n] (int64 class index, float32 quantity, or item id) and answers (binary: probability of
            class 1, [n] or [n, 1]; multiclass: probabilities [n, classes]; regression: [n] or [n, 1]; ranking: item
            ids [n, k], best first) -> the figure for any weights. A weight says how often a row occurs, so a bootstrap
            resample is one call; a call costs time linear in n. NaN where the metric is undefined. ValueError if the
            arrays do not fit together or a number is not finite.
        support: labels -> rows of the rarest thing that it counts.
    """

    name: str
    tasks: tuple[str, ...]
    higher_is_better: bool
    bounded: bool
    prepare: Callable[[Array, Array], Figure]
    support: Callable[[Array], int] = len

    def __call__(self, labels: Array, answers: Array) -> float:
        """The figure with every row once."""
        return self.prepare(labels, answers)(None)

    def loss(self, original: float, other: float) -> float:
        """How much worse ``other`` is than ``original``: positive is a loss, whichever way the metric points."""
        return original - other if self.higher_is_better else other - original


def one_a_row(labels: Array, answers: Array) -> Array:
    """Answers [n] or [n, 1] as [n].

    Raises:
        ValueError: if there is not one finite answer for each label.
    """
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    if labels.shape != answers.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {answers.shape} must be one row each")
    if not np.isfinite(answers).all():
        raise ValueError("scores must be finite")
    return answers


def weighted_mean(values: Array) -> Figure:
    """Figure of a metric that is the mean of a value of each row, [n]."""
    exact = values.astype(np.float64)

    def mean(weights: Array | None) -> float:
        if weights is None:
            return float(exact.mean()) if len(exact) else NAN
        total = float(weights.sum())
        # No matrix product: BLAS would start threads for it, which costs more than it saves on a busy machine.
        return float((exact * weights).sum()) / total if total else NAN

    return mean
