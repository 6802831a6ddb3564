"""What can be read off a model file without running it: parameters, multiplications, bytes on a wire."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import onnx
from onnx import shape_inference


def compressed_bytes(path: Path) -> int:
    """Size after zlib's strongest compression: what zeros are worth on a wire or in an archive."""
    return len(zlib.compress(path.read_bytes(), 9))


def parameters(core: onnx.ModelProto) -> int:
    """Values in the initializers of a float core."""
    return sum(math.prod(tensor.dims) for tensor in core.graph.initializer)


def macs(core: onnx.ModelProto) -> int | None:
    """Multiply-accumulate operations of a row in the convolutions and matrix products of a float core.

    None where a shape is not known: of an axis of free length, for example.
    """
    model = onnx.ModelProto()
    model.CopyFrom(core)
    for item in model.graph.input:
        if item.type.tensor_type.shape.dim:
            item.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]
    for item in model.graph.output:
        item.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            counted = _products(node, shapes)
            if counted is None:
                return None
            total += counted
    return total


def _products(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | None:
    left, right, out = (shapes.get(name, []) for name in (node.input[0], node.input[1], node.output[0]))
    if not left or not right or not out or 0 in (*left, *right, *out):
        return None
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(right[1:])
    transposed = node.op_type == "Gemm" and any(item.name == "transA" and item.i for item in node.attribute)
    return math.prod(out) * (left[0] if transposed else left[-1])
