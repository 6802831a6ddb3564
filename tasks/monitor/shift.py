"""How far the counts of a window lie from those of the reference: stability index, Kolmogorov-Smirnov, and a p-value.

Pure arithmetic on counts in bins. The reference gives counts below its ``least_count`` as 0; half of that stands for
them here, so that neither a rare bin nor a new one is taken for what it is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Bins of which a window is expected to hold fewer are tested together: the G statistic is about chi-square above that.
_EXPECTED = 5.0


@dataclass(frozen=True)
class Shift:
    """A spread in a window against the reference.

    Attributes:
        psi: population stability index, less what chance alone gives it, at least 0.
        ks: greatest distance of the two distributions of what is not missing; None where bins have no order.
        p: chance of counts so far apart without any drift, whole and by order together; NaN where nothing can be told.
        reference, window: share of each bin, adding up to 1; the last one is what is missing.
    """

    psi: float
    ks: float | None
    p: float
    reference: tuple[float, ...]
    window: tuple[float, ...]

    @property
    def effect(self) -> float:
        """The larger one of both distances."""
        return max(self.psi, self.ks or 0.0)


def compare(reference: np.ndarray, window: np.ndarray, ordered: bool, hidden: float) -> Shift:
    """Compare counts.

    Args:
        reference: count of each bin, missing last, [bins].
        window: likewise, with at least one value.
        ordered: whether the bins, but the last one, rise with the value.
        hidden: what stands for a count of 0 in the reference.
    """
    known = np.where(reference == 0, hidden, reference).astype(np.float64)
    window = window.astype(np.float64)
    chances = [_g_test(known, window)]
    distance = None
    if ordered:
        distance, chance = _kolmogorov_smirnov(known[:-1], window[:-1])
        chances.append(chance)
    told = [chance for chance in chances if not math.isnan(chance)]
    p = min(1.0, len(told) * min(told)) if told else math.nan
    shares = (tuple((counts / counts.sum()).tolist()) for counts in (known, window))
    return Shift(_stability(known, window), distance, p, *shares)


def _stability(reference: np.ndarray, window: np.ndarray) -> float:
    """PSI; without drift it is about (bins - 1) (1/n + 1/N), a chi-square over its degrees of freedom."""
    bins, n, total = len(window), window.sum(), reference.sum()
    expected = reference / total
    found = (window + 0.5) / (n + 0.5 * bins)
    psi = float(((found - expected) * np.log(found / expected)).sum())
    seen = int((n * expected >= 1).sum())  # bins in which a window of this size is likely to have rows at all
    return max(0.0, psi - max(seen - 1, 0) * float(1 / n + 1 / total))


def _g_test(reference: np.ndarray, window: np.ndarray) -> float:
    """Chance of two samples of one distribution that differ so much (likelihood ratio, chi-square)."""
    from scipy.stats import chi2

    counts = np.stack([reference, window])
    expected = counts.sum(axis=0) * (window.sum() / counts.sum())
    rare = expected < _EXPECTED
    if rare.any():
        counts = np.concatenate([counts[:, ~rare], counts[:, rare].sum(axis=1, keepdims=True)], axis=1)
    if counts.shape[1] < 2:
        return math.nan
    together = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0, keepdims=True) / counts.sum()
    some = counts > 0
    statistic = 2 * float((counts[some] * np.log(counts[some] / together[some])).sum())
    return float(chi2.sf(statistic, counts.shape[1] - 1))


def _kolmogorov_smirnov(reference: np.ndarray, window: np.ndarray) -> tuple[float | None, float]:
    """Distance at the bins' borders, and its chance: too large a chance rather than too small, as values are binned."""
    from scipy.stats import kstwobign

    n, total = window.sum(), reference.sum()
    if n == 0 or len(window) < 2:
        return None, math.nan
    distance = float(np.abs(np.cumsum(reference) / total - np.cumsum(window) / n).max())
    return distance, float(kstwobign.sf(distance * math.sqrt(n * total / (n + total))))
