"""What a model takes and gives: names, datatypes and shapes in the words of the Open Inference Protocol."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import DataRejected, IntegrityError

NUMPY: Mapping[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
#: An absent value, by datatype: what stands for it in the tensor.
MISSING: Mapping[str, Any] = dict.fromkeys(("FP16", "FP32", "FP64"), float("nan")) | {
    "INT64": int(np.iinfo(np.int64).min),
    "BYTES": "",
}

#: Format of an INT64 that is a moment: microseconds since 1970 in UTC; ISO 8601 texts are converted.
TIMESTAMP = "timestamp"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_WORDS = {"false": 0, "true": 1}


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: its name in the graph.
        datatype: in the protocol's words: FP32, INT64, UINT8, ..., BYTES (UTF-8 text).
        shape: the first axis is the batch; -1 is any length.
        description: for a person.
        range: least and greatest value seen in training, for numbers.
        labels: what the values of an output mean.
        format: how texts are read; ``timestamp`` is known.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    description: str = ""
    range: tuple[float, float] | None = None
    labels: tuple[Any, ...] | None = None
    format: str | None = None

    @property
    def is_column(self) -> bool:
        """Whether a row has a single value of it."""
        return self.shape in ((-1, 1), (-1,))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a model, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @cached_property
    def input_by_name(self) -> dict[str, Tensor]:
        """The inputs by their names."""
        return {tensor.name: tensor for tensor in self.inputs}

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; empty fields are left out."""

        def plain(tensor: Tensor) -> dict[str, Any]:
            return {key: value for key, value in asdict(tensor).items() if value not in (None, "")}

        return {"inputs": [plain(tensor) for tensor in self.inputs], "outputs": [plain(t) for t in self.outputs]}

    @staticmethod
    def read(path: Path) -> Signature:
        """Read ``signature.json``.

        Raises:
            IntegrityError: if it is not there, or not a signature.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return Signature(_tensors(raw["inputs"]), _tensors(raw["outputs"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                "a model needs a whole signature.json beside it", f"{path}: {error}", "fetch or build the bundle anew"
            ) from error

    def empty_outputs(self) -> list[np.ndarray]:
        """The answer to no rows: each output with a batch axis of length 0."""
        return [np.empty([max(size, 0) for size in t.shape], NUMPY[t.datatype]) for t in self.outputs]

    def tensors(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Turn raw columns into the graph's inputs; columns that the model does not read are ignored.

        Args:
            columns: name -> array [rows] or [rows, 1] of numbers, booleans or text, where the input is one value a row
                (None, NaN and empty text are missing); else an array of the input's own shape.

        Raises:
            DataRejected: naming every column that is absent, of another length, or not convertible.
        """
        problems = [f"{tensor.name}: not given" for tensor in self.inputs if tensor.name not in columns]
        result: dict[str, np.ndarray] = {}
        for tensor in self.inputs:
            if tensor.name in columns:
                try:
                    result[tensor.name] = _as_input(np.asarray(columns[tensor.name]), tensor)
                except (ValueError, TypeError, OverflowError) as error:
                    problems.append(f"{tensor.name}: {tensor.datatype} expected ({error})")
        lengths = {len(array) for array in result.values()}
        if len(lengths) > 1:
            problems.append(f"columns have different numbers of rows: {sorted(lengths)}")
        if problems:
            raise DataRejected(
                "rows must have the columns of the model's signature",
                "; ".join(problems),
                "give these columns: " + ", ".join(f"{t.name} ({t.datatype})" for t in self.inputs),
            )
        return result


def _tensors(raw: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
    def tuples(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    tensors = tuple(Tensor(**{key: tuples(value) for key, value in item.items()}) for item in raw)
    unknown = [tensor.datatype for tensor in tensors if tensor.datatype not in NUMPY]
    if unknown or not tensors:
        raise ValueError(f"unknown datatypes {unknown}" if unknown else "no tensors")
    return tensors


def _as_input(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    if not tensor.is_column:
        return _array(array, tensor)
    if tensor.format == TIMESTAMP and array.dtype.kind in "OUSM":
        array = _microseconds(array)
    column = _column(array, tensor.datatype)
    return column[:, 0] if tensor.shape == (-1,) else column


def _array(array: np.ndarray, tensor: Tensor) -> np.ndarray:
    """An array of the input's shape and datatype, if no value of it is changed by that."""
    wanted = tensor.shape
    same = array.ndim == len(wanted) and all(
        size in (-1, found) for size, found in zip(wanted[1:], array.shape[1:], strict=True)
    )
    if not same:
        shape = ", ".join("any" if size == -1 else str(size) for size in wanted)
        raise ValueError(f"shape [{shape}] expected, got {list(array.shape)}")
    if tensor.datatype == "BYTES":
        return _as_text(array.ravel()).reshape(array.shape)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"got {array.dtype}")
    dtype = np.dtype(NUMPY[tensor.datatype])
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype)
    if array.dtype != dtype:
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        fits = (np.trunc(array) == array) & (array >= low) & (array <= high)
        if not fits.all():
            raise ValueError("got fractions, or values out of range")
    return np.asarray(array, dtype)


def _microseconds(array: np.ndarray) -> np.ndarray:
    """ISO 8601 texts (no zone means UTC), or datetime64, as int64 microseconds since 1970."""
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        return np.where(missing, MISSING["INT64"], array.astype("datetime64[us]").astype(np.int64))
    return np.array([_moment(value) for value in array.ravel()], np.int64)


def _moment(value: Any) -> int:
    if _is_missing(value):
        return int(MISSING["INT64"])
    text = value if isinstance(value, datetime) else _text(value).strip()
    if isinstance(text, str) and re.fullmatch(r"[+-]?\d{9,}", text):  # microseconds, not a date such as 20130901
        return int(text)
    when = text if isinstance(text, datetime) else datetime.fromisoformat(text)
    when = when.replace(tzinfo=UTC) if when.tzinfo is None else when
    return (when - _EPOCH) // timedelta(microseconds=1)


def _column(array: np.ndarray, datatype: str) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"shape {array.shape}")
    if array.dtype.kind not in "OUSbiuf":
        raise ValueError(f"got {array.dtype}")
    if datatype == "BYTES":
        return _as_text(array)[:, None]
    if array.dtype.kind in "OUS":
        if datatype not in MISSING:
            raise ValueError(f"got {array.dtype}")
        missing, one = MISSING[datatype], _integer if datatype == "INT64" else float
        array = np.array([missing if _is_missing(value) else one(value) for value in array], NUMPY[datatype])
    if datatype == "INT64" and array.dtype.kind == "f":
        array = _whole_numbers(array)
    if datatype == "INT64" and array.dtype.kind == "u" and (array > np.uint64(np.iinfo(np.int64).max)).any():
        raise ValueError("beyond int64")
    with np.errstate(over="ignore"):  # beyond float32's range is infinity, which the graph answers like any extreme
        return array.astype(NUMPY[datatype])[:, None]


def _as_text(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "OUS":
        raise ValueError(f"got {array.dtype}")
    text = np.empty(len(array), np.object_)
    text[:] = ["" if _is_missing(value) else _text(value) for value in array]
    return text


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _integer(value: Any) -> int:
    """A whole number: an integer, a whole float, or a text of either; true and false, as CSV files have them."""
    if isinstance(value, (str, bytes)):
        text = _text(value).strip()
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        value = float(text) if "." in text or "e" in text.lower() else int(text)
    if value != int(value):
        raise ValueError("got fractions")
    return int(value)


def _whole_numbers(array: np.ndarray) -> np.ndarray:
    missing = np.isnan(array)
    known = array[~missing]
    if not np.equal(np.trunc(known), known).all():
        raise ValueError("got fractions")
    if (np.abs(known) >= 2.0**63).any():
        raise ValueError("beyond int64")
    result = np.full(len(array), MISSING["INT64"], np.int64)
    result[~missing] = known.astype(np.int64)
    return result


def _is_missing(value: Any) -> bool:
    return value is None or value in ("", b"") or (isinstance(value, float) and math.isnan(value))
