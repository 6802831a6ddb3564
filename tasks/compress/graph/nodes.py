"""A graph opened for treatment: constants in one place, every node named, and who reads what."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tasks.core.errors import UsageError

#: The first opset that scales each channel of a weight by itself.
OPSET = 13
#: The first IR version whose initializers need not be inputs.
_IR = 4
#: Operators with weights, and where they take them.
_WEIGHTS = {"MatMul": (1, 0), "Gemm": (1,), "Conv": (1,), "ConvTranspose": (1,), "Gather": (0,)}
#: Below this many weights the conversions around an operator cost more than its quantized form saves.
LEAST_WEIGHTS = 1024
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Layer:
    """A node with a constant float weight.

    Attributes:
        node: the node.
        weight: name of the weight's initializer.
        index: which input of the node it is.
        shape: the weight's.
    """

    node: onnx.NodeProto
    weight: str
    index: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def size(self) -> int:
        """How many weights."""
        return math.prod(self.shape)


class Wiring:
    """Who writes and who reads each tensor of a graph (a node reads what its subgraphs read)."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {item.name for item in graph.output}
        self.writer: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output if name}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(reads(node)):
                self.readers.setdefault(name, []).append(node)

    def array(self, name: str) -> np.ndarray:
        """The values of a constant (a copy)."""
        return np.array(numpy_helper.to_array(self.constants[name]))

    def put(self, name: str, values: np.ndarray) -> None:
        """Set a constant, new or not, to values of its dtype and any shape."""
        if name not in self.constants:
            self.constants[name] = self.graph.initializer.add()
        self.constants[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))

    def layers(self, operators: Collection[str] = tuple(_WEIGHTS)) -> list[Layer]:
        """Nodes of these operators that have a constant float weight, in the graph's order."""
        found = []
        for node in self.graph.node:
            if node.op_type not in operators or node.domain not in ("", "ai.onnx"):
                continue
            for index in _WEIGHTS[node.op_type]:
                tensor = self.constants.get(node.input[index])
                if tensor is not None and tensor.data_type in FLOATS:
                    found.append(Layer(node, tensor.name, index, tuple(tensor.dims)))
                    break
        return found

    def shared(self, name: str) -> bool:
        """Whether a constant is read more than once, or is itself an answer."""
        times = sum(list(reads(node)).count(name) for node in self.readers.get(name, []))
        return times > 1 or name in self.outputs


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those inside its subgraphs among them."""
    yield from (name for name in node.input if name)
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from reads(inner)
        yield from (item.name for item in graph.output)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of an attribute, or the default."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that a model is written in; 1 if it uses none."""
    return next((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def opened(core: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in opset 13 or later, its constants all initializers, every node with a name of its own.

    Raises:
        UsageError: if the opset is older and cannot be raised, or a weight is NaN or infinite.
    """
    model = _recent(core)
    model.ir_version = max(model.ir_version, _IR)
    graph = model.graph
    _constants_to_initializers(graph)
    constant = {tensor.name for tensor in graph.initializer}
    keep(graph.input, [item for item in graph.input if item.name not in constant])
    taken: set[str] = set()
    for number, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_{len(taken)}"
        taken.add(node.name)
    _finite(graph)
    return model


def _recent(core: onnx.ModelProto) -> onnx.ModelProto:
    version = opset(core)
    if version >= OPSET or all(node.domain not in ("", "ai.onnx") for node in core.graph.node):
        return copied(core)
    from onnx import version_converter

    try:
        found: onnx.ModelProto = version_converter.convert_version(core, OPSET)
    except Exception as error:  # the converter raises several types, all meaning "cannot"
        raise UsageError(
            f"compression needs opset {OPSET} or one that can be raised to it",
            f"opset {version}: {str(error)[:300]}",
            "export the model anew with a later opset, or leave out this method",
        ) from error
    return found


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        tensor = _value(node) if node.op_type == "Constant" and node.domain in ("", "ai.onnx") else None
        if tensor is None or node.output[0] in {item.name for item in graph.output}:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    keep(graph.node, kept)


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The tensor of a Constant node, or None for texts and sparse ones."""
    item = node.attribute[0]
    if item.name == "value":
        tensor: onnx.TensorProto = item.t
        return tensor
    value = helper.get_attribute_value(item)
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    return numpy_helper.from_array(np.array(value, kinds[item.name])) if item.name in kinds else None


def _finite(graph: onnx.GraphProto) -> None:
    for layer in Wiring(graph).layers():
        values = numpy_helper.to_array(next(item for item in graph.initializer if item.name == layer.weight))
        if not np.isfinite(np.asarray(values, np.float32)).all():
            raise UsageError(
                "weights are finite numbers",
                f"`{layer.weight}` of {layer.node.op_type} `{layer.name}` holds NaN or infinity",
                "train or export the model anew",
            )


def keep(field: Any, kept: Iterable[Any]) -> None:
    """Replace the items of a repeated field."""
    items = list(kept)
    del field[:]
    field.extend(items)
