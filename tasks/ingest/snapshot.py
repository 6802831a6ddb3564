"""Writes the snapshot: Parquet in row groups of a fixed size, and a hash of the content that no format can change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.ingest.source import GROUP_ROWS


def write(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> tuple[int, str]:
    """Write the rows to a Parquet file, in row groups of 65,536.

    Memory holds a few row groups, whatever the number of rows: while one is written and hashed in two threads, the
    next is read.

    Returns:
        Number of rows, and the content hash (hex SHA-256; see :class:`ContentHash`).
    """
    content = ContentHash(schema)
    with pq.ParquetWriter(path, schema) as writer, ThreadPoolExecutor(2) as pool:
        busy: list[Future[None]] = []
        for group in regrouped(batches, schema):
            _wait(busy)
            busy = [pool.submit(writer.write_table, group), pool.submit(content.update, group)]
        _wait(busy)
    return content.rows, content.hexdigest()


def _wait(futures: list[Future[None]]) -> None:
    for future in futures:
        future.result()


def regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema, size: int = GROUP_ROWS) -> Iterator[pa.Table]:
    """The same rows in tables of exactly ``size`` rows (the last may have fewer), each column one chunk."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count < size:
            continue
        table = pa.Table.from_batches(waiting, schema)
        whole = count - count % size
        for start in range(0, whole, size):
            yield table.slice(start, size).combine_chunks()
        waiting = table.slice(whole).to_batches()
        count -= whole
    if count:
        yield pa.Table.from_batches(waiting, schema).combine_chunks()


class ContentHash:
    """SHA-256 of names, types, values and their order; independent of file format, chunks and compression.

    Each column has its own digest, fed group by group: which rows are missing, then the values. Values under a null
    count as zero or empty, since their bytes are arbitrary. Texts are their lengths (int32), then their UTF-8 bytes.
    The result is the SHA-256 of the canonical JSON of rows, names, types and column digests.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._digests = [hashlib.sha256() for _ in schema]

    def update(self, group: pa.Table) -> None:
        """Add a group: 65,536 rows, fewer only in the last one."""
        self.rows += len(group)
        for digest, column in zip(self._digests, group.columns, strict=True):
            for chunk in column.chunks:
                for part in _canonical(chunk):
                    digest.update(part)

    def hexdigest(self) -> str:
        """The hash of everything so far."""
        named = [
            [field.name, str(field.type), digest.hexdigest()]
            for field, digest in zip(self._schema, self._digests, strict=True)
        ]
        text = json.dumps({"columns": named, "rows": self.rows}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _canonical(array: pa.Array) -> Iterator[Any]:
    """Buffers that are equal exactly when the arrays are."""
    yield np.packbits(_bytes(array.is_null())) if array.null_count else b"\0"
    if pa.types.is_string(array.type):
        filled = pc.fill_null(array, "") if array.null_count else array
        yield _numbers(pc.binary_length(filled))
        yield _text_bytes(filled)
    elif pa.types.is_boolean(array.type):
        yield _bytes(pc.fill_null(array, False))
    else:
        numbers = array.view(pa.int64())
        yield _numbers(pc.fill_null(numbers, 0) if array.null_count else numbers)


def _bytes(booleans: pa.Array) -> Any:
    return _numbers(pc.cast(booleans, pa.uint8()))


def _numbers(array: pa.Array) -> Any:
    return array.to_numpy(zero_copy_only=True).view(np.uint8)


def _text_bytes(texts: pa.Array) -> Any:
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[ends[0] : ends[-1]]
