"""Everything that is looked at besides the metric, each check by its name in the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from tasks.core.log import log
from tasks.core.measured import Measured
from tasks.verify.case import Case

if TYPE_CHECKING:
    import numpy as np

    from tasks.core.settings import Verify


@dataclass(frozen=True)
class Members:
    """A sample of train: its labels [m], and both models' answers to it [m, ...]."""

    labels: np.ndarray
    original: np.ndarray
    shipped: np.ndarray


@dataclass(frozen=True)
class _Asked:
    """What a check may look at: see :func:`examine`."""

    case: Case
    own: Verify
    slices: Mapping[str, np.ndarray]
    members: Callable[[], Members] | None


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
    found, asked = Findings(), _Asked(case, own, slices, members)
    for name in own.checks:
        if name in _CHECKS:
            log.info("verify: %s", name)
            try:
                _CHECKS[name](found, asked)
            except ValueError as error:  # answers that cannot be, to rows that test does not hold
                problem = Measured(name, "answers", "nothing_found", 0, "ANOMALOUS", problems=(str(error),))
                found.measured.append(problem)
    found.notes += left_out(own)
    return found


def left_out(own: Verify) -> list[str]:
    """A note on each check that the settings leave out."""
    return [f"{name}: verify.checks leaves it out" for name in sorted(set(names()) - set(own.checks))]


def without_answers(own: Verify) -> list[str]:
    """A note on each check that does not take place where the answers cannot be compared."""
    missed = [f"{name}: the answers cannot be compared" for name in own.checks if name in _CHECKS]
    return missed + left_out(own)


def _mechanics(found: Findings, asked: _Asked) -> None:
    from tasks.verify import mechanics

    found.measured += mechanics.measure(asked.case)


def _slices(found: Findings, asked: _Asked) -> None:
    from tasks.verify import slices

    own = asked.own
    found.measured += slices.measure(asked.case, asked.slices, own.limits.slice, own.limits.recall, own.min_slice_rows)


def _flips(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import flips

    limits = asked.own.limits
    lines, drawing = flips.measure(asked.case, limits.changed, limits.spoilt)
    found.measured += lines
    found.drawings["flips"] = drawing.as_dict()


def _calibration(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import calibration

    lines, drawing = calibration.measure(asked.case, asked.own.limits.calibration)
    found.measured += lines
    if drawing is not None:
        found.drawings["calibration"] = drawing.as_dict()


def _scores(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import scores

    limit = asked.own.limits.scores
    lines, drawing = scores.measure(asked.case, limit, limit)
    found.measured += lines
    if drawing is not None:
        found.drawings["scores"] = drawing.as_dict()


def _explanation(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import explanation

    lines, drawing = explanation.measure(asked.case, asked.own.limits.explanation)
    found.measured += lines
    if lines:
        found.drawings["explanation"] = drawing.as_dict()
    else:
        found.notes.append(f"explanation: {drawing.note}")


def _privacy(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import privacy

    if asked.members is None:
        found.notes.append("privacy: there are no rows of train to compare with")
        return
    members, limit = asked.members(), asked.own.limits.privacy
    found.measured += privacy.measure(asked.case, members.labels, members.original, members.shipped, limit)


def _robustness(found: Findings, asked: _Asked) -> None:
    from tasks.verify.behaviour import robustness

    lines = robustness.measure(asked.case, asked.own.limits.corruption)
    found.measured += lines
    if not lines:
        found.notes.append("robustness: there is no input that can be changed without changing the label")


_CHECKS: Mapping[str, Callable[[Findings, _Asked], None]] = {
    "mechanics": _mechanics,
    "slices": _slices,
    "flips": _flips,
    "calibration": _calibration,
    "scores": _scores,
    "explanation": _explanation,
    "privacy": _privacy,
    "robustness": _robustness,
}
