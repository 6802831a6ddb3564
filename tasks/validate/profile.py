"""What each column holds, for the reader of the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tasks.core.log import progress
from tasks.validate.outcome import plain
from tasks.validate.snapshot import Snapshot


def profile(snapshot: Snapshot, distinct: Callable[[Snapshot, str], int]) -> list[dict[str, Any]]:
    """Type, share of nulls (NaN counts as one), smallest, largest and number of distinct values of every column.

    Args:
        snapshot: the rows.
        distinct: number of distinct values of a column, without null and NaN.
    """
    items = progress(snapshot.columns.items(), "describing columns", total=len(snapshot.columns))
    return [_column(snapshot, name, kind) | {"distinct": distinct(snapshot, name)} for name, kind in items]


def _column(snapshot: Snapshot, name: str, kind: str) -> dict[str, Any]:
    import pyarrow.compute as pc

    nulls, ends = 0, []
    for values in snapshot.kept(name):
        missing = pc.is_null(values, nan_is_null=True)
        nulls += pc.sum(missing).as_py() or 0
        found = pc.min_max(values.filter(pc.invert(missing))).as_py()
        ends += [end for end in found.values() if end is not None]
    return {
        "name": name,
        "type": kind,
        "nulls": nulls,
        "null_share": nulls / snapshot.rows if snapshot.rows else 0.0,
        "min": plain(min(ends, default=None)),
        "max": plain(max(ends, default=None)),
    }
