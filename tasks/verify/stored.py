"""Rows of a Parquet file, read as they are asked for: what a gate keeps of test is answers and labels, not columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from tasks.verify.case import Scorer

if TYPE_CHECKING:
    from tasks.core.original import Original
    from tasks.core.scoring import Exported
    from tasks.core.workloads.contract import Encoder

#: A batch holds at most so many rows, and at most so many bytes as the file counts them.
_BATCH_ROWS, _BATCH_BYTES = 1 << 18, 64 << 20


class Stored:
    """The rows of a split.

    Attributes:
        count: how many there are.
        names: of the columns.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with pq.ParquetFile(path) as file:
            self._schema = file.schema_arrow
            self.count: int = file.metadata.num_rows
            groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
            size = sum(group.total_byte_size for group in groups) / max(self.count, 1)
        self.names: list[str] = self._schema.names
        self._batch = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(size, 1.0))))

    def column(self, name: str) -> pa.ChunkedArray:
        """One column, whole."""
        return pq.read_table(self._path, columns=[name])[name]

    def batches(self) -> Iterator[pa.Table]:
        """All rows in order, some at a time; one batch without rows if there are none."""
        if self.count == 0:
            yield self._schema.empty_table()
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(self._batch):
                yield pa.Table.from_batches([batch])

    def taken(self, rows: np.ndarray) -> pa.Table:
        """Rows by their places, in that order; a place may occur more than once."""
        places, order = np.unique(rows, return_inverse=True)
        return pyarrow.dataset.dataset(self._path).take(pa.array(places, pa.int64())).take(pa.array(order, pa.int64()))

    def inputs(self, encoder: Encoder) -> dict[str, Column]:
        """What an exported file is given, by name: see :class:`Column`."""
        reader = _Reader(self, encoder)
        first = reader.taken(np.arange(min(self.count, 1)))
        return {
            name: Column(reader, name, (self.count, *array.shape[1:]), array.dtype) for name, array in first.items()
        }


class _Reader:
    """Raw inputs of some rows; those that were asked for last are kept, since all columns of them are wanted."""

    def __init__(self, stored: Stored, encoder: Encoder) -> None:
        self._stored, self._encoder = stored, encoder
        self._last: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None

    def taken(self, rows: np.ndarray) -> Mapping[str, np.ndarray]:
        if self._last is None or not np.array_equal(self._last[0], rows):
            self._last = rows, self._encoder.raw_inputs(self._stored.taken(rows))
        return self._last[1]


@dataclass(frozen=True)
class Column:
    """An input of all rows, of which some are read when they are asked for: ``column[places]`` is an array.

    Attributes:
        shape: [rows, ...].
        dtype: of its values; texts may be longer than it says.
    """

    _reader: _Reader
    _name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self._reader.taken(np.asarray(rows, np.int64))[self._name]

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Of all rows, if they were in memory."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def asked(model: Original, stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the original's answers to all rows, [n] and [n, ...]."""
    parts = [(model.encoder.labels(rows), model.predict(rows)) for rows in stored.batches()]
    labels, answers = (np.concatenate(each) for each in zip(*parts, strict=True))
    return labels, answers


def scored(shipped: Scorer, encoder: Encoder, stored: Stored) -> tuple[np.ndarray, str]:
    """An exported file's answers to all rows, [n, ...], and what ran it; a process for each batch.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if the exported file cannot be scored.
    """
    parts: list[Exported] = [shipped.score(encoder.raw_inputs(rows)) for rows in stored.batches()]
    return np.concatenate([part.answers for part in parts]), parts[0].provider
