"""Paired resampling of a metric's loss: BCa bootstrap and delete-a-group jackknife, over rows or whole groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.log import progress
from tasks.core.metrics import Metric
from tasks.core.statistics.comparison import Comparison

Array = NDArray[Any]

#: Parts that the jackknife leaves out in turn: enough for a skewness, and affordable at any number of rows.
PARTS = 200
#: With fewer groups, bounds of resampled groups are too narrow (Cameron, Gelbach and Miller, 2008).
FEWEST_GROUPS = 30


class Pair:
    """A metric of two models on the same rows, for any weights of the units that are resampled.

    Attributes:
        rows: how many there are.
        units: how many of them are independent: the rows, or the groups that they come in.
    """

    def __init__(self, metric: Metric, labels: Array, original: Array, shipped: Array, groups: Array | None) -> None:
        """``labels`` [n] and answers [n, ...] as the metric takes them; ``groups`` [n] or None.

        Raises:
            ValueError: if shapes do not fit, or a number is not finite.
        """
        self._metric = metric
        self._first, self._second = metric.prepare(labels, original), metric.prepare(labels, shipped)
        self.rows = self.units = len(labels)
        self._unit: Array | None = None
        if groups is not None:
            if groups.shape != (self.rows,):
                raise ValueError(f"each of {self.rows} rows needs a group: groups are {groups.shape}")
            names, self._unit = np.unique(groups, return_inverse=True)
            self.units = len(names)

    def figures(self, weights: Array | None = None) -> tuple[float, float]:
        """The metric of each model, for how often each unit occurs [units] (once if None)."""
        if weights is not None and self._unit is not None:
            weights = weights[self._unit]
        return self._first(weights), self._second(weights)

    def loss(self, weights: Array | None = None) -> float:
        """How much worse the candidate is."""
        return self._metric.loss(*self.figures(weights))


@dataclass(frozen=True)
class Jackknife:
    """The loss, and the losses without each part of the units in turn, [parts]; few units are left out one by one."""

    loss: float
    without: NDArray[np.float64]

    @classmethod
    def of(cls, pair: Pair, seed: int) -> Jackknife:
        """At most 200 parts, drawn at random: rows may lie in an order that means something."""
        parts = min(pair.units, PARTS)
        part = np.random.default_rng(seed).permutation(pair.units) % max(parts, 1)
        losses = [pair.loss((part != left_out).astype(np.int64)) for left_out in range(parts)]
        return cls(pair.loss(), np.array(losses, dtype=np.float64))

    @property
    def error(self) -> float:
        """Standard error of the loss (Shao and Tu, 1995, equation 2.4); NaN with fewer than two parts."""
        parts = len(self.without)
        return math.sqrt((parts - 1) * float(self.without.var())) if parts > 1 else math.nan

    @property
    def acceleration(self) -> float:
        """How fast the standard error changes with the loss (Efron, JASA 1987, equation 6.6); NaN if none is known."""
        influence = self.without.mean() - self.without
        spread = float(np.square(influence).sum())
        return float((influence**3).sum()) / (6 * spread**1.5) if spread > 0 else math.nan

    def bounds(self, confidence: float) -> tuple[float, float]:
        """One-sided lower and upper bound of the loss by Student's t, each at that confidence; NaN if there are none.

        Unlike quantiles of resamples, they reach to any confidence, however many things are tested at once.
        """
        from scipy.stats import t

        reach = float(t.ppf(confidence, len(self.without) - 1)) * self.error if len(self.without) > 1 else math.nan
        return self.loss - reach, self.loss + reach

    def chance(self, margin: float) -> float:
        """One-sided p of a true loss of at most ``margin``; NaN if there is none."""
        from scipy.stats import t

        error = self.error
        if math.isnan(error) or math.isnan(self.loss):
            return math.nan
        if error == 0:
            return float(self.loss <= margin)
        return float(t.sf((self.loss - margin) / error, len(self.without) - 1))


@dataclass(frozen=True)
class Resampled:
    """The losses of the resamples, and what BCa corrects their quantiles by.

    Attributes:
        losses: those that have a value, [resamples].
        bias: how far the loss lies from their median, in standard errors.
        acceleration: of the jackknife.
    """

    losses: NDArray[np.float64]
    bias: float
    acceleration: float

    @classmethod
    def of(cls, losses: NDArray[np.float64], jackknife: Jackknife) -> Resampled:
        """``losses``: [resamples], all finite. Equal ones count half, as a metric may take few values."""
        from scipy.stats import norm

        below = float((losses < jackknife.loss).mean() + (losses == jackknife.loss).mean() / 2) if len(losses) else 0.0
        return cls(losses, float(norm.ppf(below)), jackknife.acceleration)

    def bounds(self, confidence: float) -> tuple[float, float, str]:
        """One-sided lower and upper bound, each at that confidence, and why they are not BCa's if they are not.

        BCa: Efron, JASA 82 (1987), 171-185; Efron and Tibshirani (1993), chapter 14.3. NaN where no resample has a
        value.
        """
        levels, why = np.array([1 - confidence, confidence]), ""
        if len(self.losses) == 0:
            return math.nan, math.nan, "the metric has no value in any resample"
        if self.losses.min() == self.losses.max():
            why = "all resamples agree"
        elif not math.isfinite(self.bias):
            why = "percentiles: all resamples lie on one side of the loss"
        elif not math.isfinite(self.acceleration):
            why = "percentiles: the acceleration is not finite"
        else:
            corrected = self._corrected(levels)
            levels, why = (levels, "percentiles: the correction has no value") if corrected is None else (corrected, "")
        lower, upper = np.quantile(self.losses, levels)
        return float(lower), float(upper), why

    def _corrected(self, levels: Array) -> Array | None:
        from scipy.stats import norm

        shifted = self.bias + norm.ppf(levels)
        slope = 1 - self.acceleration * shifted
        return np.asarray(norm.cdf(self.bias + shifted / slope)) if (slope > 0).all() else None


def compare(
    metric: Metric,
    labels: Array,
    original: Array,
    shipped: Array,
    groups: Array | None,
    confidence: float,
    resamples: int,
    seed: int,
) -> Comparison:
    """Paired BCa bootstrap of the loss: the same resampled rows, or groups of them, score both models.

    Where BCa has no value, plain percentiles take its place, and ``method`` says so; likewise how many resamples the
    metric has no value in (a class may be absent). One unit alone says nothing of the spread: its bounds are NaN.

    Args:
        metric: what is compared.
        labels: [n], as the metric takes them.
        original: answers of the original, [n, ...].
        shipped: answers of the candidate, [n, ...].
        groups: which rows belong together, [n]; they are resampled as a whole. None where each row stands alone.
        confidence: of each one-sided bound, and of the two-sided intervals.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Raises:
        ValueError: if shapes differ or a score is not finite.
    """
    pair = Pair(metric, labels, original, shipped, groups)
    draws = _draws(pair, resamples, seed)
    defined = draws[np.isfinite(draws).all(axis=1)]
    losses = (defined[:, 0] - defined[:, 1]) * (1 if metric.higher_is_better else -1)
    lower, upper, why = Resampled.of(losses, Jackknife.of(pair, seed)).bounds(confidence)
    if pair.units < 2:
        lower, upper, why = math.nan, math.nan, "one of them has no spread"
    figures = pair.figures()
    rarest = metric.support(labels)
    if groups is not None:
        rarest = _independent(rarest, pair, Pair(metric, labels, original, shipped, None), seed)
    return Comparison(
        figures[0],
        _interval(defined[:, 0], confidence),
        figures[1],
        _interval(defined[:, 1], confidence),
        metric.loss(*figures),
        lower,
        upper,
        pair.rows,
        rarest,
        _method(pair, groups is not None, resamples, resamples - len(defined), why),
        None if groups is None else pair.units,
    )


def _independent(rows: int, grouped: Pair, alone: Pair, seed: int) -> int:
    """How many independent rows those in groups are worth, at least as many as there are groups.

    As many fewer as the loss varies more than if each row stood alone: the design effect (Kish, Survey Sampling, 1965,
    section 8.2). It is not known where nothing varies or groups are few, so that each group counts as one row there.
    """
    worth = float(grouped.units)
    if grouped.units >= FEWEST_GROUPS:
        errors = [Jackknife.of(each, seed).error for each in (grouped, alone)]
        if errors[0] > 0 and errors[1] > 0:
            worth = rows / max((errors[0] / errors[1]) ** 2, 1.0)
    return min(rows, max(round(worth), grouped.units))


def _draws(pair: Pair, resamples: int, seed: int) -> NDArray[np.float64]:
    """The metric of both models in each resample, [resamples, 2]."""
    generator, units = np.random.default_rng(seed), pair.units
    draws = np.empty((resamples, 2))
    for index in progress(range(resamples), "bootstrap", resamples):
        draws[index] = pair.figures(np.bincount(generator.integers(0, units, units), minlength=units))
    return draws


def _interval(figures: Array, confidence: float) -> tuple[float, float]:
    """Two-sided percentile interval of the resamples' figures; NaN if there are none."""
    if len(figures) == 0:
        return math.nan, math.nan
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _method(pair: Pair, grouped: bool, resamples: int, undefined: int, why: str) -> str:
    over = f"{pair.units} groups of rows" if grouped else "rows"
    said = [f"paired BCa bootstrap over {over}, {resamples} resamples", why]
    said.append(f"{undefined} resamples have no value" if undefined else "")
    return "; ".join(part for part in said if part)
