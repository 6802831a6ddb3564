"""The rows as `ingest` left them, read a column or a row group at a time: memory follows the columns asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core import files, manifest

#: Integers up to this size are exact as float64.
_EXACT = 1 << 53

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
        nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        frames = {}
        for name in columns:
            values = table.column(name)
            types = nullable if values.null_count and not _exact_as_float(values) else {}
            frames[name] = values.to_pandas(types_mapper=types.get)
            table = table.drop_columns([name])
        return pd.DataFrame(frames, copy=False)

    def empty_frame(self) -> Any:
        """All columns, none of the rows."""
        return self.schema().empty_table().select(list(self.columns)).to_pandas()

    def schema(self) -> Any:
        """``pyarrow.Schema`` of the columns that later stages read, arrays included, in file order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        whole = pq.read_schema(self.path).remove_metadata()
        return pa.schema([field for field in whole if field.name not in self.problem_columns])

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


def _exact_as_float(values: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.type != pa.int64():
        return False
    low, high = pc.min_max(values).as_py().values()
    return low is None or (low >= -_EXACT and high <= _EXACT)


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
