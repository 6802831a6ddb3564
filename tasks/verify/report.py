"""One page for a person: the verdict in words, every line with its margin drawn, then curves and the rows to look at.

The page needs no network and no script. All values are escaped: a class may be called anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tasks.core import pages
from tasks.core.verdict import GRAVITY

if TYPE_CHECKING:
    from tasks.verify.case import Case

_SAID = {
    "ACCEPT": "The exported file was shown to be as good as the original.",
    "REGRESSION": "The exported file is worse than the original.",
    "INCONCLUSIVE": "Too little is known to say that the exported file is as good as the original.",
    "ANOMALOUS": "Something is wrong with the evidence; no figure below can be relied on.",
    "INFEASIBLE": "The exported file does not keep to its budget.",
}


#: Left and right end of a drawn line, in hundredths of its width.
_LEFT, _WIDTH = 4, 92
#: Items that are shown of a list.
_ITEMS = 5


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
        return Bar(*(_LEFT + _WIDTH * (mark - low) / width for mark in marks))


@dataclass(frozen=True)
class Times:
    """Calls of one model at a batch size: places on a line of 100 of the quantiles that race.QUANTILES names."""

    side: str
    p50_ms: float
    p99_ms: float
    places: tuple[float, ...]

    @staticmethod
    def of(lap: Mapping[str, Mapping[str, Any]]) -> list[Times]:
        """Both models on one line, which begins at zero; nothing without quantiles."""
        if not all(times.get("quantiles_ms") for times in lap.values()):
            return []
        most = max(times["quantiles_ms"][-1] for times in lap.values())
        return [
            Times(side, times["p50_ms"], times["p99_ms"], tuple(100 * each / most for each in times["quantiles_ms"]))
            for side, times in lap.items()
        ]


def render(
    name: str,
    verdict: Mapping[str, Any],
    case: Case,
    raced: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
) -> str:
    """The page (HTML).

    Args:
        name: of the model.
        verdict: ``verdict.json``.
        case: holds the rows to look at.
        raced: batch size -> ``original`` and ``shipped`` -> times, as `compress` measured them.
    """
    environment = pages.environment("tasks.verify")
    environment.filters["number"] = _number
    environment.filters["said"] = _said
    environment.globals["points"] = _points
    lines = sorted(verdict["checks"], key=lambda line: GRAVITY.index(line["verdict"]))
    return environment.get_template("report.html.j2").render(
        name=name,
        verdict=verdict,
        said=_SAID[verdict["verdict"]],
        lines=[(line, Bar.of(line)) for line in lines],
        several=len({line.get("variant") for line in lines}) > 1,
        laps=[(batch, lap["shipped"]["ratio"], Times.of(lap)) for batch, lap in (raced or {}).items()],
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


def _said(answer: Any) -> str:
    """An answer in words; of a list its first items."""
    if isinstance(answer, list):
        return ", ".join(map(str, answer[:_ITEMS])) + (", ..." if len(answer) > _ITEMS else "")
    return _number(answer) if isinstance(answer, float) else str(answer)


def _points(curve: Mapping[str, Sequence[float]]) -> str:
    """A reliability curve as the points of a polyline in a square of 200, the origin at the bottom left."""
    pairs = zip(curve["confidence"], curve["observed"], strict=True)
    drawn = [(said, true) for said, true in pairs if said is not None and true is not None]
    return " ".join(f"{200 * said:.1f},{200 - 200 * true:.1f}" for said, true in drawn)
