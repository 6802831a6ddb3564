"""int8 by dynamic quantization: weights in the file, activations measured at every call; needs no calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph import Treated
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import LEAST_WEIGHTS, Layer, Wiring, copied, keep
from tasks.compress.graph.products import matrix, plain, with_bias
from tasks.compress.graph.static import prepare
from tasks.compress.graph.weights import treat
from tasks.core import devices

#: ConvInteger is slower than Conv.
_OPERATORS = ("MatMul", "Gemm")


def quantize(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray] | None = None) -> Treated:  # noqa: ARG001
    """Quantize MatMul and Gemm with a constant right-hand matrix, and store tables as ``int8_weights`` does.

    ``calibration`` is not needed.

    Raises:
        UsageError: if weights are not finite.
    """
    model = prepare(core)
    kept = dict(filter(None, map(_left_in_float, Wiring(model.graph).layers())))
    fit = [layer.name for layer in Wiring(model.graph).layers() if layer.name not in kept]
    tables, _ = treat(model, ("Gather",), bits=8)
    report: dict[str, Any] = {"quantized": fit + tables, "kept": {key: kept[key] for key in kept if key not in tables}}
    if not fit:
        return Treated(copied(core), report | {"quantized": [], "nothing": "no layer is worth it or can be quantized"})
    model = _quantized(model, fit)
    return Treated(compact(model), report | {"reduced_range": not devices.has_vnni()})


def _quantized(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _split_gemms(model, names)
    with tempfile.TemporaryDirectory() as folder, feeding.quiet():
        given, result = Path(folder) / "given.onnx", Path(folder) / "result.onnx"
        onnx.save(model, given)
        quantize_dynamic(
            given,
            result,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=not devices.has_vnni(),
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(names),
            extra_options={"MatMulConstBOnly": True},
        )
        found: onnx.ModelProto = onnx.load(result)
    return found


def _left_in_float(layer: Layer) -> tuple[str, str] | None:
    """A layer's name and why it stays float, or None if it does not."""
    node = layer.node
    reasons = {
        f"{node.op_type} is not quantized dynamically": node.op_type not in _OPERATORS,
        "the constant is on the left": node.op_type == "MatMul" and layer.index != 1,
        "batched weights lack a per-channel kernel": len(layer.shape) != 2,
        "it is transposed or scaled": not plain(node),
        f"{layer.size} weights are too few to be worth it": layer.size < LEAST_WEIGHTS,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    return (layer.name, reason) if reason else None


def _split_gemms(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Write Gemm as MatMul and Add: only these have a dynamic form."""
    wiring = Wiring(model.graph)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Gemm" or node.name not in names:
            nodes.append(node)
            continue
        weight = f"{node.name}:weight"
        wiring.put(weight, matrix(wiring, node))
        nodes += with_bias(node, partial(_product, node.input[0], weight, node.name))
    keep(model.graph.node, nodes)


def _product(read: str, weight: str, name: str, to: str) -> onnx.NodeProto:
    return helper.make_node("MatMul", [read, weight], [to], name)
