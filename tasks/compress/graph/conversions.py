"""Fewer conversions between bytes and floats around quantized layers: in a small network they cost more than these.

- A layer before a ReLU is rounded once, after it, and not before it as well.
- Averages over all places stay in bytes.
- What only a softmax or a sigmoid reads is not rounded.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph.nodes import Wiring, attribute, copied, keep

#: Between a layer and the average over its places.
_PASSES = ("Add", "Relu")
_SQUASHES = ("LogSoftmax", "Sigmoid", "Softmax")


def pooled(model: onnx.ModelProto) -> onnx.ModelProto:
    """Averages over all places as GlobalAveragePool, which runtimes have in bytes; ReduceMean they have not."""
    model = onnx.shape_inference.infer_shapes(copied(model))
    wiring = Wiring(model.graph)
    nodes: list[onnx.NodeProto] = []
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in model.graph.value_info}
    for node in model.graph.node:
        nodes += _pool(wiring, node, ranks.get(node.input[0], 0)) if node.op_type == "ReduceMean" else [node]
    keep(model.graph.node, nodes)
    return onnx.shape_inference.infer_shapes(model)


def _pool(wiring: Wiring, node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    axes = node.input[1] if len(node.input) > 1 else ""
    if rank < 3 or axes not in wiring.constants:  # (before opset 18 the axes were an attribute: left as it is)
        return [node]
    if sorted(int(axis) % rank for axis in wiring.array(axes)) != list(range(2, rank)):
        return [node]
    if attribute(node, "keepdims", 1):
        return [helper.make_node("GlobalAveragePool", node.input[:1], node.output, node.name)]
    inner = f"{node.output[0]}/pooled"
    return [
        helper.make_node("GlobalAveragePool", node.input[:1], [inner], node.name),
        helper.make_node("Squeeze", [inner, axes], node.output, f"{node.name}/squeeze"),
    ]


def pools_of(model: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """Names of the averages, and of the moves after them, all of whose values these quantized layers write or read."""
    wiring = Wiring(model.graph)
    found = []
    for node in model.graph.node:
        if node.op_type == "GlobalAveragePool" and _in_bytes(wiring, node.input[0], layers):
            found.append(node.name)
            found += [item.name for item in wiring.readers.get(node.output[0], []) if item.op_type == "Squeeze"]
    return found


def _in_bytes(wiring: Wiring, name: str, layers: Collection[str]) -> bool:
    node = wiring.writer.get(name)
    if node is None or any(reader.name in layers for reader in wiring.readers[name]):
        return node is not None
    if node.op_type in _PASSES:
        return all(_in_bytes(wiring, item, layers) for item in node.input)
    return node.op_type == "Conv" and node.name in layers


def fewer(model: onnx.ModelProto) -> onnx.ModelProto:
    """A quantized model (QDQ, changed in place) without the roundings that only cost time and precision."""
    wiring = Wiring(model.graph)
    spare: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Relu" and _clipped_by_rounding(wiring, node):
            spare |= _unrounded(wiring, node, ("Conv", "MatMul", "Gemm"))
        elif node.op_type in _SQUASHES:
            spare |= _unrounded(wiring, node, ("MatMul", "Gemm"))
    keep(model.graph.node, [node for node in model.graph.node if node.output[0] not in spare])
    return model


def _clipped_by_rounding(wiring: Wiring, relu: onnx.NodeProto) -> bool:
    """Whether the bytes that a ReLU is rounded to begin at zero: then a runtime needs no ReLU, and joins the layer."""
    readers = wiring.readers.get(relu.output[0], [])
    zeros = {node.input[2] if node.op_type == "QuantizeLinear" and len(node.input) > 2 else "" for node in readers}
    values = [wiring.array(name) for name in zeros if name in wiring.constants]
    return len(values) == len(zeros) > 0 and all((zero == np.iinfo(zero.dtype).min).all() for zero in values)


def _unrounded(wiring: Wiring, node: onnx.NodeProto, writers: Collection[str]) -> set[str]:
    """Let a node read what a layer wrote before it was rounded; the tensors of the two conversions are left over."""
    back = wiring.writer.get(node.input[0])
    if back is None or back.op_type != "DequantizeLinear" or _only_reader(wiring, back.output[0]) is not node:
        return set()
    there = wiring.writer.get(back.input[0])
    if there is None or there.op_type != "QuantizeLinear" or _only_reader(wiring, there.output[0]) is not back:
        return set()
    layer = wiring.writer.get(there.input[0])
    if layer is None or layer.op_type not in writers or _only_reader(wiring, there.input[0]) is not there:
        return set()
    node.input[0] = layer.output[0]
    return {there.output[0], back.output[0]}


def _only_reader(wiring: Wiring, name: str) -> onnx.NodeProto | None:
    """The one node that reads a tensor, once, if it is no answer."""
    readers = wiring.readers.get(name, [])
    alone = len(readers) == 1 and name not in wiring.outputs and list(readers[0].input).count(name) == 1
    return readers[0] if alone else None
