"""Small networks as ONNX graphs, and rows for them, for the tests of compression."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def node(kind: str, inputs: str, output: str, **settings: Any) -> onnx.NodeProto:
    """A node named as its output; ``inputs`` are separated by blanks."""
    return helper.make_node(kind, inputs.split(), output.split(), output.split(maxsplit=1)[0], **settings)


def model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, np.ndarray],
    opset: int = 18,
) -> onnx.ModelProto:
    """A checked model, IR 10."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    domains = {item.domain for item in nodes} - {""}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    found = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(found)
    return found


def mlp(opset: int = 18, hidden: int = 64, batch: int | str = "N") -> onnx.ModelProto:
    """x [N, 16] -> y [N, 4] through two hidden layers, the first a Gemm, the second MatMul and Add."""
    return model(
        [
            node("Gemm", "x w1 b1", "first", transB=1),
            node("Relu", "first", "a"),
            node("MatMul", "a w2", "second"),
            node("Add", "second b2", "biased"),
            node("Sigmoid", "biased", "b"),
            node("Gemm", "b w3 b3", "y"),
        ],
        {"x": (FLOAT, [batch, 16])},
        {"y": (FLOAT, [batch, 4])},
        {
            "w1": normal(hidden, 16, scale=0.3), "b1": normal(hidden), "w2": normal(hidden, hidden, seed=1, scale=0.2),
            "b2": normal(hidden, seed=2), "w3": normal(hidden, 4, seed=3), "b3": normal(4, seed=4),
        },
        opset,
    )  # fmt: skip


def cnn() -> onnx.ModelProto:
    """x [N, 3, 8, 8] -> y [N, 5]: a convolution with its batch norm, a residual block, mean over pixels, Gemm."""
    weights = {
        "w0": normal(16, 3, 3, 3, scale=0.3), "w1": normal(24, 16, 3, 3, seed=1, scale=0.1), "b1": normal(24, seed=2),
        "w2": normal(16, 24, 3, 3, seed=3, scale=0.1), "b2": normal(16, seed=4), "scale": 1 + normal(16, scale=0.1),
        "shift": normal(16, seed=5), "mean": normal(16, seed=6), "variance": np.full(16, 2, np.float32),
        "head": normal(16, 5, seed=7), "bias": normal(5, seed=8), "axes": np.array([2, 3], np.int64),
    }  # fmt: skip
    same: dict[str, Any] = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return model(
        [
            node("Conv", "x w0", "stem", **same),
            node("BatchNormalization", "stem scale shift mean variance", "normed"),
            node("Relu", "normed", "a"),
            node("Conv", "a w1 b1", "inner", **same),
            node("Relu", "inner", "b"),
            node("Conv", "b w2 b2", "outer", **same),
            node("Add", "outer a", "sum"),
            node("Relu", "sum", "c"),
            node("ReduceMean", "c axes", "pooled", keepdims=0),
            node("Gemm", "pooled head bias", "y"),
        ],
        {"x": (FLOAT, ["N", 3, 8, 8])},
        {"y": (FLOAT, ["N", 5])},
        weights,
    )


def recommender() -> onnx.ModelProto:
    """items [N, 3] -> the 5 best of 100: a table, its rows' mean, a product with all columns, TopK."""
    return model(
        [
            node("Gather", "table items", "rows"),
            node("ReduceMean", "rows one", "mean", keepdims=0),
            node("MatMul", "mean columns", "scores"),
            node("TopK", "scores five", "best places"),
        ],
        {"items": (INT64, ["N", 3])},
        {"places": (INT64, ["N", 5])},
        {
            "table": normal(100, 32), "columns": normal(32, 100, seed=1), "one": np.array([1]), "five": np.array([5]),
        },
    )  # fmt: skip


def outlying() -> onnx.ModelProto:
    """x [N, 32] -> y [N, 8] through a layer norm that makes two channels 50 times as wide as the others."""
    scale = np.ones(32, np.float32)
    scale[[3, 20]] = 50
    return model(
        [
            node("LayerNormalization", "x scale shift", "normed"),
            node("MatMul", "normed w1", "first"),
            node("Relu", "first", "a"),
            node("Gemm", "a w2", "y"),
        ],
        {"x": (FLOAT, ["N", 32])},
        {"y": (FLOAT, ["N", 8])},
        {
            "scale": scale, "shift": normal(32, seed=1, scale=0.1), "w2": normal(128, 8, seed=3, scale=0.1),
            "w1": normal(32, 128, seed=2) / scale[:, None],
        },
    )  # fmt: skip


def rows(core: onnx.ModelProto, count: int = 64, seed: int = 9) -> dict[str, np.ndarray]:
    """Random rows for a model's inputs; integers below 100."""
    random = np.random.default_rng(seed)
    found = {}
    for item in core.graph.input:
        shape = [dim.dim_value for dim in item.type.tensor_type.shape.dim[1:]]
        whole = item.type.tensor_type.elem_type == INT64
        values = random.integers(0, 100, (count, *shape)) if whole else random.normal(size=(count, *shape))
        found[item.name] = values.astype(np.int64 if whole else np.float32)
    return found
