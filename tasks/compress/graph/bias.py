"""Bias correction: quantization shifts a layer's mean answer; the shift is measured and taken off the bias.

Empirical bias correction, after Nagel, van Baalen, Blankevoort, Welling: Data-Free Quantization Through Weight
Equalization and Bias Correction, ICCV 2019, section 4.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from tasks.compress.graph import rows as feeding
from tasks.compress.graph.nodes import Wiring, attribute, copied

#: Rows that a mean is taken over, and as many to judge with.
_ROWS = 64


@dataclass(frozen=True)
class _Bias:
    """A layer's bias in the quantized graph: the constant, and its scale if it is int32 (else None)."""

    tensor: str
    scale: np.ndarray | None


def corrected(
    original: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[str], rows: feeding.Rows
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Correct the layers one by one from the inputs on, each after those before it.

    Learnt on one half of the rows, and kept only if the answers' error on the other half gets smaller.

    Args:
        original: the float model; a node has the same name in both.
        quantized: its QDQ form.
        layers: names of nodes to correct; those without a bias are passed over.
        rows: calibration rows.

    Returns:
        The better model, and a report: ``corrected`` layers, and the relative error ``before`` and ``after``.
    """
    learn, judge = feeding.halves(feeding.some(rows, 2 * _ROWS))
    model = copied(quantized)
    wiring = Wiring(model.graph)
    nodes = {node.name: node for node in model.graph.node}
    biases = {name: bias for name in layers if (bias := _bias(wiring, nodes[name]))}
    judged = feeding.judged(original)
    if not biases or not judged:
        reason = "no quantized layer has a bias of its own" if judged else "no answer measures an error"
        return quantized, {"corrected": [], "nothing": reason}
    wanted = _means(original, learn, [node for node in original.graph.node if node.name in biases])
    for name, bias in biases.items():
        _take_off(wiring, bias, _means(model, learn, [nodes[name]])[name] - wanted[name])
    expected = feeding.observe(original, judge, judged)
    before, after = (
        feeding.error(expected, feeding.observe(candidate, judge, feeding.judged(candidate)))
        for candidate in (quantized, model)
    )
    better = after < before
    report = {"corrected": list(biases) if better else [], "before": before, "after": after}
    return (model if better else quantized), report


def _means(model: onnx.ModelProto, rows: feeding.Rows, nodes: Sequence[onnx.NodeProto]) -> dict[str, np.ndarray]:
    """Node -> mean of its output by channel, each [channels]."""
    parts: dict[str, list[np.ndarray]] = {node.name: [] for node in nodes}
    for values in feeding.watch(model, rows, [node.output[0] for node in nodes]):
        for node, value in zip(nodes, values, strict=True):
            flat = np.moveaxis(value, 1 if node.op_type == "Conv" else -1, -1)
            parts[node.name].append(flat.reshape(len(flat), -1, flat.shape[-1]).mean(axis=1, dtype=np.float64))
    return {name: np.concatenate(part).mean(axis=0) for name, part in parts.items()}


def _bias(wiring: Wiring, node: onnx.NodeProto) -> _Bias | None:
    """The bias of a layer that is its alone, or None."""
    name = _added(wiring, node) if node.op_type == "MatMul" else "".join(node.input[2:3])
    if attribute(node, "beta", 1.0) != 1.0 or wiring.shared(name):
        return None
    if name in wiring.constants:
        return _Bias(name, None)
    writer = wiring.writer.get(name)
    if writer is None or writer.op_type != "DequantizeLinear" or writer.input[0] not in wiring.constants:
        return None
    return _Bias(writer.input[0], wiring.array(writer.input[1])) if not wiring.shared(writer.input[0]) else None


def _added(wiring: Wiring, node: onnx.NodeProto) -> str:
    """The constant that is added to a product, conversions between them or not; "" if there is none."""
    name = node.output[0]
    while len(readers := wiring.readers.get(name, [])) == 1:
        (reader,) = readers
        if reader.op_type == "Add":
            return next((other for other in reader.input if other in wiring.constants), "")
        if reader.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            break
        name = reader.output[0]
    return ""


def _take_off(wiring: Wiring, bias: _Bias, shift: np.ndarray) -> None:
    """Subtract ``shift`` [channels] from a bias of as many values; one value for all channels stays as it is."""
    values = wiring.array(bias.tensor)
    if values.size != shift.size:
        return
    shift = shift.reshape(values.shape)
    if bias.scale is None:
        wiring.put(bias.tensor, (values - shift).astype(values.dtype))
    else:
        limits = np.iinfo(values.dtype)
        steps = np.rint(values - shift / np.maximum(bias.scale, np.finfo(np.float32).tiny))
        wiring.put(bias.tensor, np.clip(steps, limits.min, limits.max).astype(values.dtype))
