"""What a test could have shown: rows that would decide, and the least loss that so few rows can tell from none.

A bound's distance from the loss is taken as a quantile of the normal distribution times a standard error that shrinks
with the root of the rows. That is exact for a mean of many rows and near enough to plan with.
"""

from __future__ import annotations

import math

#: Chance with which a plan must work out.
POWER = 0.8


def least_rows(share: float, confidence: float) -> int:
    """Rows that meet a loss of ``share`` of them at least once with that confidence: ``(1 - share) ** rows <= 1 - it``.

    The rule of three (Hanley and Lippman-Hand, JAMA 1983).

    Args:
        share: positive; a share of 1 or more is met by the first row.
        confidence: in 0 to 1.
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-share)) if share < 1 else 1


def least_share(rows: int, confidence: float) -> float:
    """The other way round: the least share that ``rows`` rows meet at least once with that confidence."""
    return -math.expm1(math.log(1 - confidence) / rows) if rows else 1.0


def rows_to_decide(loss: float, upper: float, margin: float, n: int) -> int | None:
    """Rows with which the upper bound would lie within the margin if the loss stayed; None if no number would do.

    Args:
        loss: as observed on ``n`` rows.
        upper: its upper bound.
        margin: largest acceptable loss.
        n: rows.
    """
    if loss >= margin:
        return None
    return math.ceil(n * ((upper - loss) / (margin - loss)) ** 2)


def least_margin(loss: float, upper: float, confidence: float) -> float:
    """The least drop that this test could have seen: the margin within which no true loss is accepted, power 80 %.

    Args:
        loss: as observed.
        upper: its upper bound.
        confidence: of that bound, above one half.
    """
    return (upper - loss) * _reach(confidence)


def least_shown(margin: float, loss: float, lower: float, confidence: float) -> float:
    """The least true loss whose lower bound would have left the margin, power 80 %.

    Args:
        margin: largest acceptable loss.
        loss: as observed.
        lower: its lower bound.
        confidence: of that bound, above one half.
    """
    return margin + (loss - lower) * _reach(confidence)


def _reach(confidence: float) -> float:
    """Standard errors that a bound and the wanted power take together, over those of the bound alone."""
    from scipy.stats import norm

    return 1 + float(norm.ppf(POWER) / norm.ppf(confidence))
