"""One page for a person: what a retraining decided and why, and what changed since the last accepted one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.core import pages
from tasks.core.drawing import HEIGHT, MARGIN, WIDTH, plane, steps

_GOOD = {"ACCEPTED": "good", "REJECTED": "bad", "FAILED": "bad"}


def page(told: Mapping[str, Any]) -> str:
    """The page, which needs nothing but itself.

    Args:
        told: ``record`` of the run; ``before``, that of the last accepted one with its ``metrics``, or empty;
            ``metrics``, ``verdict``, ``checks`` (of the data), ``trials`` and ``candidates`` as the stages left them,
            as far as they did; ``code``, the commits since then; ``pages``, other pages beside this one.
    """
    record = told["record"]
    rows = _changes(record.get("snapshot") or {}, told["before"].get("snapshot") or {}, ("rows", "as_of", "newest"))
    template = pages.environment("tasks.retrain").get_template("report.html.j2")
    return template.render(
        **told,
        width=WIDTH,
        height=HEIGHT,
        margin=MARGIN,
        checked=_checked(told["checks"]),
        study=_study(told["trials"]),
        front=_front(told["candidates"]),
        tone=_GOOD.get(record["word"], "plain"),
        data=rows,
        figures=_changes(told["metrics"], told["before"].get("metrics", {}), sorted(told["metrics"])),
        params=_different(record.get("settings") or {}, told["before"].get("settings") or {}),
    )


def _checked(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many checks of the data came out how, and those that a person should look at."""
    counts = Counter(one["outcome"] for one in outcomes)
    return {"counts": dict(counts.most_common()), "others": [one for one in outcomes if one["outcome"] != "passed"]}


def _study(trials: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """A point for each trial that has a value, and the best so far as steps; None without any."""
    told = [(int(row["trial"]), float(row["value"]), row) for row in trials if row["value"]]
    if not told:
        return None
    across, up = plane([number for number, _, _ in told], [value for _, value, _ in told])
    best = [(int(row["trial"]), float(row["best"])) for row in trials if row["best"]]
    return {
        "across": across,
        "up": up,
        "points": [(row, across(number), up(value)) for number, value, row in told],
        "best": steps(across, up, best),
        "states": dict(Counter(row["state"] for row in trials).most_common()),
    }


def _front(candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Metric against size, a point for each candidate that runs; None without any."""
    told = [one for one in candidates if one["value"] is not None and one["size_kib"]]
    if not told:
        return None
    across, up = plane([one["size_kib"] for one in told], [one["value"] for one in told])
    return {"across": across, "up": up, "points": [(one, across(one["size_kib"]), up(one["value"])) for one in told]}


def _different(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that are not what they were."""
    if not before:
        return []
    keys = [key for key in sorted({*now, *before}) if now.get(key) != before.get(key)]
    return [(key, _value(before.get(key)), _value(now.get(key))) for key in keys]


def _changes(now: Mapping[str, Any], before: Mapping[str, Any], keys: Any) -> list[tuple[str, str, str]]:
    """Name, value before, value now."""
    return [(key, _value(before.get(key)), _value(now.get(key))) for key in keys if key in now]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()  # as params files spell it
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
