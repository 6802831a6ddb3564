"""Arrays in memory as a part of a source: dtypes brought to the four that are stored, rows cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core import tensors
from tasks.ingest.source import Part, tensor_bytes, with_tensors

#: dtype of a source -> dtype stored (see :data:`tasks.core.tensors.DTYPES`): no value is lost but float64's precision.
STORED = {
    "bool": "uint8", "uint8": "uint8", "int8": "int32", "int16": "int32", "uint16": "int32", "int32": "int32",
    "uint32": "int64", "int64": "int64", "uint64": "int64", "float16": "float32", "float32": "float32",
    "float64": "float32",
}  # fmt: skip
#: Bytes of a batch, about.
BATCH_BYTES = 8 << 20


def problem(name: str, array: np.ndarray) -> str | None:
    """Why an array cannot be a tensor column, if it cannot."""
    if array.dtype.name not in STORED:
        return f"`{name}` holds {array.dtype}; known are {', '.join(STORED)}"
    if array.ndim < 2:
        return f"`{name}` has the shape {list(array.shape)}; the first axis is rows, and others must follow"
    if 0 in array.shape[1:]:
        return f"`{name}` has the shape {list(array.shape)}: its rows are empty"
    if array.dtype.name == "uint64" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        return f"`{name}` holds {int(array.max())}, which is beyond int64"
    return None


def tensor(array: np.ndarray) -> dict[str, Any]:
    """Dtype and shape of the stored column, as facts give them."""
    return {"dtype": STORED[array.dtype.name], "shape": list(array.shape[1:])}


def batch_rows(tensor_facts: Mapping[str, Mapping[str, Any]]) -> int:
    """Rows that a batch may have."""
    return max(1, BATCH_BYTES // sum(tensor_bytes(each) for each in tensor_facts.values()))


def part(name: str, arrays: Mapping[str, np.ndarray], columns: Mapping[str, pa.Array]) -> Part:
    """A part of equally long arrays, without a :func:`problem`, and plain columns.

    Args:
        name: of the source, for messages.
        arrays: tensor column -> array [rows, ...].
        columns: column -> Arrow array [rows].
    """
    facts = {key: tensor(array) for key, array in arrays.items()}
    schema = with_tensors(pa.schema([(key, column.type) for key, column in columns.items()]), facts)
    rows = len(next(iter(arrays.values())))
    step = batch_rows(facts)

    def read() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, step):
            plain = [column.slice(start, step) for column in columns.values()]
            stored = [_stored(arrays[key][start : start + step], fact["dtype"]) for key, fact in facts.items()]
            yield pa.RecordBatch.from_arrays([*plain, *stored], schema=schema)

    return Part(name, schema, read, facts)


def _stored(block: np.ndarray, dtype: str) -> pa.Array:
    with np.errstate(over="ignore"):  # beyond float32's range is infinity, which validate sets aside
        return tensors.to_arrow(block.astype(dtype))
