"""MatMul and Gemm seen as one: activation times matrix, plus a bias."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph.nodes import Wiring, attribute


def plain(node: onnx.NodeProto) -> bool:
    """Whether a MatMul or Gemm neither transposes its activation nor scales anything."""
    scales = {attribute(node, name, 1.0) for name in ("alpha", "beta")}
    return scales == {1.0} and not attribute(node, "transA", 0)


def inputs_axis(node: onnx.NodeProto) -> int:
    """The axis of the right-hand matrix along which it is summed."""
    return 1 if attribute(node, "transB", 0) else 0


def matrix(wiring: Wiring, node: onnx.NodeProto) -> np.ndarray:
    """The constant right-hand matrix, [inputs, outputs]."""
    values = wiring.array(node.input[1])
    return values.T if inputs_axis(node) else values


def with_bias(node: onnx.NodeProto, product: Callable[[str], onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The node of a product, given the name to write to, and an Add after it if ``node`` is a Gemm with a bias."""
    if len(node.input) < 3 or not node.input[2]:
        return [product(node.output[0])]
    inner = f"{node.output[0]}:product"
    return [product(inner), helper.make_node("Add", [inner, node.input[2]], [node.output[0]], f"{node.name}:bias")]
