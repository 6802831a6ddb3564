"""Proof that the splits share nothing: no row, no group, and hardly any content.

Files are read by batches; of each row 64-bit hashes are kept: 32 bytes a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import IntegrityError
from tasks.core.measured import Measured
from tasks.core.splitting import group_column
from tasks.verify.fingerprints import Hashes, blurred, exact, pictured

if TYPE_CHECKING:
    import pyarrow as pa

#: Splits that may share nothing with one another.
_APART = ("train", "validation", "test")
#: Largest share of test rows whose content may be known: a few more right answers by heart than this cannot decide.
LIMIT = 0.01
#: A batch holds at most so many rows, and at most so many bytes of arrays.
_BATCH_ROWS, _BATCH_BYTES = 8192, 16 << 20
#: The golden ratio in 64 bits. It is odd: multiplying by it loses nothing.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Keys:
    """What identifies each row of a split.

    Attributes:
        row: number in the snapshot, int64 [rows].
        content: hash of all columns, [rows].
        near: hash of what is left of the features when small differences are wiped out, [rows].
        group: hash of the group, [rows]; empty if there are none.
    """

    row: NDArray[np.int64]
    content: Hashes
    near: Hashes
    group: Hashes


def measure(folder: Path, facts: Mapping[str, Any], limit: float = LIMIT) -> list[Measured]:
    """What train, validation, test and calibration share.

    Shared row numbers and groups are always a problem. Content is not: two flights may be alike, and real sets of
    pictures hold near-duplicates; only a share of test above ``limit`` is one. Near-duplicates are rows that are equal
    when the target is left out and floats are rounded to about four significant digits, arrays of 64 numbers or more
    to a grid of means (8 cells an axis, 8 levels between the row's least and greatest, so that brightness and contrast
    do not matter).

    Args:
        folder: of the stage `validate`, with ``<split>.parquet``.
        facts: of its manifest: ``target``, ``task``, ``tensors`` and ``split`` are read.
        limit: largest share of test rows whose content may be known from train or validation.

    Raises:
        IntegrityError: if a split cannot be read, or lacks the group's column.
    """
    group = group_column(facts["split"])
    schemas = {name: _opened(folder / f"{name}.parquet").schema_arrow for name in (*_APART, "calibration")}
    shared = [name for name in schemas["test"].names if name != "row" and name in schemas["train"].names]
    if group is not None and group not in shared:
        found = f"{folder} has no column {group}"
        raise IntegrityError("groups are told apart by their column", found, "run `dvc repro --force validate`")
    plan = _Plan(shared, facts["target"], group, facts.get("tensors") or {})
    keys = {name: _keys(folder / f"{name}.parquet", plan) for name in schemas}
    lines = [_rows(keys), _calibration(keys), *([] if group is None else [_groups(keys, group)])]
    lines.append(_known(keys, "content", "test rows equal to one of train or validation", limit))
    if facts.get("task") != "ranking":  # there the target is an item: a user's other ones have the same features
        lines.append(_known(keys, "near", "test rows nearly equal to one of train or validation", limit))
    return lines


@dataclass(frozen=True)
class _Plan:
    """Which columns say what: all that are compared, the target, the group's, and dtype and shape of arrays."""

    columns: Sequence[str]
    target: str
    group: str | None
    tensors: Mapping[str, Any]


def _rows(keys: Mapping[str, Keys]) -> Measured:
    problems = []
    for name in _APART:
        twice = len(keys[name].row) - len(np.unique(keys[name].row))
        if twice:
            problems.append(f"{name} holds {twice} rows more than once")
    problems += _overlaps(keys, "row", "rows")
    return _found("row numbers", keys, problems)


def _groups(keys: Mapping[str, Keys], column: str) -> Measured:
    return _found(f"groups of {column}", keys, _overlaps(keys, "group", f"groups of {column}"))


def _overlaps(keys: Mapping[str, Keys], what: str, words: str) -> list[str]:
    found = []
    for index, one in enumerate(_APART):
        for other in _APART[index + 1 :]:
            count = len(np.intersect1d(getattr(keys[one], what), getattr(keys[other], what)))
            if count:
                found.append(f"{one} and {other} share {count} {words}")
    return found


def _calibration(keys: Mapping[str, Keys]) -> Measured:
    rows = keys["calibration"].row
    tested, strange = (int(np.isin(rows, keys[name].row, invert=name == "train").sum()) for name in ("test", "train"))
    problems = [f"{tested} rows of calibration are rows of test"] if tested else []
    problems += [f"{strange} rows of calibration are none of train"] if strange else []
    return _found("rows of calibration", keys, problems)


def _known(keys: Mapping[str, Keys], what: str, name: str, limit: float) -> Measured:
    test = getattr(keys["test"], what)
    known = np.zeros(len(test), dtype=np.bool_)
    for other in ("train", "validation"):
        known |= np.isin(test, getattr(keys[other], what))
    share = float(known.mean()) if len(test) else 0.0
    again = len(test) - len(np.unique(test))
    note = f"{int(known.sum())} of {len(test)} rows; within test, {again} rows repeat another one"
    return Measured("data", name, "at_most", len(test), "ANOMALOUS", loss=share, margin=limit, note=note)


def _found(name: str, keys: Mapping[str, Keys], problems: list[str]) -> Measured:
    return Measured("data", name, "nothing_found", len(keys["test"].row), "ANOMALOUS", problems=tuple(problems))


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise IntegrityError(
            "a split must be a whole Parquet file", f"{path}: {error}", "run `dvc repro --force validate`"
        ) from error


def _keys(path: Path, plan: _Plan) -> Keys:
    wanted = ["row", *plan.columns]
    each = sum(np.dtype(one["dtype"]).itemsize * math.prod(one["shape"]) for one in plan.tensors.values())
    size = min(_BATCH_ROWS, max(1, _BATCH_BYTES // each)) if each else _BATCH_ROWS
    parts = [_of_batch(batch, plan) for batch in _opened(path).iter_batches(size, columns=wanted)]
    empty = np.empty(0, np.uint64)
    rows: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *(part.row for part in parts)])
    content, near, group = (
        np.concatenate([empty, *(getattr(part, what) for part in parts)]) for what in ("content", "near", "group")
    )
    return Keys(rows, content, near, group)


def _of_batch(batch: pa.RecordBatch, plan: _Plan) -> Keys:
    count = batch.num_rows
    content, near = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    group = np.empty(0, np.uint64)
    for name in plan.columns:
        column, tensor = batch.column(name), plan.tensors.get(name)
        values = exact(column)
        content = content * _FACTOR + values
        if name == plan.group:
            group = values
        if name != plan.target:
            near = near * _FACTOR + (blurred(column) if tensor is None else pictured(column, tensor))
    return Keys(batch.column("row").to_numpy(), content, near, group)
