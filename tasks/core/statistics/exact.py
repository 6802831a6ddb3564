"""The exact size of Tango's score test, for every share of flips that the data leave possible.

The normal approximation of the score errs where flips are few: with 2,251 rows and a true loss of 0.002 by a candidate
that wins no row back, a test at 5 % would accept 6.1 %. So the chance of a score as low as the observed one is summed
over all counts instead, at the share of flips that makes it greatest. Only shares within an interval that misses the
true one with a chance of ``_MISSED`` are looked at, and that chance is added: Berger and Boos, JASA 89 (1994), 1012.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MISSED = 1e-7
#: Shares that are looked at lie so many standard errors of a share apart; with many flips, where a step of the counts
#: moves little, the second number holds.
_STEP, _LONG_STEP, _MANY = 0.125, 0.5, 400
#: Counts of flips that are less likely than this, all of them together, are taken for as low a score.
_UNLIKELY = 1e-10
#: Scores of the same counts differ by rounding.
_ROUNDING = 1e-9
_LEAST = 1e-15


def tango(lost: Any, won: Any, n: Any, loss: Any) -> Any:
    """Tango's score statistic of a true loss; about standard normal if it is the true one, and falling in ``loss``.

    Tango, Statistics in Medicine 17 (1998), 891-908, equations 24 to 26: the distance of the observed loss from the
    true one over its standard error there, with the share of won rows estimated by maximum likelihood under that loss.
    Numbers or arrays that broadcast.

    Args:
        lost: rows that only the original has right.
        won: rows that only the candidate has right.
        n: all rows.
        loss: the true loss that is tested, in -1 to 1.
    """
    linear = (2 * n - lost + won) * loss - lost - won
    constant = -won * loss * (1 - loss)
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    error = np.sqrt(np.maximum(n * (2 * share + loss * (1 - loss)), 0.0))
    distance = lost - won - n * loss
    # Where nothing can vary (no discordant row and no loss, or a loss of all rows), only the distance itself speaks.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, np.divide(distance, error))


def chance(lost: int, won: int, n: int, loss: float) -> float:
    """Greatest chance of a score as low as that of these counts, if ``loss`` is the true one: a p-value.

    It is 1 where the observed loss is no smaller.

    Args:
        lost: rows that only the original has right.
        won: rows that only the candidate has right.
        n: all rows, at least one.
        loss: the true loss that is tested, in -1 to 1.
    """
    from scipy.special import bdtr, gammaln, xlog1py, xlogy

    if (lost - won) / n >= loss:
        return 1.0
    shares = _shares(lost + won, n, abs(loss))
    if len(shares) == 0:
        return _MISSED
    flips = _flips(n, shares)
    most = _most_lost(flips, n, loss, float(tango(lost, won, n, loss)) + _ROUNDING)
    ways = gammaln(n + 1) - gammaln(flips + 1) - gammaln(n - flips + 1)
    chances = np.exp(ways + xlogy(flips, shares[:, None]) + xlog1py(n - flips, -shares[:, None]))
    # Of the flips a loss is each with the same chance. What is hardly possible at all is taken for as low.
    row, column = np.nonzero(chances > _UNLIKELY / len(flips))
    likely = chances[row, column]
    lower = bdtr(most[column], flips[column].astype(np.int64), ((shares + loss) / 2 / shares)[row])
    lower = np.where(most[column] < 0, 0.0, lower)
    counted = [np.bincount(row, weights, len(shares)) for weights in (likely * lower, likely)]
    return float(min((counted[0] + np.maximum(1 - counted[1], 0.0)).max() + _MISSED, 1.0))


def upper(lost: int, won: int, n: int, error: float) -> float:
    """The greatest loss whose :func:`chance` is above ``error`` (below one half): an upper bound of the true one."""
    from scipy.optimize import bisect, brentq
    from scipy.special import ndtri

    if lost == n:
        return 1.0
    observed = (lost - won) / n
    quantile = -float(ndtri(error))
    near = float(bisect(lambda loss: float(tango(lost, won, n, loss)) + quantile, observed, 1.0))

    def above(loss: float) -> float:
        """Falls, nearly on a straight line, and is zero at the bound."""
        return float(ndtri(min(chance(lost, won, n, loss), 1 - _ROUNDING))) + quantile

    reach = (near - observed) / 50
    low, high = max(near - reach, observed), min(near + reach, 1.0)
    while low > observed and above(low) <= 0:
        low, reach = max(low - reach, observed), 2 * reach
    while high < 1.0 and above(high) > 0:
        high, reach = min(high + reach, 1.0), 2 * reach
    if high == 1.0 and above(high) > 0:
        return 1.0
    precision = max((near - observed) * 1e-6, 1e-12)
    return min(float(brentq(above, low, high, xtol=precision)) + precision, 1.0)


def _shares(flips: int, n: int, least: float) -> NDArray[np.float64]:
    """Shares of flips that are not ruled out by how many there are; none if that rules out ``least`` and all above.

    Clopper and Pearson's interval, in steps that are equal where the spread of a share is (its arcsine).
    """
    from scipy.special import betaincinv

    low = float(betaincinv(flips, n - flips + 1, _MISSED / 2)) if flips else 0.0
    high = float(betaincinv(flips + 1, n - flips, 1 - _MISSED / 2)) if flips < n else 1.0
    low = max(low, least, _LEAST)
    if low > high:
        return np.empty(0)
    first, last = math.asin(math.sqrt(low)), math.asin(math.sqrt(high))
    step = _STEP if flips < _MANY else _LONG_STEP
    count = 2 + math.ceil((last - first) * 2 * math.sqrt(n) / step)
    found = np.sin(np.linspace(first, last, count)) ** 2
    found[0], found[-1] = low, high
    return np.asarray(found)


def _flips(n: int, shares: Array) -> NDArray[np.float64]:
    """All numbers of flips that are not most unlikely at some share; the bounds are Bernstein's."""
    reach = -math.log(_UNLIKELY / 2)
    means = n * shares[[0, -1]]
    low, high = (np.sqrt(2 * reach * means * (1 - shares[[0, -1]]) + (reach / 3) ** 2) + reach / 3) * (-1, 1) + means
    return np.arange(max(math.floor(low), 0), min(math.ceil(high), n) + 1, dtype=np.float64)


def _most_lost(flips: Array, n: int, loss: float, score: float) -> Array:
    """For each number of flips how many of them may be losses at most, with no higher score; -1 if none may."""
    low, high = np.full(len(flips), -1.0), flips.copy()
    while (low < high).any():
        middle = np.ceil((low + high) / 2)
        fits = tango(middle, flips - middle, n, loss) <= score
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
    return low
