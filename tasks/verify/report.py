"""One page for a person: the verdict in words, every line with its margin drawn, then curves and the rows to look at.

The page needs no network and no script. All values are escaped: a class may be called anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.core import pages

if TYPE_CHECKING:
    from tasks.verify.case import Case

#: Grave lines first, then as they were measured.
_ORDER = ("ANOMALOUS", "REGRESSION", "INFEASIBLE", "INCONCLUSIVE", "ACCEPT")
_SAID = {
    "ACCEPT": "The exported file was shown to be as good as the original.",
    "REGRESSION": "The exported file is worse than the original.",
    "INCONCLUSIVE": "Too little is known to say that the exported file is as good as the original.",
    "ANOMALOUS": "Something is wrong with the evidence; no figure below can be relied on.",
    "INFEASIBLE": "The exported file does not keep to its budget.",
}


@dataclass(frozen=True)
class Bar:
    """A loss, its bounds and its margin as places on a line, 0 to 100 from left to right."""

    zero: float
    margin: float
    loss: float
    lower: float
    upper: float

    @staticmethod
    def of(line: Mapping[str, Any]) -> Bar | None:
        """What can be drawn of a line of the verdict; None without a loss and a margin."""
        loss, margin = line["loss"], line["margin"]
        if loss is None or margin is None:
            return None
        lower = loss if line["lower"] is None else line["lower"]
        upper = loss if line["upper"] is None else line["upper"]
        marks = (0.0, margin, loss, lower, upper)
        low, high = min(marks), max(marks)
        width = (high - low) or 1.0
        return Bar(*(4 + 92 * (mark - low) / width for mark in marks))


def render(name: str, verdict: Mapping[str, Any], case: Case) -> str:
    """The page (HTML).

    Args:
        name: of the model.
        verdict: ``verdict.json``.
        case: holds the rows to look at.
    """
    environment = pages.environment("tasks.verify")
    environment.filters["number"] = _number
    environment.globals["points"] = _points
    lines = sorted(verdict["checks"], key=lambda line: _ORDER.index(line["verdict"]))
    return environment.get_template("report.html.j2").render(
        name=name,
        verdict=verdict,
        said=_SAID[verdict["verdict"]],
        lines=[(line, Bar.of(line)) for line in lines],
        pictures=_pictures(verdict, case),
    )


def _pictures(verdict: Mapping[str, Any], case: Case) -> dict[int, str]:
    """Pictures of the rows to look at, where rows are images: see :func:`tasks.verify.pictures.of`."""
    from tasks.verify import pictures

    flips = verdict["drawings"].get("flips")
    return {} if flips is None else pictures.of(case.columns, [row["row"] for row in flips["worst"]])


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _points(curve: Mapping[str, Sequence[float]]) -> str:
    """A reliability curve as the points of a polyline in a square of 200, the origin at the bottom left."""
    pairs = zip(curve["confidence"], curve["observed"], strict=True)
    return " ".join(f"{200 * said:.1f},{200 - 200 * true:.1f}" for said, true in pairs)
