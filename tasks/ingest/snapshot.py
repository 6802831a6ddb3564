"""Writes the snapshot: Parquet in row groups of a fixed size, and a hash of the content that no format can change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.ingest.source import GROUP_ROWS, tensor_bytes

#: Bytes of tensors in a row group, at most.
GROUP_BYTES = 64 << 20


def write(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path, tensors: Mapping[str, Mapping[str, Any]]
) -> tuple[int, str]:
    """Write the rows to a Parquet file, in row groups of 65,536; of fewer where tensors would make them large.

    Memory holds a few row groups, whatever the number of rows: while one is written and hashed in two threads, the
    next is read.

    Returns:
        Number of rows, and the content hash (hex SHA-256; see :class:`ContentHash`).
    """
    content = ContentHash(schema, tensors)
    plain = [name for name in schema.names if name not in tensors] if tensors else True
    # Of arrays neither a dictionary nor the smallest and largest one is of use to anybody.
    writer = pq.ParquetWriter(path, schema, use_dictionary=plain, write_statistics=plain)
    with _closing(writer), ThreadPoolExecutor(2) as pool:
        busy: list[Future[None]] = []
        for group in regrouped(batches, schema, group_rows(tensors)):
            _wait(busy)
            busy = [pool.submit(writer.write_table, group), pool.submit(content.update, group)]
        _wait(busy)
    return content.rows, content.hexdigest()


@contextmanager
def _closing(writer: pq.ParquetWriter) -> Iterator[None]:
    """Close the writer at the end; after an error (Ctrl-C among them) its own complaint must not hide that one."""
    try:
        yield
    except BaseException:
        with suppress(pa.ArrowException, OSError):
            writer.close()
        raise
    writer.close()


def group_rows(tensors: Mapping[str, Mapping[str, Any]]) -> int:
    """Rows of a row group: at most 65,536, and at most 64 MiB of tensors."""
    each = sum(tensor_bytes(tensor) for tensor in tensors.values())
    return max(1, min(GROUP_ROWS, GROUP_BYTES // each)) if each else GROUP_ROWS


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
    Tensors are their values, and their type names dtype and shape.
    The result is the SHA-256 of the canonical JSON of rows, names, types and column digests.
    """

    def __init__(self, schema: pa.Schema, tensors: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.rows = 0
        self._types = {field.name: str(field.type) for field in schema}
        self._types |= {name: f"{tensor['dtype']}{list(tensor['shape'])}" for name, tensor in (tensors or {}).items()}
        self._digests = [hashlib.sha256() for _ in schema]

    def update(self, group: pa.Table) -> None:
        """Add a group: :func:`group_rows`, fewer only in the last one."""
        self.rows += len(group)
        for digest, column in zip(self._digests, group.columns, strict=True):
            for chunk in column.chunks:
                for part in _canonical(chunk):
                    digest.update(part)

    def hexdigest(self) -> str:
        """The hash of everything so far."""
        digests = zip(self._types.items(), self._digests, strict=True)
        named = [[name, kind, digest.hexdigest()] for (name, kind), digest in digests]
        text = json.dumps({"columns": named, "rows": self.rows}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _canonical(array: pa.Array) -> Iterator[bytes | memoryview]:
    """Bytes that are equal exactly when the arrays are."""
    yield b"\1" if array.null_count else b"\0"  # the mark keeps the stream of parts unambiguous
    if array.null_count:
        yield _values(pc.cast(array.is_null(), pa.uint8()))
    if pa.types.is_string(array.type):
        texts = pc.fill_null(array, "") if array.null_count else array
        yield _values(pc.binary_length(texts))
        yield _text(texts)
        return
    if pa.types.is_fixed_size_binary(array.type):
        zeros = pa.scalar(bytes(array.type.byte_width), array.type)
        yield _values(pc.if_else(array.is_valid(), array, zeros) if array.null_count else array)
        return
    numbers = pc.cast(array, pa.uint8()) if pa.types.is_boolean(array.type) else array.view(pa.int64())
    yield _values(pc.fill_null(numbers, 0) if array.null_count else numbers)


def _values(array: pa.Array) -> memoryview:
    """The values' bytes of an array of numbers or fixed-size binary."""
    width = array.type.bit_width // 8
    data = memoryview(array.buffers()[1])
    return data[array.offset * width : (array.offset + len(array)) * width]


def _text(texts: pa.Array) -> bytes | memoryview:
    """The UTF-8 bytes of all texts, one after the other."""
    _, offsets, data = texts.buffers()
    if data is None:  # all of them are empty
        return b""
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[texts.offset] : ends[texts.offset + len(texts)]]
