"""Calibration: whether probabilities say how often a model is right, and whether quantities are off or scattered."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.core.measured import Measured
from tasks.core.metrics import Figure
from tasks.core.metrics.metric import Array, one_a_row, weighted_mean
from tasks.verify.behaviour import bootstrap, probabilities, resamples, spread
from tasks.verify.case import Case

#: Largest rise of the expected calibration error: of the size that is left after temperature scaling, where networks
#: without it have 2 to 16 % (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, table 1).
RISE = 0.02
#: Largest rise of the bias, as a share of the labels' standard deviation: a quarter of a small effect (Cohen, 1988).
BIAS = 0.05
#: Largest rise of the residuals' standard deviation, as a share of the original's.
SCATTER = 0.05
#: As in Guo et al.
BINS = 15


@dataclass(frozen=True)
class Curve:
    """A reliability curve, a value for each bin of rows with like confidence, least confidence first.

    Attributes:
        confidence: mean probability.
        observed: share of rows for which it came true.
        rows: rows in the bin.
    """

    confidence: list[float]
    observed: list[float]
    rows: list[int]


@dataclass(frozen=True)
class Reliability:
    """What a report draws: both models' curves, and what the probability is of (``about``)."""

    about: str
    original: Curve
    shipped: Curve

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure(
    case: Case, rise: float = RISE, bias: float = BIAS, scatter: float = SCATTER, bins: int = BINS
) -> tuple[list[Measured], Reliability | None]:
    """Rise of the expected calibration error of probabilities; of bias and residual spread of quantities.

    Two classes: the probability of class 1. More: that of the class decided for. Lists have none, and give nothing.

    Args:
        case: both models' answers.
        rise: margin of the calibration error.
        bias: margin of the absolute mean residual, as a share of the labels' standard deviation.
        scatter: margin of the residuals' standard deviation, as a share of the original's.
        bins: of the calibration error, of equal numbers of rows.

    Raises:
        ValueError: if answers do not fit the task.
    """
    if case.task == "ranking":
        return [], None
    if case.task == "regression":
        return _quantities(case, bias, scatter), None
    sides = [_Binned(*_outcomes(case, answers), bins) for answers in (case.original, case.shipped)]
    line = _line(case, "expected calibration error", sides[0].error, sides[1].error, rise)
    about = f"class {case.classes[1]}" if case.task == "binary" else "the class decided for"
    return [line], Reliability(about, sides[0].curve(), sides[1].curve())


def _line(case: Case, name: str, original: Figure, shipped: Figure, margin: float) -> Measured:
    def loss(weights: Array | None) -> float:
        return shipped(weights) - original(weights)

    drawn = resamples(len(case.labels), case.groups, np.random.default_rng(case.seed))
    found, lower, upper = bootstrap(loss, drawn, case.confidence)
    return Measured(
        "calibration", name, "no_harm", len(case.labels),
        original=original(None), shipped=shipped(None), loss=found, lower=lower, upper=upper, margin=margin,
    )  # fmt: skip


def _outcomes(case: Case, answers: Array) -> tuple[Array, Array]:
    """Confidence, float64 [n], and whether what it is of came true, bool [n]."""
    chances, labels = probabilities(answers), case.labels.astype(np.int64)
    if case.task == "binary":
        return chances[:, 1], labels == 1
    decided = chances.argmax(axis=1)
    return chances[np.arange(len(decided)), decided], decided == labels


class _Binned:
    """Rows in bins of like confidence and (but for ties) equal size, which biases the error less than bins of equal
    width (Nixon et al., "Measuring Calibration in Deep Learning", 2019; Roelofs et al., AISTATS 2022)."""

    def __init__(self, confidence: Array, true: Array, bins: int) -> None:
        self._confidence, self._true = confidence, true
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
        self._bins = np.searchsorted(edges, confidence, side="right")
        self._gaps = confidence - true

    def error(self, weights: Array | None) -> float:
        """Mean over the rows of their bin's |mean confidence - share come true| (Naeini et al., AAAI 2015)."""
        weighed = self._gaps if weights is None else self._gaps * weights
        total = len(weighed) if weights is None else float(weights.sum())
        return float(np.abs(np.bincount(self._bins, weighed)).sum()) / total

    def curve(self) -> Curve:
        rows = np.bincount(self._bins)
        held = rows > 0
        means = [np.bincount(self._bins, each)[held] / rows[held] for each in (self._confidence, self._true)]
        return Curve(means[0].tolist(), means[1].tolist(), rows[held].tolist())


def _quantities(case: Case, bias: float, scatter: float) -> list[Measured]:
    residuals = [
        one_a_row(case.labels, answers).astype(np.float64) - case.labels for answers in (case.original, case.shipped)
    ]
    means, scatters = [_bias(each) for each in residuals], [_scatter(each) for each in residuals]
    return [
        _line(case, "bias of the answers", means[0], means[1], bias * spread(case.labels)),
        _line(case, "spread of the residuals", scatters[0], scatters[1], scatter * scatters[0](None)),
    ]


def _bias(residuals: Array) -> Figure:
    """Absolute mean."""
    mean = weighted_mean(residuals)
    return lambda weights: abs(mean(weights))


def _scatter(residuals: Array) -> Figure:
    """Standard deviation; residuals are centred first, so that the difference of squares loses no digits."""
    centred = residuals - residuals.mean()
    mean, square = weighted_mean(centred), weighted_mean(np.square(centred))
    return lambda weights: math.sqrt(max(0.0, square(weights) - mean(weights) ** 2))
