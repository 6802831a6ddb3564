"""The judge: evidence in, verdict out. Pure arithmetic; tests/test_verify_judge.py holds the table of cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tasks.core.metrics import Metric
from tasks.verify.bootstrap import Comparison

Word = Literal["ACCEPT", "REGRESSION", "INCONCLUSIVE", "ANOMALOUS"]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the reason for it, in words."""

    verdict: Word
    reason: str


def judge(evidence: Comparison, margin: float, max_gain: float, confidence: float, metric: Metric) -> Judgement:
    """Non-inferiority of the candidate: accepted if the upper bound of its drop lies within the margin.

    A bootstrap cannot show a loss that its few rows happen not to contain. So what the metric counts must have rows
    enough that a loss of ``margin`` would have been met with the wanted confidence: ``(1 - margin) ** rows <=
    1 - confidence`` (the rule of three; Hanley and Lippman-Hand, JAMA 1983). For a metric with a unit, the margin
    there is its share of the original's figure.

    Args:
        evidence: the comparison on test.
        margin: largest acceptable drop, in the metric's unit.
        max_gain: a larger gain than this is implausible.
        confidence: of the bounds in ``evidence``.
        metric: what was compared.
    """
    anomaly = _anomaly(evidence, margin, max_gain, metric.name)
    if anomaly:
        return Judgement("ANOMALOUS", anomaly)
    said = f"{margin:.6g}"
    if margin <= 0:
        return Judgement("INCONCLUSIVE", f"nothing lies within a margin of {said}: give verify.margin as a number")
    what = f"the {'drop in' if metric.higher_is_better else 'rise of'} {metric.name}"
    if evidence.upper <= margin:
        least = _least_rows(margin if metric.bounded else _share(margin, evidence.original), confidence)
        if evidence.rarest >= least:
            return Judgement("ACCEPT", f"{what} is at most {evidence.upper:.5g}, within the margin of {said}")
        found = f"{evidence.rarest} test rows of the rarest thing that {metric.name} counts"
        return Judgement("INCONCLUSIVE", f"a loss of {said} could go unseen in {found}; at least {least} are needed")
    if evidence.lower > margin:
        return Judgement("REGRESSION", f"{what} is at least {evidence.lower:.5g}, beyond the margin of {said}")
    return Judgement("INCONCLUSIVE", _how_many_rows(evidence, margin, what))


def _anomaly(evidence: Comparison, margin: float, max_gain: float, name: str) -> str:
    numbers = (evidence.original, evidence.shipped, evidence.drop, evidence.lower, evidence.upper, margin, max_gain)
    if not all(math.isfinite(number) for number in numbers):
        return f"a figure of {name} is not finite: test may lack what it counts, such as a class"
    if -evidence.drop > max_gain:
        return f"{name} gets better by {-evidence.drop:.5g}, which no compression explains"
    return ""


def _share(margin: float, figure: float) -> float:
    return margin / abs(figure) if figure else math.inf


def _least_rows(share: float, confidence: float) -> int:
    return math.ceil(math.log(1 - confidence) / math.log1p(-share)) if share < 1 else 1


def _how_many_rows(evidence: Comparison, margin: float, what: str) -> str:
    """The bound's distance from the drop shrinks with the root of n: solve for the n that brings it to the margin."""
    said = f"{what} may be up to {evidence.upper:.5g}, beyond the margin of {margin:.6g}"
    if evidence.drop >= margin:
        return f"{said}; the observed one of {evidence.drop:.5g} is no smaller, so more rows would hardly help"
    needed = math.ceil(evidence.n * ((evidence.upper - evidence.drop) / (margin - evidence.drop)) ** 2)
    return f"{said}; about {needed} test rows would decide, {evidence.n} were given"
