"""One tensor of a request or a response: JSON values or bytes <-> numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np

from deploy.signature import MISSING, NUMPY, Tensor

_NONE = type(None)
_LENGTH = np.dtype("<u4")
#: What a JSON value may be, by datatype; ``null`` is a missing value.
_KINDS: Mapping[str, frozenset[type]] = {
    "BOOL": frozenset({bool}),
    **dict.fromkeys(("UINT8", "INT8", "INT32"), frozenset({int})),
    "INT64": frozenset({int, _NONE}),
    **dict.fromkeys(("FP16", "FP32", "FP64"), frozenset({int, float, _NONE})),
    "BYTES": frozenset({str, _NONE}),
}
_WORDS = {bool: "a boolean", int: "an integer", float: "a fraction", str: "a text", _NONE: "null", list: "a list",
          dict: "an object"}  # fmt: skip


def from_json(data: Any, shape: tuple[int, ...], tensor: Tensor) -> np.ndarray:
    """JSON values, flat or nested like the shape, as an array of it.

    Raises:
        ValueError: saying what is wrong with them.
    """
    if type(data) is not list:
        raise ValueError(f"data must be a list, got {_WORDS[type(data)]}")
    values = _flat(data, shape)
    if len(values) != math.prod(shape):
        raise ValueError(f"shape {list(shape)} needs {math.prod(shape)} values, got {len(values)}")
    datatype = tensor.datatype
    if wrong := set(map(type, values)) - _KINDS[datatype]:
        expected = " or ".join(sorted(_WORDS[kind] for kind in _KINDS[datatype]))
        raise ValueError(f"each value must be {expected}, got {', '.join(sorted(_WORDS[kind] for kind in wrong))}")
    if datatype in ("INT64", "BYTES") and None in values:
        values = [MISSING[datatype] if value is None else value for value in values]
    try:
        array = np.array(values, NUMPY[datatype])
    except OverflowError:
        raise ValueError(f"a value is beyond {datatype}") from None
    return array.reshape(shape)


def _flat(data: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """The values row by row, if ``data`` is nested as the shape says; ``data`` itself if it is flat."""
    if not data or type(data[0]) is not list:
        return data
    parts = [data]
    for size in shape:
        if not all(type(part) is list and len(part) == size for part in parts):
            raise ValueError(f"nested data must follow the shape {list(shape)}")
        parts = list(chain.from_iterable(parts))
    return parts


def from_bytes(data: memoryview, shape: tuple[int, ...], tensor: Tensor) -> np.ndarray:
    """Little-endian values in row order, or texts that each follow their length (four bytes), as an array.

    Raises:
        ValueError: saying what is wrong with them.
    """
    count = math.prod(shape)
    if tensor.datatype == "BYTES":
        return _texts(data, count).reshape(shape)
    dtype = np.dtype(NUMPY[tensor.datatype])
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"shape {list(shape)} of {tensor.datatype} needs {count * dtype.itemsize} bytes, got {len(data)}")
    if tensor.datatype == "BOOL" and not set(bytes(data)) <= {0, 1}:
        raise ValueError("each boolean must be a byte 0 or 1")
    array = np.frombuffer(data, dtype)
    return (array if array.flags.aligned else array.copy()).reshape(shape)


def _texts(data: memoryview, count: int) -> np.ndarray:
    if count * _LENGTH.itemsize > len(data):
        raise ValueError(f"{count} texts need {count * _LENGTH.itemsize} bytes and more, got {len(data)}")
    texts = np.empty(count, np.object_)
    position = 0
    for index in range(count):
        start = position + _LENGTH.itemsize
        position = start + int.from_bytes(data[position:start], "little")
        if start > len(data) or position > len(data):
            raise ValueError(f"text {index} goes beyond the {len(data)} bytes of its tensor")
        try:
            texts[index] = str(data[start:position], "utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"text {index} is not UTF-8") from None
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes are left over after {count} texts")
    return texts


def to_json(array: np.ndarray) -> Any:
    """Values row by row, as orjson takes them (which writes NaN and infinity as ``null``)."""
    flat = array.ravel()
    return flat.tolist() if flat.dtype.hasobject else np.ascontiguousarray(flat)


def to_bytes(array: np.ndarray) -> bytes:
    """The inverse of :func:`from_bytes`."""
    if not array.dtype.hasobject:
        return array.tobytes()
    encoded = [str(text).encode() for text in array.ravel()]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))
