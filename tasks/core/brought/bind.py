"""Which data feeds which input of a graph: by name, or without one where there is only one way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

#: Element type -> datatype in the words of the Open Inference Protocol.
DATATYPES: Mapping[int, str] = {
    TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8", TensorProto.INT8: "INT8", TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64", TensorProto.FLOAT16: "FP16", TensorProto.FLOAT: "FP32", TensorProto.DOUBLE: "FP64",
    TensorProto.STRING: "BYTES",
}  # fmt: skip
FLOATS = ("FP16", "FP32", "FP64")
#: Column types that a datatype takes.
_TAKES = dict.fromkeys(FLOATS, ("float64", "int64", "bool")) | {"BYTES": ("string",), "BOOL": ("bool",)}
_INTEGERS = ("int64", "bool")
_NUMERIC = ("float64", "int64", "bool")


@dataclass(frozen=True)
class Input:
    """One input of the graph and its data.

    Attributes:
        name: in the graph.
        datatype: in the words of the protocol.
        shape: the first axis is the batch; -1 is any length.
        columns: the columns that feed it: one, or those that are packed side by side.
        stored: ``dtype`` and ``shape`` of the column's arrays, if it holds arrays.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    stored: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Value:
    """An input or output as the graph declares it; ``shape`` None if it says nothing, ``datatype`` "" if unknown."""

    name: str
    datatype: str
    shape: tuple[int, ...] | None


def declared(info: onnx.ValueInfoProto) -> Value:
    """What a graph says of a value; -1 stands for a symbolic or unknown length."""
    kind = info.type.tensor_type if info.type.HasField("tensor_type") else None
    if kind is None:
        return Value(info.name, "", None)
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
    return Value(info.name, DATATYPES.get(kind.elem_type, ""), tuple(dims) if kind.HasField("shape") else None)


def fed(model: onnx.ModelProto) -> list[Value]:
    """The inputs that need data: those without a value of their own."""
    own = {tensor.name for tensor in model.graph.initializer}
    return [declared(info) for info in model.graph.input if info.name not in own]


def bind(inputs: Sequence[Value], facts: Mapping[str, Any], dropped: Sequence[str]) -> tuple[list[Input], list[str]]:
    """The data of every input, and what is wrong with it, all of it.

    Args:
        inputs: of the graph.
        facts: of `validate`, with the columns in file order.
        dropped: columns that the model must not see.
    """
    split = facts["split"]
    hidden = {facts["target"], facts["time_column"], split.get("column"), split.get("group"), *dropped} - {None}
    columns = {name: kind for name, kind in facts["columns"].items() if name not in hidden}
    tensors = {name: tensor for name, tensor in facts["tensors"].items() if name not in hidden}
    named = {value.name for value in inputs}
    packed = tuple(name for name, kind in columns.items() if kind in _NUMERIC and name not in named)
    nameless = [value for value in inputs if value.name not in columns and value.name not in tensors]
    found, problems = [], []
    for value in inputs:
        if trouble := _unusable(value):
            problems.append(trouble)
            continue
        if value.name in tensors or (len(inputs) == len(tensors) == 1 and nameless):
            source = value.name if value.name in tensors else next(iter(tensors))
            item, trouble = _tensor(value, source, tensors[source])
        elif value.name in columns:
            item, trouble = _column(value, columns[value.name])
        else:
            item, trouble = _packed(value, packed, alone=len(nameless) == 1)
        found.append(item)
        problems += [f"input `{value.name}`: {trouble}"] if trouble else []
    return found, problems


def _unusable(value: Value) -> str:
    if not value.datatype or not value.shape:
        return f"input `{value.name}` must be a tensor of numbers or texts with a batch axis"
    if value.shape[0] != -1:
        return (
            f"input `{value.name}` takes exactly {value.shape[0]} rows at a time "
            "(export the model with a symbolic first axis)"
        )
    return ""


def _tensor(value: Value, source: str, stored: Mapping[str, Any]) -> tuple[Input, str]:
    shape, dtype = value.shape or (), str(stored["dtype"])
    item = Input(value.name, value.datatype, shape, (source,), {"dtype": dtype, "shape": list(stored["shape"])})
    have = tuple(stored["shape"])
    fits = len(have) + 1 == len(shape) and all(want in (-1, size) for want, size in zip(shape[1:], have, strict=True))
    if not fits:
        return item, f"takes {_axes(shape)}, and `{source}` holds {_axes((-1, *have))}"
    if value.datatype == "BYTES" or (value.datatype not in FLOATS and dtype.startswith("float")):
        return item, f"takes {value.datatype}, and `{source}` holds {dtype}"
    return item, ""


def _column(value: Value, kind: str) -> tuple[Input, str]:
    shape = value.shape or ()
    item = Input(value.name, value.datatype, tuple(shape[:1]) + (1,) * (len(shape) - 1), (value.name,))
    if len(shape) > 2 or shape[1:] not in ((), (1,), (-1,)):
        return item, f"takes {_axes(shape)}, and the column has one value a row"
    if kind not in _TAKES.get(value.datatype, _INTEGERS):
        return item, f"takes {value.datatype}, and the column is {kind}"
    return item, ""


def _packed(value: Value, names: tuple[str, ...], alone: bool) -> tuple[Input, str]:
    shape = value.shape or ()
    item = Input(value.name, value.datatype, (-1, len(names)), names)
    if not alone or value.datatype not in FLOATS or len(shape) != 2:
        return item, "no data of that name (rename the input or the column)"
    if not names:
        return item, "no data of that name, and no numeric column to give it"
    if shape[1] not in (-1, len(names)):
        listed = ", ".join(names[:40])
        return (
            item,
            f"takes {shape[1]} features, and there are {len(names)} numeric columns: {listed} (see tune.features.drop)",
        )
    return item, ""


def _axes(shape: Sequence[int]) -> str:
    return "[" + ", ".join("any" if size == -1 else str(size) for size in shape) + "]"


def numpy_type(datatype: str) -> np.dtype[Any]:
    """The dtype of a datatype's arrays."""
    names = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"}
    return np.dtype(names.get(datatype, datatype.lower()))
