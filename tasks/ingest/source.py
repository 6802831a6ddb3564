"""What every source of rows offers, and the two kinds of table: Arrow data (Parquet, readers) and CSV (csv_files)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import DataRejected
from tasks.ingest import columns, kinds

#: Rows of a row group, and of a unit of the content hash.
GROUP_ROWS = 65_536
_BUFFER = 1 << 20


class Widened(Exception):
    """A later value showed that guessed kinds were too narrow: start again with ``columns`` (name -> kind)."""

    def __init__(self, columns: dict[str, str]) -> None:
        super().__init__(columns)
        self.columns = columns


class Source(Protocol):
    """Rows that can be read from the start, any number of times.

    Attributes:
        tensors: columns of arrays, which come after all others: name -> ``dtype`` and ``shape`` (tasks.core.tensors).
    """

    @property
    def tensors(self) -> Mapping[str, Mapping[str, Any]]: ...

    def guess(self) -> dict[str, str]:
        """Name -> kind (see :mod:`tasks.ingest.kinds`), no tensors, in file order, from headers and first blocks."""

    def batches(self, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
        """The rows, in order, with the Arrow types of ``columns``; :class:`Widened` if a guess was too narrow.

        After the columns come the tensors, as fixed-size binary.
        """


@dataclass(frozen=True)
class Part:
    """Arrow data with one schema: a Parquet file, or what a reader made of an archive.

    Attributes:
        name: for messages.
        schema: of the batches.
        read: the batches, from the start.
        tensors: columns of fixed-size binary that hold arrays: name -> ``dtype`` and ``shape``.
    """

    name: str
    schema: pa.Schema
    read: Callable[[], Iterator[pa.RecordBatch]]
    tensors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ArrowParts:
    """A source of Arrow data.

    Attributes:
        parts: at least one, in order, all with the same tensors.
        given: column -> type, by the user.
    """

    parts: Sequence[Part]
    given: Mapping[str, str]

    @property
    def tensors(self) -> Mapping[str, Mapping[str, Any]]:
        """Columns of arrays."""
        return self.parts[0].tensors

    def guess(self) -> dict[str, str]:
        """Name -> kind, from the schemas alone.

        Raises:
            DataRejected: if names repeat or differ between parts, or a type has no place in a table.
        """
        for part in self.parts:
            columns.check_names(part.schema.names, part.name)
            _check_types(part)
        columns.check_same({part.name: part.schema.names for part in self.parts})
        return {
            name: self.given.get(name)
            or kinds.join(*(str(kinds.kind_of_type(part.schema.field(name).type)) for part in self.parts))
            for name in self.parts[0].schema.names
            if name not in self.tensors
        }

    def batches(self, columns: dict[str, str]) -> Iterator[pa.RecordBatch]:
        """The rows. Raises :class:`DataRejected` for a value that does not fit its column."""
        schema = with_tensors(kinds.arrow_schema(columns), self.tensors)
        for part in self.parts:
            row = 0
            for batch in part.read():
                try:
                    arrays = [
                        kinds.from_array(batch.column(name), kind, name, inferred=name not in self.given)
                        for name, kind in columns.items()
                    ]
                except kinds.Misfit as misfit:
                    raise misfit.rejection(f"{part.name}, row {row + misfit.index + 1}") from misfit
                row += len(batch)
                arrays += [batch.column(name) for name in self.tensors]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def with_tensors(schema: pa.Schema, tensors: Mapping[str, Mapping[str, Any]]) -> pa.Schema:
    """The schema with the tensors' columns after the others."""
    for name, tensor in tensors.items():
        schema = schema.append(pa.field(name, pa.binary(tensor_bytes(tensor))))
    return schema


def tensor_bytes(tensor: Mapping[str, Any]) -> int:
    """Bytes of one row's array."""
    return int(math.prod(tensor["shape"]) * np.dtype(tensor["dtype"]).itemsize)


def _check_types(part: Part) -> None:
    plain = [field for field in part.schema if field.name not in part.tensors]
    bad = [f"`{field.name}` ({field.type})" for field in plain if kinds.kind_of_type(field.type) is None]
    if bad:
        raise DataRejected(
            "a column must hold booleans, numbers, texts, dates or timestamps",
            f"{part.name}: {', '.join(bad)}",
            "flatten or convert these columns in the source, or leave them out",
        )


def parquet_part(path: Path) -> Part:
    """A Parquet file as a part; only its footer is read now.

    Raises:
        DataRejected: if it is no Parquet file, or is damaged.
    """
    with _readable(path), pq.ParquetFile(path) as file:
        return Part(str(path), file.schema_arrow, lambda: _parquet_batches(path))


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    # Buffered pages instead of whole column chunks: memory stays small also where one row group holds the whole file.
    with (
        _readable(path),
        pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True) as file,
    ):
        for batch in file.iter_batches(GROUP_ROWS):
            batch.validate(full=True)  # the decoder trusts texts to be UTF-8
            yield batch


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None):  # the system's word, not the file's content
            raise
        found = f"{path}: {' '.join(str(error).split())}"
        raise DataRejected("a Parquet file must be whole", found, "write or copy the file again") from error
