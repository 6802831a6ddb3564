"""ONNX files as somebody else's tools would leave them, for the rows of worlds.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: The tiny world's numeric columns, in file order.
FEATURES = ("distance", "pressure", "seats", "route", "holiday", "constant")
_CENTER = np.array([[1000, 1013, 200, 15, 0, 3]], np.float32)
_SCALE = np.array([[200, 9, 100, 10, 1, 1]], np.float32)


def network(last: str = "Sigmoid", outputs: int = 1, double: bool = False, opset: int = 18) -> onnx.ModelProto:
    """[N, 6] features, NaN where missing -> "score" [N, outputs]: nearly the standardised distance, through 64 x 64.

    ``last`` is the operator at the end: Sigmoid, Softmax, or Identity for logits.
    """
    kind, random = np.float64 if double else np.float32, np.random.default_rng(1)
    first = random.normal(0, 0.005, (len(FEATURES), 64))
    first[0, :2] = (1, -1)
    middle = np.eye(64) + random.normal(0, 0.01, (64, 64))
    end = random.normal(0, 0.005, (64, outputs))
    end[:2, -1] = (1.5, -1.5)
    weights = {"center": _CENTER, "scale": _SCALE, "first": first, "middle": middle, "end": end, "zero": np.zeros(())}
    nodes = [
        helper.make_node("Sub", ["features", "center"], ["moved"]),
        helper.make_node("Div", ["moved", "scale"], ["scaled"]),
        helper.make_node("IsNaN", ["scaled"], ["absent"]),
        helper.make_node("Where", ["absent", "zero", "scaled"], ["known"]),
        helper.make_node("MatMul", ["known", "first"], ["a"], "first_layer"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "middle"], ["c"], "middle_layer"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "end"], ["e"], "last_layer"),
        helper.make_node(last, ["e"], ["score"]),
    ]
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    initializers = [numpy_helper.from_array(np.asarray(value, kind), name) for name, value in weights.items()]
    return model(nodes, {"features": (element, ["N", 6])}, {"score": (element, ["N", outputs])}, initializers, opset)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    initializers: list[onnx.TensorProto] | None = None,
    opset: int = 18,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    """A whole model of the nodes."""
    graph = helper.make_graph(
        nodes,
        "theirs",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        initializers or [],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="theirs")


def save(found: onnx.ModelProto, path: Path) -> Path:
    """Write a model."""
    onnx.save(found, path)
    return path
