"""The rows as `ingest` left them, read a column or a row group at a time: memory follows the columns asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core import files, manifest

#: Integers up to this size are exact as float64.
_EXACT = 1 << 53
#: Bytes that are read at once, about, of a table that does not fit into memory.
BATCH_BYTES = 32 << 20

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk.

    Attributes:
        path: ``rows.parquet``.
        columns: name -> type ("bool", "int64", "float64", "string", "timestamp"), in file order.
        rows: number of rows.
        content_hash: hex hash of the content, by `ingest`.
        tensors: name -> dtype and shape of the columns that hold arrays (:mod:`tasks.core.tensors`), in file order.
        problem_columns: the text column in which `ingest` says why a row has no array, if there is one.
        as_of: the rows are those before this moment; None if they are all that there were.
    """

    path: Path
    columns: Mapping[str, str]
    rows: int
    content_hash: str
    tensors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    problem_columns: tuple[str, ...] = ()
    as_of: datetime | None = None

    def column(self, name: str) -> Any:
        """One column, as a ``pyarrow.ChunkedArray`` of ``rows`` values."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path, columns=[name]).column(0)

    def frame(self, columns: Sequence[str], keep: Mask | None = None) -> Any:
        """Some columns as a pandas frame with a plain range index.

        Args:
            columns: names; with none of them the frame only has the right number of rows.
            keep: bool [rows], the rows to take; None takes all.

        Returns:
            ``pandas.DataFrame``. Integers with nulls come as float64 where that is exact (Great Expectations walks
            over pandas' nullable integers in Python, row by row), booleans with nulls as pandas' nullable ones.
        """
        import pandas as pd
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not columns:
            return pd.DataFrame(index=pd.RangeIndex(self.rows if keep is None else int(keep.sum())))
        table = pq.read_table(self.path, columns=list(columns)).select(list(columns))
        if keep is not None and not keep.all():
            table = table.filter(pa.array(keep))
        return as_frame(table, {name: _kind(*_extent([table.column(name)])) for name in columns})

    def frames(self, columns: Sequence[str], keep: Mask | None = None) -> Iterator[Any]:
        """The same in batches: frames with the types that :meth:`frame` gives, whose indices go on from one another."""
        import pandas as pd

        kinds, first = self.kinds(columns, keep), 0
        for _, table in self.tables(columns, keep):
            frame = as_frame(table, kinds)
            frame.index = pd.RangeIndex(first, first + len(frame))
            first += len(frame)
            yield frame

    def tables(self, columns: Sequence[str], keep: Mask | None = None) -> Iterator[tuple[NDArray[np.int64], Any]]:
        """Some columns in batches of about :data:`BATCH_BYTES`: row numbers, and a ``pyarrow.Table``."""
        import pyarrow as pa

        waiting: list[tuple[NDArray[np.int64], Any]] = []
        for numbers, table in self._kept_groups(columns, keep):
            waiting.append((numbers, table))
            if sum(numbers.nbytes + table.nbytes for numbers, table in waiting) >= BATCH_BYTES:
                yield np.concatenate([n for n, _ in waiting]), pa.concat_tables([t for _, t in waiting])
                waiting = []
        if waiting:
            yield np.concatenate([n for n, _ in waiting]), pa.concat_tables([t for _, t in waiting])

    def kept(self, column: str, keep: Mask | None = None) -> Iterator[Any]:
        """One column in pieces of a row group, each a ``pyarrow.ChunkedArray``: all rows, or those of bool [rows]."""
        return (table.column(0) for _, table in self._kept_groups([column], keep))

    def distinct(self, column: str, keep: Mask | None = None, most: int | None = None) -> Any:
        """The distinct values of a column, ``pyarrow.Array`` without nulls; of more than ``most`` only some."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found, waiting = pa.array([], self.schema().field(column).type), []
        for values in self.kept(column, keep):
            waiting.append(pc.unique(values.drop_null()))
            if sum(map(len, waiting)) > len(found):  # each merge at least doubles what it costs
                found, waiting = pc.unique(pa.concat_arrays([found, *waiting])), []
            if most is not None and len(found) > most:
                return found
        return pc.unique(pa.concat_arrays([found, *waiting]))

    def kinds(self, columns: Sequence[str], keep: Mask | None = None) -> dict[str, str]:
        """How :meth:`frame` holds each column: "plain", "float" (whole numbers, some missing), or "nullable"."""
        return {name: self._kind(name, keep) for name in columns}

    def _kind(self, column: str, keep: Mask | None) -> str:
        if self.columns[column] not in ("int64", "bool") or self._is_complete(column):
            return "plain"
        return _kind(*_extent(self.kept(column, keep)))

    def _is_complete(self, column: str) -> bool:
        """Whether the file's own statistics say that no value is missing."""
        import pyarrow.parquet as pq

        metadata, place = pq.read_metadata(self.path), self.whole_schema().get_field_index(column)
        found = [metadata.row_group(group).column(place).statistics for group in range(metadata.num_row_groups)]
        return all(one is not None and one.has_null_count and one.null_count == 0 for one in found)

    def _kept_groups(self, columns: Sequence[str], keep: Mask | None) -> Iterator[tuple[NDArray[np.int64], Any]]:
        import pyarrow as pa

        first = 0
        for table in self.row_groups(columns):
            rows = np.arange(first, first + len(table))
            first += len(table)
            if keep is None or keep[rows].all():
                yield rows, table
            else:
                yield rows[keep[rows]], table.filter(pa.array(keep[rows]))

    def empty_frame(self) -> Any:
        """All columns, none of the rows."""
        return self.schema().empty_table().select(list(self.columns)).to_pandas()

    def schema(self) -> Any:
        """``pyarrow.Schema`` of the columns that later stages read, arrays included, in file order."""
        import pyarrow as pa

        return pa.schema([field for field in self.whole_schema() if field.name not in self.problem_columns])

    def whole_schema(self) -> Any:
        """``pyarrow.Schema`` of all columns, in file order."""
        import pyarrow.parquet as pq

        return pq.read_schema(self.path).remove_metadata()

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """A few rows (ascending row numbers) without their arrays, for the eye."""
        import pyarrow.parquet as pq

        found: list[dict[str, Any]] = []
        with pq.ParquetFile(self.path) as file:
            first = 0
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                wanted = [row - first for row in rows if first <= row < end]
                if wanted:
                    found += file.read_row_group(group, columns=list(self.columns)).take(wanted).to_pylist()
                first = end
        return found

    @property
    def row_group_count(self) -> int:
        """Number of row groups."""
        import pyarrow.parquet as pq

        count: int = pq.read_metadata(self.path).num_row_groups
        return count

    def row_groups(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The row groups in file order, each as a ``pyarrow.Table`` of some columns (None: those of the schema)."""
        import pyarrow.parquet as pq

        wanted = self.schema().names if columns is None else list(columns)
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=wanted)


def as_frame(table: Any, kinds: Mapping[str, str]) -> Any:
    """A ``pyarrow.Table`` as a ``pandas.DataFrame`` with a plain range index.

    Args:
        table: the rows.
        kinds: from :meth:`Snapshot.kinds`.
    """
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frames = {}
    for name in table.column_names:
        values = table.column(name)
        table = table.drop_columns([name])
        if kinds[name] == "float":
            values = values.cast(pa.float64())
        frames[name] = values.to_pandas(types_mapper=nullable.get if kinds[name] == "nullable" else None)
    return pd.DataFrame(frames, copy=False)


def _extent(pieces: Iterable[Any]) -> tuple[str, int, int | None, int | None]:
    """Type of a column of numbers or truth values, how many values are missing, and the least and the largest one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind, missing, ends = "", 0, []
    for values in pieces:
        kind = str(values.type)
        missing += values.null_count
        if pa.types.is_int64(values.type):
            ends += [end for end in pc.min_max(values).as_py().values() if end is not None]
    return kind, missing, min(ends, default=None), max(ends, default=None)


def _kind(kind: str, missing: int, low: int | None, high: int | None) -> str:
    if not missing or kind not in ("int64", "bool"):
        return "plain"
    exact = kind == "int64" and (low is None or high is None or (low >= -_EXACT and high <= _EXACT))
    return "float" if exact else "nullable"


def open_snapshot(folder: Path) -> Snapshot:
    """The snapshot in `ingest`'s folder, whose hashes the stage runner has checked."""
    import pyarrow.parquet as pq

    facts = files.read_json(folder / manifest.NAME)["facts"]
    described = files.read_json(folder / "schema.json")
    types, shapes = described["columns"], described.get("tensors", {})
    path = folder / "rows.parquet"
    # Canonical JSON sorts its keys; the order of the columns is the file's.
    names = pq.read_schema(path).names
    problem = ("problem",) if shapes and types.get("problem") == "string" else ()
    columns = {name: types[name] for name in names if name not in shapes and name not in problem}
    tensors = {name: shapes[name] for name in names if name in shapes}
    as_of = datetime.fromisoformat(facts["as_of"]) if facts.get("as_of") else None
    return Snapshot(path, columns, facts["rows"], facts["content_hash"], tensors, problem, as_of)
