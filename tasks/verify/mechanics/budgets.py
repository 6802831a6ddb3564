"""The limits that a shipped file must keep to, held against what was measured when it was made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.core.measured import Measured

#: The limit whose figure is the same in every run; times and memory are not.
_STEADY = "max_size_kib"
#: Limit in the settings of `compress` -> what it is about, and the largest figure that it allows.
_BUDGETS: Mapping[str, tuple[str, Callable[[float], float]]] = {
    "max_size_kib": ("size in KiB", float),
    "min_speedup": ("time of a call as a share of the original's, upper end of its interval", lambda times: 1 / times),
    "max_p99_ms": ("99th percentile of a call's time in ms", float),
    "max_memory_mib": ("peak of memory in MiB", float),
}


def measure(
    limits: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], original: str, shipped: str
) -> list[Measured]:
    """The limits of ``compress`` against what that stage measured.

    A limit without a figure is a problem, but for ``max_slowdown``, which has a value where nobody asked for it, and
    whose line has no figures either.

    Args:
        limits: settings of ``compress``: ``max_slowdown`` (share of time above the original), ``max_size_kib`` (KiB),
            ``min_speedup`` (a ratio), ``max_p99_ms`` (milliseconds), ``max_memory_mib`` (MiB); None is no limit.
        candidates: the table ``<artifacts>/runs/candidates.json``; of another target, its ``measured`` in their place.
        original: name of the original in the table.
        shipped: name of the exported file in it.
    """
    table = {row["name"]: _figures(row) for row in candidates}
    lines = []
    for key, (what, most) in _BUDGETS.items():
        limit = limits.get(key)
        if limit is None:
            continue
        before, after = (table.get(name, {}).get(key) for name in (original, shipped))
        if after is None or not math.isfinite(after):
            problem = f"{key} is {limit}, and {shipped} was not measured: run `dvc repro --force compress`"
            lines.append(Measured("budget", what, "nothing_found", 0, "INFEASIBLE", problems=(problem,)))
            continue
        figures: dict[str, Any] = {"original": before, "shipped": after, "loss": after, "margin": most(limit)}
        lines.append(Measured("budget", what, "at_most", 1, "INFEASIBLE", **figures, varies=key != _STEADY))
    if limits.get("max_slowdown") is not None:
        lines.append(_slower(limits["max_slowdown"], table.get(shipped, {}).get("slowest")))
    return lines


def _slower(most: float, least_time: float | None) -> Measured:
    """Whether the file was shown to be slower than the original by more than a share, at any batch size."""
    problems: tuple[str, ...] = ()
    if least_time is not None and least_time > 1 + most:
        problems = (f"a call takes at least {least_time:.3g} times the original's time, {1 + most:.6g} are allowed",)
    return Measured("budget", "slower than the original", "nothing_found", 1, "INFEASIBLE", problems=problems)


def _figures(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Figures of a candidate, by the limit that they are held against."""
    laps = row.get("latency") or {}
    smallest = min(laps, key=int, default=None)
    p99 = None if smallest is None else laps[smallest]["p99_ms"]
    slowest = max((lap["ratio_high"] for lap in laps.values()), default=None)
    return {
        "slowest": max((lap["ratio_low"] for lap in laps.values()), default=None),
        "max_size_kib": row.get("size_kib"),
        "min_speedup": slowest,
        "max_p99_ms": p99,
        "max_memory_mib": row.get("peak_mib"),
    }
