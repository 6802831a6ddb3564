"""What each column holds, for the reader of the report."""

from __future__ import annotations

from typing import Any

from tasks.core.log import progress
from tasks.validate.outcome import plain
from tasks.validate.snapshot import Snapshot


def profile(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Type, share of nulls (NaN counts as one), smallest, largest and number of distinct values of every column."""
    items = progress(snapshot.columns.items(), "describing columns", total=len(snapshot.columns))
    return [_column(snapshot, name, kind) for name, kind in items]


def _column(snapshot: Snapshot, name: str, kind: str) -> dict[str, Any]:
    import pyarrow.compute as pc

    values = snapshot.column(name)
    missing = pc.is_null(values, nan_is_null=True)
    nulls = pc.sum(missing).as_py() or 0
    if nulls > values.null_count:
        values = values.filter(pc.invert(missing))
    ends = pc.min_max(values).as_py()
    return {
        "name": name,
        "type": kind,
        "nulls": nulls,
        "null_share": nulls / snapshot.rows if snapshot.rows else 0.0,
        "min": plain(ends["min"]),
        "max": plain(ends["max"]),
        "distinct": pc.count_distinct(values, mode="only_valid").as_py(),
    }
