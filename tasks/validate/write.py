"""Writes the parts as Parquet files while reading the snapshot once, a row group at a time.

Memory holds one row group of the snapshot and less than one of each part. Equal rows give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.log import progress
from tasks.validate.histories import Histories
from tasks.validate.interactions import HISTORY
from tasks.validate.rules import PARTS
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.splits import ASIDE, Parts

GROUP_ROWS = 65_536
#: Arrays make rows wide: a row group holds at most about so many bytes of them.
GROUP_BYTES = 64 << 20


def write_parts(
    snapshot: Snapshot,
    out: Path,
    parts: Parts,
    calibration: Mask,
    reasons: Mapping[str, NDArray[np.int64]],
    histories: Histories | None = None,
) -> None:
    """Write ``train``, ``validation``, ``test``, ``fresh``, ``calibration`` and ``quarantine`` (``.parquet``).

    Args:
        snapshot: the rows.
        out: the folder.
        parts: int8 [rows], index in :data:`~tasks.validate.rules.PARTS` or -1 for a row set aside.
        calibration: bool [rows], the rows of ``calibration``.
        reasons: reason -> int64 row numbers that are set aside for it, ascending.
        histories: of interactions: every file but ``train`` and ``quarantine`` gets the column ``history``.

    Each file has the snapshot's columns after ``row`` (int64: the row's number in the snapshot); ``quarantine`` has
    ``reason`` (string) at the end.
    """
    import pyarrow as pa

    schema = snapshot.schema().insert(0, pa.field("row", pa.int64()))
    size = _group_rows(snapshot)
    first = 0
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_Part(out / f"{name}.parquet", _with_history(schema, name, histories), size))
            for name in (*PARTS, "calibration")
        }
        aside = schema.append(pa.field("reason", pa.string()))
        quarantine = stack.enter_context(_Part(out / "quarantine.parquet", aside, size))
        for table in progress(snapshot.row_groups(), "writing the splits", total=snapshot.row_group_count):
            end = first + len(table)
            numbered = table.add_column(0, "row", pa.array(np.arange(first, end))).cast(schema)
            here = parts[first:end]
            for index, name in enumerate(PARTS):
                files[name].add(_told(_where(numbered, here == index), name, histories))
            files["calibration"].add(_told(_where(numbered, calibration[first:end]), "calibration", histories))
            left_out = _where(numbered, here == ASIDE)
            texts = _joined(first + np.flatnonzero(here == ASIDE), reasons)
            quarantine.add(left_out.append_column("reason", texts).cast(aside))
            first = end


def _with_history(schema: Any, name: str, histories: Histories | None) -> Any:
    import pyarrow as pa

    if histories is None or name == "train":
        return schema
    return schema.append(pa.field(HISTORY, pa.list_(histories.kind)))


def _told(table: Any, name: str, histories: Histories | None) -> Any:
    """The rows with their history, where the file of that name has the column."""
    if histories is None or name == "train":
        return table
    return table.append_column(HISTORY, histories.of(table["row"].to_numpy()))


def _group_rows(snapshot: Snapshot) -> int:
    """Rows of a row group."""
    each = sum(
        np.dtype(tensor["dtype"]).itemsize * int(np.prod(tensor["shape"], dtype=np.int64))
        for tensor in snapshot.tensors.values()
    )
    return min(GROUP_ROWS, max(1, GROUP_BYTES // each)) if each else GROUP_ROWS


def _where(table: Any, mask: Mask) -> Any:
    import pyarrow as pa

    count = int(np.count_nonzero(mask))
    if count in (0, len(mask)):
        return table.slice(0, count)
    return table.filter(pa.array(mask))


def _joined(rows: NDArray[np.int64], reasons: Mapping[str, NDArray[np.int64]]) -> Any:
    """One text for each row set aside: its reasons, with a semicolon between them (a ``pyarrow.StringArray``)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(rows):
        return pa.array([], pa.string())
    columns = []
    for reason, of in reasons.items():
        applies = np.isin(rows, of[slice(*np.searchsorted(of, [rows[0], rows[-1] + 1]))])
        columns.append(pc.if_else(pa.array(applies), pa.scalar(reason), pa.scalar(None, pa.string())))
    return pc.binary_join_element_wise(*columns, "; ", null_handling="skip")


class _Part:
    """A Parquet file that is given rows in pieces of any size and writes full row groups."""

    def __init__(self, path: Path, schema: Any, group_rows: int) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._group_rows = group_rows
        self._pending: list[Any] = []
        self._rows = 0

    def __enter__(self) -> _Part:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._rows)
        finally:
            self._writer.close()

    def add(self, table: Any) -> None:
        """Take some rows."""
        if not len(table):
            return
        self._pending.append(table)
        self._rows += len(table)
        if self._rows >= self._group_rows:
            self._flush(self._rows - self._rows % self._group_rows)

    def _flush(self, count: int) -> None:
        import pyarrow as pa

        if not count:
            return
        rows = pa.concat_tables(self._pending)
        self._writer.write_table(rows.slice(0, count), row_group_size=self._group_rows)
        self._rows -= count
        self._pending = [rows.slice(count)] if self._rows else []
