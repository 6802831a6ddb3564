"""64-bit hashes of a column's values, exact or blind to small differences; the same whatever batch a value comes in.

Among five million values two hashes meet by chance about once in a million runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

Hashes = NDArray[np.uint64]

#: Stands for an absent value.
_NULL = np.uint64(0x2545F4914F6CDD1D)
#: Bits of a float64's mantissa that are dropped: 13 remain, about four significant digits.
_DROPPED = 39
#: A picture's finger-print: at most so many cells along an axis, each with so many levels.
_CELLS, _LEVELS = 8, 8
#: Arrays of fewer numbers are compared like columns of numbers: so few cells would make different rows alike.
_LEAST_CELLS = 64


def exact(column: pa.Array) -> Hashes:
    """A hash of each value that does not depend on the batch it comes in."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_floating(kind):
        return _with_nulls(column, _hash(_floats(column)))
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind):
        whole = (
            column.cast(pa.int64(), safe=False)
            if not pa.types.is_date32(kind)
            else column.cast(pa.int32()).cast(pa.int64())
        )
        return _with_nulls(column, _hash(pc.fill_null(whole, 0).to_numpy(zero_copy_only=False)))
    if pa.types.is_nested(kind):
        return _with_nulls(column, _hash(_objects([repr(value) for value in column.to_pylist()])))
    encoded = column.dictionary_encode()  # most texts come more than once
    values = _hash(_objects([*encoded.dictionary.to_pylist(), ""]))
    return _with_nulls(column, values[pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)])


def blurred(column: pa.Array) -> Hashes:
    """The same, floats rounded to the nearest with 13 bits of mantissa."""
    import pyarrow as pa

    if not pa.types.is_floating(column.type):
        return exact(column)
    return _with_nulls(column, _hash(_rounded(_floats(column))))


def _floats(column: pa.Array) -> NDArray[np.float64]:
    """float64 [rows] with one zero and one NaN; nulls are 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) + 0.0
    values[np.isnan(values)] = np.nan
    return values


def _rounded(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bits of each number that are left of it, rounded to the nearest."""
    found: NDArray[np.int64] = (values.view(np.int64) + (1 << (_DROPPED - 1))) >> _DROPPED
    return found


def pictured(column: pa.Array, tensor: Mapping[str, Any]) -> Hashes:
    """A finger-print of arrays, much like the average hash of pictures, with more than two levels.

    Codes (integers of 32 bits or more) are no quantities: they are compared exactly.
    """
    if tensor["dtype"] not in ("uint8", "float32") or not len(column):
        return exact(column)
    shape = tuple(tensor["shape"])
    values = np.frombuffer(b"".join(column.to_pylist()), tensor["dtype"]).reshape(len(column), *shape)
    cells = values.astype(np.float64)
    if int(np.prod(shape, dtype=np.int64)) < _LEAST_CELLS:
        return _hash_rows(_rounded(cells).reshape(len(cells), -1))
    most = _CELLS if sum(size >= _CELLS for size in shape) > 1 else _LEAST_CELLS
    for axis, size in enumerate(shape, 1):
        if size > most:
            edges = np.linspace(0, size, most, endpoint=False).astype(np.int64)
            counts = np.diff([*edges, size]).reshape([-1 if at == axis else 1 for at in range(cells.ndim)])
            cells = np.add.reduceat(cells, edges, axis) / counts
    flat = cells.reshape(len(cells), -1)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    levels = (flat - low) / np.where(high > low, high - low, 1) * (_LEVELS - 1)
    return _hash_rows(np.rint(np.nan_to_num(levels)).astype(np.int64))


def _hash(values: np.ndarray) -> Hashes:
    """64-bit hashes of numbers, texts or bytes."""
    from pandas.util import hash_array

    found: Hashes = hash_array(values, categorize=True)
    return found


def _hash_rows(values: NDArray[np.int64]) -> Hashes:
    """One hash of each row of [rows, values]."""
    return _hash(_objects([row.tobytes() for row in np.ascontiguousarray(values.astype(np.int32))]))


def _objects(values: Sequence[str | bytes]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _with_nulls(column: pa.Array, hashes: Hashes) -> Hashes:
    return np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, hashes) if column.null_count else hashes
