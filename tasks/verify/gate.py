"""The gate: a case in, everything measured of it and the verdict out. The same inside the pipeline and outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.margins import absolute
from tasks.core.measured import Measured, proof
from tasks.core.statistics import Comparison
from tasks.core.verdict import Terms, Verdict, judge
from tasks.verify import checks, skill
from tasks.verify.behaviour import ROUNDING
from tasks.verify.case import Case
from tasks.verify.checks import Members

if TYPE_CHECKING:
    from tasks.core.settings import Verify

#: A gain of so many usual margins is implausible, where params say nothing else.
_TIMES = 10


@dataclass(frozen=True)
class Judged:
    """What the gate says of a case.

    Attributes:
        verdict: the word, and all lines.
        comparison: of the metric; None if the answers cannot be compared.
        margin: of the metric, in its unit; None likewise.
        drawings: what a report draws.
        notes: checks that were left out, and why.
    """

    verdict: Verdict
    comparison: Comparison | None
    margin: float | None
    drawings: dict[str, Any]
    notes: list[str]


def decide(
    case: Case,
    own: Verify,
    known: Sequence[Measured] = (),
    slices: Mapping[str, np.ndarray] | None = None,
    members: Callable[[], Members] | None = None,
) -> Judged:
    """Compare, examine, judge.

    Args:
        case: both models' answers to test.
        own: the section of the settings.
        known: what was measured without the answers.
        slices: columns that cut test into slices, [n] each.
        members: gives a sample of train.

    Raises:
        UsageError: if a column cannot slice the rows.
        MachineError: if the device or the disk refuses.
        IntegrityError: if a file cannot be scored.
    """
    if anomaly := shape_anomaly(case) or _value_anomaly(case):
        broken = Measured("mechanics", "answers", "nothing_found", len(case.labels), "ANOMALOUS", problems=(anomaly,))
        verdict = judge([broken, *known], Terms(own.confidence, math.inf, 0, case.metric.bounded))
        return Judged(Verdict("ANOMALOUS", anomaly, verdict.lines), None, None, {}, checks.without_answers(own))
    comparison = case.compare(own.resamples)
    margin = absolute(own.margin, case.metric, comparison.original)
    most_gain = absolute(own.max_gain, case.metric, comparison.original) * (1 if own.max_gain else _TIMES)
    found = checks.examine(case, own, slices or {}, members)
    terms = Terms(own.confidence, most_gain, comparison.rarest, case.metric.bounded)
    lines = [proof(case.metric.name, comparison, margin), skill.measure(case), *known, *found.measured]
    verdict = judge(lines, terms)
    return Judged(verdict, comparison, margin, found.drawings, found.notes)


def shape_anomaly(case: Case) -> str:
    """Why the answers do not belong together; empty if they do."""
    counts = (len(case.labels), len(case.original), len(case.shipped))
    if len(set(counts)) > 1:
        return f"every test row needs an answer of each model: {counts[0]} labels, {counts[1]} and {counts[2]} answers"
    if case.original.shape != case.shipped.shape:
        return f"answers must have one shape: {case.original.shape} and {case.shipped.shape}"
    return ""


def _value_anomaly(case: Case) -> str:
    if case.metric.support(case.labels) == 0:
        return f"{case.metric.name} has no value on the {len(case.labels)} rows of test: a class may be absent"
    for name, answers in (("original", case.original), ("exported", case.shipped)):
        if answers.dtype.kind != "f":  # names of items
            continue
        if not np.isfinite(answers).all():
            return f"{int((~np.isfinite(answers)).sum())} answers of the {name} model are not finite"
        outside = (answers < -ROUNDING) | (answers > 1 + ROUNDING)
        if case.task in ("binary", "multiclass") and outside.any():
            return f"{int(outside.sum())} answers of the {name} model are no probabilities"
    return ""
