"""One page for a person: what a retraining decided and why, and what changed since the last accepted one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core import pages

_GOOD = {"ACCEPTED": "good", "REJECTED": "bad", "FAILED": "bad"}


def page(told: Mapping[str, Any]) -> str:
    """The page, which needs nothing but itself.

    Args:
        told: ``record`` of the run; ``before``, that of the last accepted one with its ``metrics``, or empty;
            ``metrics``, ``verdict`` and ``candidates`` as the stages left them, as far as they did; ``code``, the
            commits since then; ``pages``, other pages beside this one.
    """
    record = told["record"]
    rows = _changes(record.get("snapshot") or {}, told["before"].get("snapshot") or {}, ("rows", "as_of", "newest"))
    template = pages.environment("tasks.retrain").get_template("report.html.j2")
    return template.render(
        **told,
        tone=_GOOD.get(record["word"], "plain"),
        data=rows,
        figures=_changes(told["metrics"], told["before"].get("metrics", {}), sorted(told["metrics"])),
        params=_different(record.get("settings") or {}, told["before"].get("settings") or {}),
    )


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
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
