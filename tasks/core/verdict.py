"""The judge: measurements in, verdict out. Pure arithmetic; tests/test_verify_verdict.py holds the table of cases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.core.measured import Measured, Rule, Word
from tasks.core.statistics import planning

#: The gravest first.
GRAVITY: tuple[Word, ...] = ("ANOMALOUS", "REGRESSION", "INFEASIBLE", "INCONCLUSIVE", "ACCEPT")
#: The figures that a rule is about.
_NEEDED: dict[Rule, tuple[str, ...]] = {
    "non_inferior": ("loss", "lower", "upper", "margin"),
    "no_harm": ("loss", "lower", "upper", "margin"),
    "at_most": ("loss", "margin"),
    "nothing_found": (),
}
_FIGURES = ("original", "shipped", "loss", "lower", "upper", "margin")


@dataclass(frozen=True)
class Terms:
    """What else the judge must know.

    Attributes:
        confidence: of the metric's bounds.
        max_gain: a larger gain of the metric is implausible, in its unit.
        rarest: independent units of the rarest thing that the metric counts.
        bounded: whether the metric lies between 0 and 1, so that its margin is a share as it is.
    """

    confidence: float
    max_gain: float
    rarest: int
    bounded: bool


@dataclass(frozen=True)
class Line:
    """One thing measured, the word for it, and the reason in words."""

    measured: Measured
    verdict: Word
    reason: str


@dataclass(frozen=True)
class Verdict:
    """The word for the whole, the reason of the line that decided it, and all lines in the order given."""

    verdict: Word
    reason: str
    lines: tuple[Line, ...]


def judge(measured: Sequence[Measured], terms: Terms) -> Verdict:
    """A word for each thing measured, and for all of them the gravest: ANOMALOUS, REGRESSION, INFEASIBLE, INCONCLUSIVE.

    It is an ACCEPT only if every line is one, and exactly one of them is the metric's proof of non-inferiority.

    A bootstrap cannot show a loss that its few rows happen not to contain. So what the metric counts must have rows
    enough that a loss of its margin would have been met with the wanted confidence: see
    :func:`tasks.core.statistics.planning.least_rows`. For a metric with a unit, the margin there is its share of the
    original's figure.

    Args:
        measured: of one exported file.
        terms: what else there is to know of the metric.
    """
    lines = tuple(Line(one, *_word(one, terms)) for one in measured)
    if incomplete := _incomplete(measured):
        return Verdict("ANOMALOUS", incomplete, lines)
    decisive = min(lines, key=lambda line: (GRAVITY.index(line.verdict), line.measured.kind != "metric"))
    return Verdict(decisive.verdict, decisive.reason, lines)


def _incomplete(measured: Sequence[Measured]) -> str:
    if not measured:
        return "nothing was measured"
    proofs = [one for one in measured if one.kind == "metric"]
    if len(proofs) != 1:
        return f"one metric must decide, and {len(proofs)} were measured"
    if proofs[0].rule != "non_inferior":
        return f"{proofs[0].name} must be shown to be no worse, and was judged as {proofs[0].rule}"
    return ""


def _word(one: Measured, terms: Terms) -> tuple[Word, str]:
    figures = {name: float(value) for name in _FIGURES if (value := getattr(one, name)) is not None}
    if anomaly := next(_anomalies(one, figures, terms), ""):
        return "ANOMALOUS", anomaly
    if one.problems:
        return one.fails_as, f"{one.name}: {'; '.join(one.problems)}"
    if one.rule == "nothing_found":
        return "ACCEPT", f"{one.name}: nothing found"
    if one.rule == "at_most":
        return _at_most(one, figures)
    return _no_harm(one, figures) if one.rule == "no_harm" else _non_inferior(one, figures, terms)


def _anomalies(one: Measured, figures: dict[str, float], terms: Terms) -> Iterator[str]:
    """What cannot be, whatever the rule says."""
    if one.rule not in _NEEDED or one.fails_as not in GRAVITY[:-1]:
        yield f"{one.name}: no rule `{one.rule}` that fails as {one.fails_as}"
        return
    needed = (*_NEEDED[one.rule], *(("original", "shipped") if one.kind == "metric" else ()))
    if absent := [name for name in needed if name not in figures]:
        yield f"{one.name} has no {' and no '.join(absent)}"
    if wrong := [name for name, value in figures.items() if not math.isfinite(value)]:
        yield f"{one.name}: {' and '.join(wrong)} not finite; test may lack what it counts, such as a class"
    if "lower" in figures and "upper" in figures and figures["lower"] > figures["upper"]:
        yield f"{one.name}: the lower bound {figures['lower']:.6g} lies above the upper one {figures['upper']:.6g}"
    if one.n < 0 or (one.n == 0 and "lower" in _NEEDED[one.rule]):
        yield f"{one.name} rests on {one.n} rows"
    if one.kind == "metric" and not -figures.get("loss", math.nan) <= terms.max_gain:
        yield f"{one.name} gets better by {-figures['loss']:.5g}, which no compression explains"


def _at_most(one: Measured, figures: dict[str, float]) -> tuple[Word, str]:
    loss, margin = figures["loss"], figures["margin"]
    if loss <= margin:
        return "ACCEPT", f"{one.name}: {loss:.5g}, within {margin:.6g}"
    return one.fails_as, f"{one.name}: {loss:.5g}, beyond {margin:.6g}"


def _no_harm(one: Measured, figures: dict[str, float]) -> tuple[Word, str]:
    margin = figures["margin"]
    if figures["lower"] > margin:
        return one.fails_as, _beyond(one, figures)
    return "ACCEPT", f"the loss of {one.name}, {figures['loss']:.5g}, is not shown to leave the margin of {margin:.6g}"


def _non_inferior(one: Measured, figures: dict[str, float], terms: Terms) -> tuple[Word, str]:
    upper, margin = figures["upper"], figures["margin"]
    if margin <= 0:
        return "INCONCLUSIVE", f"nothing lies within a margin of {margin:.6g} for {one.name}: give it as a number"
    if figures["lower"] > margin:
        return one.fails_as, _beyond(one, figures)
    least = _least_units(figures, terms) if one.kind == "metric" else 1
    if upper > margin:
        return "INCONCLUSIVE", _how_many_rows(one, figures, terms, least)
    if one.kind == "metric" and terms.rarest < least:
        return "INCONCLUSIVE", _unseen(one, figures, terms, least)
    return "ACCEPT", f"the loss of {one.name} is at most {upper:.5g}, within the margin of {margin:.6g}"


def _beyond(one: Measured, figures: dict[str, float]) -> str:
    return f"the loss of {one.name} is at least {figures['lower']:.5g}, beyond the margin of {figures['margin']:.6g}"


def _size(figures: dict[str, float], terms: Terms) -> float:
    """What a loss of the metric is a share of."""
    return 1.0 if terms.bounded else abs(figures["original"])


def _least_units(figures: dict[str, float], terms: Terms) -> int:
    """Units of the rarest thing without which a loss of the margin could go unseen."""
    size = _size(figures, terms)
    return planning.least_rows(figures["margin"] / size if size else math.inf, terms.confidence)


def _unseen(one: Measured, figures: dict[str, float], terms: Terms, least: int) -> str:
    found = f"{terms.rarest} independent test rows of the rarest thing that {one.name} counts"
    seen = planning.least_share(terms.rarest, terms.confidence) * _size(figures, terms)
    said = f"a loss of {figures['margin']:.6g} could go unseen in {found}; at least {least} are needed"
    return f"{said}; the least loss that these could have shown is {seen:.3g}"


def _how_many_rows(one: Measured, figures: dict[str, float], terms: Terms, least: int) -> str:
    loss, upper, margin = figures["loss"], figures["upper"], figures["margin"]
    said = f"the loss of {one.name} may be up to {upper:.5g}, beyond the margin of {margin:.6g}"
    seen = planning.least_margin(loss, upper, terms.confidence)
    tail = f"the least loss that this test could have seen is {seen:.3g}"
    needed = planning.rows_to_decide(loss, upper, margin, one.n)
    if needed is None:
        return f"{said}; the observed one of {loss:.5g} is no smaller, so more rows would hardly help; {tail}"
    # As many as meet the rarest thing often enough, too, if it stays as rare.
    needed = max(needed, math.ceil(one.n * least / max(terms.rarest, 1)))
    return f"{said}; about {needed} test rows would decide, {one.n} were given; {tail}"
