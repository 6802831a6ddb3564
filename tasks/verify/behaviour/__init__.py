"""What compression can spoil while the average holds, a module each; here is what these modules share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tasks.core.metrics import Figure
from tasks.core.metrics.metric import Array, one_a_row

if TYPE_CHECKING:
    from tasks.verify.stored import Column

#: Of each bootstrap: the bounds are of a harm that must be shown clearly, so their third digit does not matter.
RESAMPLES = 400

#: Rows of a sample, each multiplied by the copies that a check makes of it, hold at most so many bytes.
_MOST_BYTES = 256 << 20

#: A probability may miss 0 or 1 by so much: the arithmetic of float16.
ROUNDING = 1e-3


def probabilities(answers: Array) -> Array:
    """Probabilities of all classes, float64 [n, classes].

    Args:
        answers: of class 1, [n] or [n, 1]; or of each class, [n, classes].

    Raises:
        ValueError: if they are no probabilities.
    """
    exact = answers.astype(np.float64)
    if exact.ndim == 1 or exact.shape[1] == 1:
        second = exact.reshape(len(exact))
        exact = np.stack([1 - second, second], axis=1)
    if not ((exact >= -ROUNDING) & (exact <= 1 + ROUNDING)).all():
        raise ValueError("probabilities must lie between 0 and 1")
    return exact


def errors(task: str, labels: Array, answers: Array) -> Array:
    """How wrong each answer is, float64 [n]; 0 is right.

    Of classes 1 - p(own class), which orders rows as log-loss does; of a quantity the distance from the label; of a
    list 1 - 1 / place of the label, and 1 if it is not there.

    Args:
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        labels: as the task's metrics take them, [n].
        answers: likewise, [n, ...].

    Raises:
        ValueError: if answers do not fit the task.
    """
    if task == "regression":
        return np.abs(one_a_row(labels, answers).astype(np.float64) - labels)
    if task == "ranking":
        same = np.asarray(answers == labels[:, None])
        return np.where(same.any(axis=1), 1 - 1 / (same.argmax(axis=1) + 1.0), 1.0)
    return 1 - probabilities(answers)[np.arange(len(labels)), labels.astype(np.int64)]


def overlap(items: Array, others: Array) -> Array:
    """Share of each list that the other list holds too, in any order: float64 [n]; both are [n, k]."""
    shared = sum(((others == items[:, [place]]).any(axis=1) for place in range(items.shape[1])), np.zeros(len(items)))
    return np.asarray(shared / items.shape[1])


def spread(labels: Array) -> float:
    """Standard deviation of a quantity's labels, in their unit."""
    return float(labels.std(dtype=np.float64))


def sample(columns: Mapping[str, Array | Column], most: int, copies: int, seed: int) -> Array:
    """Numbers of rows drawn at random, ascending, int64: fewer than ``most`` where their copies would fill the memory.

    Args:
        columns: name -> [n, ...].
        most: rows.
        copies: how often a check holds each row at once.
        seed: of the draw.
    """
    rows = len(next(iter(columns.values())))
    size = sum(array.nbytes for array in columns.values()) / max(1, rows)
    count = min(rows, most, max(1, int(_MOST_BYTES / max(1.0, size * copies))))
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def resamples(rows: int, groups: Array | None, generator: np.random.Generator) -> Iterator[Array]:
    """How often each row occurs in each of :data:`RESAMPLES` bootstrap resamples, int64 [rows].

    Whole groups are drawn (Field and Welsh, 2007), or rows where there are no groups.

    Args:
        rows: how many there are.
        groups: which rows belong together, [rows], or None.
        generator: of the draws.
    """
    member = None if groups is None else np.unique(groups, return_inverse=True)[1]
    count = rows if member is None else int(member.max(initial=-1)) + 1
    for _ in range(RESAMPLES):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count)
        yield drawn if member is None else drawn[member]


def bootstrap(loss: Figure, drawn: Iterable[Array], confidence: float) -> tuple[float, float, float]:
    """A loss, and its one-sided lower and upper bounds: the basic bootstrap (Davison and Hinkley, 1997, section 5.2).

    It reflects the resamples at the figure, which takes back the bias of figures that resampling inflates, as it does
    absolute gaps. NaN where a resample never has the figure.

    Args:
        loss: for any row weights, both models' in one.
        drawn: weights of each resample.
        confidence: of each bound.
    """
    found = loss(None)
    draws = np.array([loss(weights) for weights in drawn])
    defined = draws[np.isfinite(draws)]
    if not len(defined):
        return found, float("nan"), float("nan")
    low, high = np.quantile(defined, [1 - confidence, confidence])
    return found, float(2 * found - high), float(2 * found - low)
