"""Tables of a snapshot's columns in DuckDB, which works on disk what its share of memory does not hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.errors import MachineError
from tasks.validate.figures import Figures
from tasks.validate.snapshot import Mask, Snapshot, as_frame

#: What DuckDB may hold in memory before it writes to the disk.
MEMORY_MIB = 1024
#: More of them than this would each have too small a part of it.
_THREADS = 4


class ConditionError(Exception):
    """A row condition that cannot be evaluated; its argument is the error of pandas."""


class OnDisk:
    """Tables of the columns that a check reads, in a DuckDB file that is removed after use.

    Args:
        scratch: a folder for it, and for what DuckDB writes when memory does not suffice.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch

    @contextmanager
    def table(
        self,
        snapshot: Snapshot,
        columns: Sequence[str],
        keep: Mask | None = None,
        condition: str | None = None,
        read: Sequence[str] = (),
    ) -> Iterator[Figures]:
        """A table of some columns.

        Args:
            snapshot: the rows.
            columns: names.
            keep: bool [rows], the rows to take; None takes all.
            condition: takes only those of them that it holds for, in the words of ``DataFrame.query``.
            read: names of the columns that the condition may read.

        Raises:
            ConditionError: if the condition cannot be evaluated.
            MachineError: if the disk or DuckDB's memory does not suffice.
        """
        with self._connected() as (connection, stopped):
            source = _source(connection, stopped, snapshot, columns, keep, condition, read)
            connection.execute(f"CREATE TABLE rows AS {source}")
            yield Figures(connection, columns, [snapshot.schema().field(name).type for name in columns])

    def distinct(self, snapshot: Snapshot, column: str) -> int:
        """Number of distinct values of a column, without null and NaN."""
        with self._connected() as (connection, stopped):
            connection.execute(f"CREATE TEMP VIEW rows AS {_source(connection, stopped, snapshot, (column,))}")
            return Figures(connection, (column,), ()).distinct()

    @contextmanager
    def _connected(self) -> Iterator[tuple[Any, list[BaseException]]]:
        """A connection, and a list for what stops a source of rows, of which DuckDB makes a text of its own."""
        import duckdb

        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="duckdb-") as folder:
            options: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": f"{MEMORY_MIB}MiB",
                "threads": min(_THREADS, os.cpu_count() or 1),
                "temp_directory": folder,
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
            }
            stopped: list[BaseException] = []
            try:
                with duckdb.connect(str(Path(folder) / "rows.duckdb"), config=options) as connection:
                    connection.execute("SET enable_progress_bar = false")
                    yield connection, stopped
            except duckdb.Error as error:
                if stopped:
                    raise stopped[0] from error
                if not isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
                    raise
                raise MachineError(
                    "validate.engine: duckdb needs room on the disk for columns that do not fit into memory",
                    f"{self._scratch}: {' '.join(str(error).split())}",
                    "free some space, or set base.artifacts_dir to a larger disk",
                ) from error


def _source(
    connection: Any,
    stopped: list[BaseException],
    snapshot: Snapshot,
    columns: Sequence[str],
    keep: Mask | None = None,
    condition: str | None = None,
    read: Sequence[str] = (),
) -> str:
    """A query, good for one use: ``row`` (the row's number in the snapshot), then ``c0``, ``c1``, ... for the columns.

    The columns have the types that a frame would have; what pandas takes as missing (NaN) is null.
    """
    import pyarrow as pa

    read = list(dict.fromkeys([*columns, *read]))
    kinds = snapshot.kinds(read, keep)
    types = [_type(snapshot, name, kinds) for name in columns]
    schema = pa.schema([("row", pa.int64()), *((f"c{place}", kind) for place, kind in enumerate(types))])

    def batches() -> Iterator[Any]:
        for numbers, table in snapshot.tables(read, keep):
            arrays = [table.column(name).cast(kind) for name, kind in zip(columns, types, strict=True)]
            rows = pa.Table.from_arrays([pa.array(numbers), *arrays], schema=schema)
            if condition is not None:
                rows = rows.take(_holding(as_frame(table, kinds), condition))
            yield from rows.to_batches()

    values = [
        f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" if pa.types.is_floating(kind) else name
        for name, kind in ((f"c{place}", kind) for place, kind in enumerate(types))
    ]
    connection.register("source", pa.RecordBatchReader.from_batches(schema, _remembered(batches(), stopped)))
    return f"SELECT {', '.join(['row', *values])} FROM source"


def _holding(frame: Any, condition: str) -> Any:
    """Numbers of a frame's rows that a condition holds for."""
    try:
        return frame.query(condition, parser="pandas").index.to_numpy()
    except MemoryError:
        raise
    except Exception as error:  # pandas raises whatever a word of the condition does
        raise ConditionError(error) from error


def _remembered(batches: Iterator[Any], stopped: list[BaseException]) -> Iterator[Any]:
    try:
        yield from batches
    except BaseException as error:
        stopped.append(error)
        raise


def _type(snapshot: Snapshot, name: str, kinds: Mapping[str, str]) -> Any:
    import pyarrow as pa

    if kinds[name] == "float":
        return pa.float64()
    kind = snapshot.schema().field(name).type
    return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind  # DuckDB's own time zones stay out of it
