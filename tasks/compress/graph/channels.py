"""Where the channels that a layer writes go: to the layers that read them, through operators that do not mix them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx

from tasks.compress.graph.nodes import Layer, Wiring, attribute, reads

#: Operators that treat each channel by itself: for those that are left, they answer as before.
_ELEMENTWISE = (
    "Abs", "Add", "Cast", "Clip", "Div", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign",
    "Sqrt", "Sub", "Tanh",
)  # fmt: skip
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum")
_LAYERS = ("MatMul", "Gemm", "Conv")


class Unprunable(Exception):
    """Why a layer keeps its channels: no error, the layer is left alone."""


@dataclass
class Region:
    """What is cut when a layer loses channels.

    Attributes:
        count: how many channels there are.
        cuts: (node, input, axis): constants to be cut along an axis.
        ends: layers that read the channels, with the axis of their weight along which they do; among the cuts.
    """

    count: int
    cuts: list[tuple[onnx.NodeProto, int, int]] = field(default_factory=list)
    ends: list[tuple[Layer, int]] = field(default_factory=list)


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor -> number of axes, where a model with inferred shapes knows it."""
    graph = model.graph
    typed = (item for item in (*graph.value_info, *graph.input, *graph.output))
    return {
        item.name: len(item.type.tensor_type.shape.dim) for item in typed if item.type.tensor_type.HasField("shape")
    }


def region(wiring: Wiring, known_ranks: dict[str, int], layer: Layer) -> Region:
    """Follow a layer's channels.

    Raises:
        Unprunable: if anything but layers reads them in the end, or a constant on the way cannot be cut.
    """
    return _Follower(wiring, known_ranks).follow(layer)


class _Follower:
    def __init__(self, wiring: Wiring, known_ranks: dict[str, int]) -> None:
        self._wiring = wiring
        self._ranks = known_ranks
        #: Tensor -> which axis holds the channels.
        self._axis: dict[str, int] = {}

    def follow(self, layer: Layer) -> Region:
        found = self._start(layer)
        for node in self._wiring.graph.node:
            if not any(name in self._axis for name in reads(node)):
                continue
            if node.op_type in _LAYERS:
                self._end(found, node)
            elif node.domain in ("", "ai.onnx"):
                self._pass(found, node)
            else:
                raise _stop(node)
        if answers := self._wiring.outputs & self._axis.keys():
            raise Unprunable(f"its channels are the answer `{min(answers)}`")
        if not found.ends:
            raise Unprunable("no layer reads its channels")
        return found

    def _start(self, layer: Layer) -> Region:
        node, output = layer.node, layer.node.output[0]
        if node.op_type not in _LAYERS:
            raise Unprunable(f"{node.op_type} is not pruned")
        if node.op_type == "Conv":
            axis, self._axis[output] = 0, 1
            plain = attribute(node, "group", 1) == 1
        else:
            axis = 0 if attribute(node, "transB", 0) else 1
            self._axis[output] = self._rank(output) - 1
            plain = layer.index == 1 and len(layer.shape) == 2
        if not plain:
            raise Unprunable("its weight is grouped, batched or on the left")
        found = Region(layer.shape[axis], [(node, 1, axis)])
        if "".join(node.input[2:3]):
            self._cut_if_wide(found, node, 2, *((0, 1) if node.op_type == "Conv" else (1, 2)))
        return found

    def _end(self, found: Region, node: onnx.NodeProto) -> None:
        """A layer reads the channels: its weight is cut along its inputs."""
        name = node.input[0]
        if name not in self._axis or any(other in self._axis for other in node.input[1:]):
            raise _stop(node)
        axis, last = self._axis[name], self._rank(name) - 1
        if node.op_type == "Conv":
            plain = axis == 1 and attribute(node, "group", 1) == 1
            plain = plain and attribute(node, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
            inputs = 1
        else:
            plain = axis == last and not attribute(node, "transA", 0)
            plain = plain and {attribute(node, scale, 1.0) for scale in ("alpha", "beta")} == {1.0}
            inputs = 1 if attribute(node, "transB", 0) else 0
        layer = next((item for item in self._wiring.layers(_LAYERS) if item.name == node.name), None)
        if layer is None or not plain or layer.index != 1 or layer.shape[inputs : inputs + 1] != (found.count,):
            raise _stop(node)
        if node.op_type == "MatMul" and len(layer.shape) != 2:
            raise _stop(node)
        found.cuts.append((node, 1, inputs))
        found.ends.append((layer, inputs))

    def _pass(self, found: Region, node: onnx.NodeProto) -> None:
        """An operator that hands the channels on, or a stop."""
        found_in = [name for name in node.input if name in self._axis]
        if not found_in:  # a subgraph reads them
            raise _stop(node)
        (name, *others) = found_in
        axis, rank = self._axis[name], self._rank(name)
        kind = node.op_type
        if len([output for output in node.output if output]) != 1:
            raise _stop(node)
        if kind in _ELEMENTWISE and all((self._axis[item], self._rank(item)) == (axis, rank) for item in others):
            for at, item in enumerate(node.input):
                if item and item not in self._axis:
                    self._cut_if_wide(found, node, at, axis, rank)
        elif kind == "BatchNormalization" and axis == 1 and not attribute(node, "training_mode", 0):
            for at in range(1, 5):
                self._cut_if_wide(found, node, at, 0, 1)
        elif kind in _REDUCTIONS:
            axis -= self._reduced_before(node, axis, rank)
        elif not (kind in _POOLS and axis == 1) and not (kind == "Flatten" and axis == attribute(node, "axis", 1) == 1):
            raise _stop(node)
        self._axis[node.output[0]] = axis

    def _cut_if_wide(self, found: Region, node: onnx.NodeProto, at: int, axis: int, rank: int) -> None:
        """Cut a constant that has a value for each channel; one value for all stays."""
        tensor = self._wiring.constants.get(node.input[at])
        if tensor is None:
            raise _stop(node)
        shape = tuple(tensor.dims)
        own = axis - (rank - len(shape))  # constants are aligned with the last axis
        if math.prod(shape) == 1 or (own < 0 and len(shape) < rank) or (own >= 0 and shape[own] == 1):
            return
        if own < 0 or len(shape) > rank or shape[own] != found.count:
            raise _stop(node)
        found.cuts.append((node, at, own))

    def _reduced_before(self, node: onnx.NodeProto, axis: int, rank: int) -> int:
        """How many axes before the channels' a reduction takes away."""
        given = attribute(node, "axes", None)
        if given is None and len(node.input) > 1 and node.input[1] in self._wiring.constants:
            given = self._wiring.array(node.input[1])
        axes = {int(item) % rank for item in np.ravel(given)} if given is not None else set(range(rank))
        if axis in axes or 0 in axes:
            raise _stop(node)
        return 0 if attribute(node, "keepdims", 1) else sum(item < axis for item in axes)

    def _rank(self, name: str) -> int:
        if name not in self._ranks:
            raise Unprunable(f"the shape of `{name}` is not known")
        return self._ranks[name]


def _stop(node: onnx.NodeProto) -> Unprunable:
    return Unprunable(f"{node.op_type} `{node.name}` reads its channels in a way that keeps them together")
