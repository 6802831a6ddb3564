"""The judge: evidence in, verdict out. Pure arithmetic; tests/test_verify_judge.py holds the table of cases."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tasks.verify.bootstrap import Comparison

Word = Literal["ACCEPT", "REGRESSION", "INCONCLUSIVE", "ANOMALOUS"]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the reason for it, in words."""

    verdict: Word
    reason: str


def judge(evidence: Comparison, margin: float, max_gain: float, confidence: float = 0.95) -> Judgement:
    """Non-inferiority of the candidate: accepted if the upper bound of its drop lies within the margin.

    A bootstrap cannot show a loss that its few rows happen not to contain. So the rarer class must have rows enough
    that a loss of ``margin`` would have been met with the wanted confidence: ``(1 - margin) ** rows <= 1 - confidence``
    (the rule of three; Hanley and Lippman-Hand, JAMA 1983).

    Args:
        evidence: the comparison on test.
        margin: largest acceptable drop.
        max_gain: a larger gain than this is implausible.
        confidence: of the bounds in ``evidence``.
    """
    numbers = (evidence.original, evidence.shipped, evidence.drop, evidence.lower, evidence.upper)
    if not all(math.isfinite(number) for number in numbers):
        return Judgement("ANOMALOUS", "a figure is not finite: one class may be absent from test")
    if -evidence.drop > max_gain:
        return Judgement("ANOMALOUS", f"AUC rises by {-evidence.drop:.5f}, which no compression explains")
    least = math.ceil(math.log(1 - confidence) / math.log1p(-margin)) if margin < 1 else 1
    if evidence.upper <= margin and evidence.rarest < least:
        found = f"{evidence.rarest} test rows of the rarer class"
        return Judgement("INCONCLUSIVE", f"a loss of {margin} could go unseen in {found}; at least {least} are needed")
    if evidence.upper <= margin:
        return Judgement("ACCEPT", f"the drop is at most {evidence.upper:.5f}, within the margin of {margin}")
    if evidence.lower > margin:
        return Judgement("REGRESSION", f"the drop is at least {evidence.lower:.5f}, beyond the margin of {margin}")
    return Judgement("INCONCLUSIVE", _how_many_rows(evidence, margin))


def _how_many_rows(evidence: Comparison, margin: float) -> str:
    """The bound's distance from the drop shrinks with the root of n: solve for the n that brings it to the margin."""
    said = f"the drop may be up to {evidence.upper:.5f}, beyond the margin of {margin}"
    if evidence.drop >= margin:
        return f"{said}; the observed drop of {evidence.drop:.5f} is no smaller, so more rows would hardly help"
    needed = math.ceil(evidence.n * ((evidence.upper - evidence.drop) / (margin - evidence.drop)) ** 2)
    return f"{said}; about {needed} test rows would decide, {evidence.n} were given"
