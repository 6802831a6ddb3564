"""The difference of two shares of the same rows: Tango's score test made exact, and McNemar's exact test beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.metrics import Metric
from tasks.core.statistics import exact
from tasks.core.statistics.comparison import Comparison

Array = NDArray[Any]
METHOD = "Tango's score test for paired proportions, exact for any share of flips"

#: Metrics that are the share of rows which are right; of all of them more is better.
_SHARES = re.compile(r"accuracy|top[1-9][0-9]*|hr@[1-9][0-9]*")
#: Rows whose digits a float64 holds with room for rounding.
_DIGITS = 40


def is_share(metric: Metric) -> bool:
    """Whether the metric is the share of rows that are right: accuracy, top-k accuracy, hit rate at k."""
    return _SHARES.fullmatch(metric.name) is not None


def right(metric: Metric, labels: Array, answers: Array) -> NDArray[np.bool_]:
    """Which rows are right by a metric that is a share of them, bool [n].

    Args:
        metric: one for which :func:`is_share` holds.
        labels: [n], as the metric takes them.
        answers: [n, ...], as the metric takes them.

    Raises:
        ValueError: if shapes do not fit or an answer is not finite.
    """
    # A share under the weights 1, 2, 4, ... is a binary number, and its digits are the rows. So the metric itself says
    # which rows it counts, and in far fewer calls than one for each row.
    place = np.arange(_DIGITS)
    found = np.empty(len(labels), dtype=np.bool_)
    for start in range(0, len(labels), _DIGITS):
        block = slice(start, min(start + _DIGITS, len(labels)))
        places = place[: block.stop - start]
        weights = np.int64(1) << places
        share = metric.prepare(labels[block], answers[block])(weights)
        found[block] = (round(share * int(weights.sum())) >> places) & 1
    return found


@dataclass(frozen=True)
class Flips:
    """Rows on which two models differ.

    Attributes:
        lost: rows that only the original has right.
        won: rows that only the candidate has right.
        n: all rows, at least one.
    """

    lost: int
    won: int
    n: int

    @classmethod
    def between(cls, original: NDArray[np.bool_], shipped: NDArray[np.bool_]) -> Flips:
        """Of which rows each model has right, bool [n] each."""
        return cls(int((original & ~shipped).sum()), int((shipped & ~original).sum()), len(original))

    @property
    def loss(self) -> float:
        """Share of right rows that the candidate has less."""
        return (self.lost - self.won) / self.n

    def bounds(self, confidence: float) -> tuple[float, float]:
        """One-sided lower and upper bound of the loss, each at that confidence (above one half)."""
        error = 1 - confidence
        return -exact.upper(self.won, self.lost, self.n, error), exact.upper(self.lost, self.won, self.n, error)

    def chance(self, margin: float) -> float:
        """One-sided p of a true loss of at most ``margin``, by the test that the bounds invert."""
        return exact.chance(self.won, self.lost, self.n, -min(max(margin, -1.0), 1.0))

    def mcnemar(self) -> float:
        """Two-sided exact p of equal shares (McNemar, 1947): the discordant rows as tosses of a fair coin."""
        from scipy.stats import binomtest

        discordant = self.lost + self.won
        return float(binomtest(self.lost, discordant).pvalue) if discordant else 1.0


def compare(metric: Metric, labels: Array, original: Array, shipped: Array, confidence: float) -> Comparison:
    """Two models by a metric that is a share of rows, each of which stands alone.

    The models' own intervals are Wilson's (1927).

    Args:
        metric: one for which :func:`is_share` holds.
        labels: [n], as the metric takes them.
        original: answers of the original, [n, ...].
        shipped: answers of the candidate, [n, ...].
        confidence: of each one-sided bound, and of the two-sided intervals.

    Raises:
        ValueError: if shapes do not fit or an answer is not finite.
    """
    first, second = right(metric, labels, original), right(metric, labels, shipped)
    flips = Flips.between(first, second)
    lower, upper = flips.bounds(confidence)
    return Comparison(
        float(first.mean()),
        _wilson(first, confidence),
        float(second.mean()),
        _wilson(second, confidence),
        flips.loss,
        lower,
        upper,
        flips.n,
        metric.support(labels),
        METHOD,
        mcnemar=flips.mcnemar(),
    )


def _wilson(found: NDArray[np.bool_], confidence: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    low, high = binomtest(int(found.sum()), len(found)).proportion_ci(confidence, method="wilson")
    return float(low), float(high)
