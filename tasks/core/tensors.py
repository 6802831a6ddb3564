"""Arrays in tables: a column of equal-shaped arrays is fixed-size binary, with its dtype and shape kept beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

#: Dtypes of stored arrays.
DTYPES = ("uint8", "int32", "int64", "float32")


def to_arrow(values: np.ndarray) -> pa.Array:
    """A column of fixed-size binary, from an array [rows, ...] of one of :data:`DTYPES` (C order, little endian)."""
    import pyarrow as pa

    if values.dtype.name not in DTYPES:
        raise ValueError(f"{values.dtype} is none of {', '.join(DTYPES)}")
    data = np.ascontiguousarray(values)
    width = data.itemsize * int(np.prod(data.shape[1:], dtype=np.int64))
    return pa.Array.from_buffers(pa.binary(width), len(data), [None, pa.py_buffer(data)])


def to_numpy(column: pa.ChunkedArray, tensor: Mapping[str, Any]) -> np.ndarray:
    """[rows, *shape] of a column without nulls; ``tensor`` is its entry in the facts: ``dtype`` and ``shape``."""
    shape = tuple(tensor["shape"])
    parts = [_chunk(chunk, np.dtype(tensor["dtype"]), shape) for chunk in column.chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, *shape), tensor["dtype"])


def _chunk(chunk: pa.Array, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    values = np.frombuffer(chunk.buffers()[1], dtype=dtype)
    each = int(np.prod(shape, dtype=np.int64))
    return values[chunk.offset * each : (chunk.offset + len(chunk)) * each].reshape(len(chunk), *shape)
