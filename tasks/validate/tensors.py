"""Rows whose arrays cannot be used: unreadable ones, and those with NaN or infinity. Read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.log import progress
from tasks.validate.snapshot import Mask, Snapshot


def unusable(snapshot: Snapshot) -> dict[str, NDArray[np.int64]]:
    """Reason -> int64 row numbers, ascending; empty if no column holds arrays.

    A row without an array is set aside with the text that `ingest` left in the column ``problem``, if it left one.
    """
    found: dict[str, list[int]] = {}
    if not snapshot.tensors:
        return {}
    first = 0
    groups = snapshot.row_groups((*snapshot.tensors, *snapshot.problem_columns))
    for table in progress(groups, "looking into the arrays", total=snapshot.row_group_count):
        for reason, row in _of_group(table, snapshot):
            found.setdefault(reason, []).append(first + row)
        first += len(table)
    return {reason: np.unique(rows) for reason, rows in sorted(found.items())}


def _of_group(table: Any, snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    problems = table.column(snapshot.problem_columns[0]) if snapshot.problem_columns else None
    for name, tensor in snapshot.tensors.items():
        column = table.column(name)
        missing = column.is_null().to_numpy()
        for row in np.flatnonzero(missing).tolist():
            said = problems[row].as_py() if problems is not None else None
            yield said or f"{name} is missing", row
        if np.dtype(tensor["dtype"]).kind == "f":
            broken = _not_finite(column, tensor) & ~missing
            yield from ((f"{name} holds NaN or infinity", row) for row in np.flatnonzero(broken).tolist())


def _not_finite(column: Any, tensor: Mapping[str, Any]) -> Mask:
    """bool [rows], True where an array holds NaN or infinity (anything where there is no array)."""
    from tasks.core.tensors import to_numpy

    values = to_numpy(column, tensor)
    return np.asarray(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
