"""Everything that is looked at besides the metric, each check by its name in the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from tasks.core.log import log
from tasks.verify.case import Case
from tasks.verify.measured import Measured

if TYPE_CHECKING:
    import numpy as np

    from tasks.core.settings import Limits, Verify


@dataclass(frozen=True)
class Members:
    """A sample of train: its labels [m], and both models' answers to it [m, ...]."""

    labels: np.ndarray
    original: np.ndarray
    shipped: np.ndarray


@dataclass
class Findings:
    """What the checks found.

    Attributes:
        measured: a line of the verdict each.
        drawings: what a report draws, by the check's name, as JSON values.
        notes: checks that were left out, and why.
    """

    measured: list[Measured] = field(default_factory=list)
    drawings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def names() -> tuple[str, ...]:
    """Names of all checks."""
    from tasks.core.settings import Check

    return get_args(Check)


def examine(
    case: Case, own: Verify, slices: Mapping[str, np.ndarray], members: Callable[[], Members] | None
) -> Findings:
    """Run the checks of the settings that look at answers.

    Args:
        case: both models' answers to test.
        own: the section; ``checks`` and ``limits`` are read.
        slices: columns that cut test into slices, [n] each.
        members: gives a sample of train; None if there is none.

    Raises:
        UsageError: if a column cannot slice the rows.
        MachineError: if the device or the disk refuses.
        IntegrityError: if a file cannot be scored.
    """
    found, limits = Findings(), own.limits
    for name in own.checks:
        if name in _CHECKS:
            log.info("verify: %s", name)
            try:
                _CHECKS[name](found, case, limits)
            except ValueError as error:  # answers that cannot be, to rows that test does not hold
                problem = Measured(name, "answers", "nothing_found", 0, "ANOMALOUS", problems=(str(error),))
                found.measured.append(problem)
    if "slices" in own.checks:
        _slices(found, case, own, slices)
    if "privacy" in own.checks and members is not None:
        _privacy(found, case, limits, members())
    elif "privacy" in own.checks:
        found.notes.append("privacy: there are no rows of train to compare with")
    left_out = sorted(set(names()) - set(own.checks))
    found.notes += [f"{name}: verify.checks leaves it out" for name in left_out]
    return found


def _mechanics(found: Findings, case: Case, limits: Limits) -> None:  # noqa: ARG001 (as the others)
    from tasks.verify import mechanics

    found.measured += mechanics.measure(case)


def _flips(found: Findings, case: Case, limits: Limits) -> None:
    from tasks.verify.behaviour import flips

    lines, drawing = flips.measure(case, limits.changed, limits.spoilt)
    found.measured += lines
    found.drawings["flips"] = drawing.as_dict()


def _calibration(found: Findings, case: Case, limits: Limits) -> None:
    from tasks.verify.behaviour import calibration

    lines, drawing = calibration.measure(case, limits.calibration)
    found.measured += lines
    if drawing is not None:
        found.drawings["calibration"] = drawing.as_dict()


def _scores(found: Findings, case: Case, limits: Limits) -> None:
    from tasks.verify.behaviour import scores

    lines, drawing = scores.measure(case, limits.scores, limits.scores)
    found.measured += lines
    if drawing is not None:
        found.drawings["scores"] = drawing.as_dict()


def _explanation(found: Findings, case: Case, limits: Limits) -> None:
    from tasks.verify.behaviour import explanation

    lines, drawing = explanation.measure(case, limits.explanation)
    found.measured += lines
    if lines:
        found.drawings["explanation"] = drawing.as_dict()
    else:
        found.notes.append(f"explanation: {drawing.note}")


def _robustness(found: Findings, case: Case, limits: Limits) -> None:
    from tasks.verify.behaviour import robustness

    lines = robustness.measure(case, limits.corruption)
    found.measured += lines
    if not lines:
        found.notes.append("robustness: there is no input that can be changed without changing the label")


_CHECKS: Mapping[str, Callable[[Findings, Case, Limits], None]] = {
    "mechanics": _mechanics,
    "flips": _flips,
    "calibration": _calibration,
    "scores": _scores,
    "explanation": _explanation,
    "robustness": _robustness,
}


def _slices(found: Findings, case: Case, own: Verify, columns: Mapping[str, np.ndarray]) -> None:
    from tasks.verify import slices

    found.measured += slices.measure(case, columns, own.limits.slice, own.limits.recall, own.min_slice_rows)


def _privacy(found: Findings, case: Case, limits: Limits, members: Members) -> None:
    from tasks.verify.behaviour import privacy

    found.measured += privacy.measure(case, members.labels, members.original, members.shipped, limits.privacy)
