"""One page of a search: its history, what mattered, how the trials ran, and the trade-offs.

The page needs no network and no script. It holds no times, unless time is an objective or limited: the same search
gives the same page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core import pages
from tasks.core.drawing import HEIGHT, MARGIN, WIDTH, Axis, plane, steps
from tasks.core.settings import Tune


def render(
    rows: Sequence[Mapping[str, Any]],
    curves: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
    chosen: int,
    settings: Tune,
    metric: str,
    higher_is_better: bool,
) -> str:
    """The page (HTML).

    Args:
        rows: of ``trials.csv``.
        curves: of ``curves.csv``.
        weights: importance of each parameter, by :func:`tasks.tune.tables.importance`.
        chosen: number of the trial that is the original.
        settings: the stage's section.
        metric: its name.
        higher_is_better: its direction.
    """
    environment = pages.environment("tasks.tune")
    environment.filters["number"] = _number
    costs = type(settings.limits).model_fields
    fixed = {"trial", "state", "value", "best", "epochs", "front", *settings.objectives, *costs}
    names = [name for name in rows[0] if name not in fixed]
    return environment.get_template("report.html.j2").render(
        metric=metric,
        higher=higher_is_better,
        settings=settings,
        chosen=next(row for row in rows if row["trial"] == chosen),
        rows=rows,
        columns=list(rows[0]),
        weights=weights,
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        history=_history(rows),
        curves=_curves(curves, rows),
        parallel=_parallel(rows, names),
        fronts=[_trade_off(rows, cost) for cost in settings.objectives[1:]],
        colour=_colours(rows, higher_is_better),
    )


def _history(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every trial's value, and the best so far as a line of steps."""
    told = [row for row in rows if row["value"] is not None]
    across, up = plane([row["trial"] for row in rows], [row["value"] for row in told])
    best = [(row["trial"], row["best"]) for row in rows if row["best"] is not None]
    points = [(row, across(row["trial"]), up(row["value"])) for row in told]
    return {"across": across, "up": up, "points": points, "best": steps(across, up, best)}


def _curves(curves: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The score after each epoch, a line for each trial."""
    across, up = plane([point["epoch"] for point in curves], [point["value"] for point in curves])
    lines = []
    for row in rows:
        own = [point for point in curves if point["trial"] == row["trial"]]
        if own:
            lines.append((row, " ".join(f"{across(point['epoch'])},{up(point['value'])}" for point in own)))
    return {"across": across, "up": up, "lines": lines}


def _parallel(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Parallel coordinates: an axis for each parameter and one for the value, a line for each trial that has all."""
    columns = [*names, "value"]
    complete = [row for row in rows if row["value"] is not None]
    axes = {
        name: Axis.of([row[name] for row in complete if row[name] != ""], HEIGHT - MARGIN / 2, 20) for name in columns
    }
    gap = (WIDTH - 2 * MARGIN) / max(1, len(columns) - 1)
    places = {name: round(MARGIN + index * gap, 1) for index, name in enumerate(columns)}
    lines = [
        (row, " ".join(f"{places[name]},{axes[name](row[name])}" for name in columns if row[name] != ""))
        for row in complete
    ]
    return {"axes": [(name, places[name], axes[name]) for name in columns], "lines": lines}


def _trade_off(rows: Sequence[Mapping[str, Any]], cost: str) -> dict[str, Any]:
    """The value against a cost, the front marked."""
    complete = [row for row in rows if row["state"] == "complete"]
    across, up = plane([row[cost] for row in complete], [row["value"] for row in complete])
    points = [(row, across(row[cost]), up(row["value"])) for row in complete]
    return {"cost": cost, "across": across, "up": up, "points": points}


def _colours(rows: Sequence[Mapping[str, Any]], higher_is_better: bool) -> dict[int, int]:
    """Strength of each trial's line in percent: the better, the stronger."""
    values = sorted({row["value"] for row in rows if row["value"] is not None}, reverse=not higher_is_better)
    most = max(1, len(values) - 1)
    return {
        row["trial"]: 20 + round(80 * values.index(row["value"]) / most) for row in rows if row["value"] is not None
    }


def _number(value: Any) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
