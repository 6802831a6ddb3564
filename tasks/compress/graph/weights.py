"""Weight-only quantization: int8 or int4 matrices and tables in the file, float activations."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph import Treated
from tasks.compress.graph.compact import compact
from tasks.compress.graph.fuse import fused
from tasks.compress.graph.nodes import LEAST_WEIGHTS, Layer, Wiring, attribute, copied, keep
from tasks.compress.graph.products import matrix, plain, with_bias

_CONTRIB = "com.microsoft"
#: Integer arithmetic in MatMulNBits: the activations of a call get int8 scales of their own.
_INT8_ACCURACY = 4
#: Shares of the range that a block's scale may cover: cutting off the extreme often costs less than coarse steps.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)

Bits = Literal[4, 8]


def quantize(
    core: onnx.ModelProto,
    calibration: Mapping[str, np.ndarray] | None = None,  # noqa: ARG001
    *,
    bits: Bits = 8,
    block: int = 32,
) -> Treated:
    """Quantize the constant right-hand matrices of MatMul and Gemm, and the tables of Gather; no calibration needed.

    8 bits: one scale a column, in ONNX's own operators; a table's rows are gathered first and scaled then.
    4 bits: one scale for each ``block`` weights of a column (of a table's row), in onnxruntime's MatMulNBits and
    GatherBlockQuantized, whose CPU kernels run in any opset.

    Args:
        core: float network.
        calibration: not needed.
        bits: of a weight.
        block: weights that share a scale at 4 bits; a power of two of at least 16.

    Raises:
        UsageError: if weights are not finite.
    """
    model = fused(core)
    done, kept = treat(model, ("MatMul", "Gemm", "Gather"), bits, block)
    report = {"quantized": done, "kept": kept, "bits": bits}
    if not done:
        return Treated(copied(core), report | {"nothing": "no matrix or table is worth it or can be quantized"})
    return Treated(compact(model), report)


def treat(
    model: onnx.ModelProto, operators: Collection[str], bits: Bits, block: int = 32
) -> tuple[list[str], dict[str, str]]:
    """Quantize the layers of some operators in a model of named nodes, in place.

    Returns:
        Names of the layers treated, and layer -> reason for those that were not.
    """
    wiring = Wiring(model.graph)
    layers = wiring.layers()
    kept = {layer.name: reason for layer in layers if (reason := _reason(wiring, layer, operators, bits))}
    done = {layer.name: layer for layer in layers if layer.name not in kept}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        way = _WAYS[bits, "Gather" if node.op_type == "Gather" else "MatMul"]
        nodes.extend(way(wiring, done[node.name], block) if node.name in done else [node])
    keep(model.graph.node, nodes)
    _declare(model)
    return list(done), kept


def _declare(model: onnx.ModelProto) -> None:
    """State the domain of onnxruntime's own operators and the type of what they write: onnx knows neither."""
    written = [name for node in model.graph.node if node.domain == _CONTRIB for name in node.output]
    if written and _CONTRIB not in {item.domain for item in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    typed = {item.name for item in (*model.graph.value_info, *model.graph.output)}
    model.graph.value_info.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in written if name not in typed
    )


def _reason(wiring: Wiring, layer: Layer, operators: Collection[str], bits: Bits) -> str | None:
    """Why a layer stays in float, or None."""
    node = layer.node
    tensor = wiring.constants[layer.weight]
    reasons = {
        f"{node.op_type} is not quantized by weights alone": node.op_type not in operators,
        "its weight is not float32": tensor.data_type != onnx.TensorProto.FLOAT,
        "the constant is on the left": node.op_type == "MatMul" and layer.index != 1,
        f"its weight has {len(layer.shape)} axes, not 2": len(layer.shape) != 2,
        "it is transposed or scaled": not plain(node),
        "it gathers columns": node.op_type == "Gather" and attribute(node, "axis", 0) not in (0, -2),
        "its rows have an odd length": node.op_type == "Gather" and bits == 4 and layer.shape[-1] % 2 == 1,
        f"{layer.size} weights are too few to be worth it": layer.size < LEAST_WEIGHTS,
        "others read its weight in another way": not _alike(wiring, layer),
    }
    return next((text for text, holds in reasons.items() if holds), None)


def _alike(wiring: Wiring, layer: Layer) -> bool:
    """Whether every reader of the weight is an operator of the same kind: one quantized copy then serves all."""
    kinds = {(node.op_type, attribute(node, "transB", 0)) for node in wiring.readers[layer.weight]}
    return len(kinds) == 1 and layer.weight not in wiring.outputs


def _matmul_8(wiring: Wiring, layer: Layer, _: int) -> list[onnx.NodeProto]:
    """DequantizeLinear, MatMul and, for a bias, Sub of its negative.

    onnxruntime multiplies by the integers themselves, unless an Add and an activation follow: it then prefers to join
    these with the product, and widens all weights at every call.
    """
    node, weight = layer.node, f"{layer.name}:weight"
    values, scale = _columns(matrix(wiring, node))
    stored = _stored(wiring, layer, values, scale)
    nodes = with_bias(node, lambda to: helper.make_node("MatMul", [node.input[0], weight], [to], node.name))
    bias = nodes[-1].input[1]
    if nodes[-1].op_type == "Add" and bias in wiring.constants:
        wiring.put(f"{node.name}:minus", -wiring.array(bias))
        nodes[-1].op_type, nodes[-1].input[1] = "Sub", f"{node.name}:minus"
    return [helper.make_node("DequantizeLinear", stored, [weight], f"{node.name}:dequantize", axis=1), *nodes]


def _gather_8(wiring: Wiring, layer: Layer, _: int) -> list[onnx.NodeProto]:
    node, rows = layer.node, f"{layer.name}:rows"
    table, scale = _stored(wiring, layer, *_columns(wiring.array(layer.weight)))
    return [
        helper.make_node("Gather", [table, node.input[1]], [rows], node.name, axis=0),
        helper.make_node("DequantizeLinear", [rows, scale], [node.output[0]], f"{node.name}:dequantize", axis=-1),
    ]


def _stored(wiring: Wiring, layer: Layer, values: np.ndarray, scale: np.ndarray) -> list[str]:
    """Names of the constants that hold a quantized weight and its scales."""
    names = [f"{layer.weight}:values", f"{layer.weight}:scale"]
    wiring.put(names[0], values)
    wiring.put(names[1], scale)
    return names


def _matmul_4(wiring: Wiring, layer: Layer, block: int) -> list[onnx.NodeProto]:
    node = layer.node
    right = matrix(wiring, node)
    inputs, outputs = right.shape
    values, scale = _blocks(right.T, block)
    stored = _stored(wiring, layer, _packed(values).reshape(outputs, -1, block // 2), scale.reshape(-1))
    settings = {"K": inputs, "N": outputs, "bits": 4, "block_size": block, "accuracy_level": _INT8_ACCURACY}
    read = [node.input[0], *stored]
    return with_bias(
        node, lambda to: helper.make_node("MatMulNBits", read, [to], node.name, domain=_CONTRIB, **settings)
    )


def _gather_4(wiring: Wiring, layer: Layer, block: int) -> list[onnx.NodeProto]:
    node, width = layer.node, layer.shape[1]
    values, scale = _blocks(wiring.array(layer.weight), block)
    table, scales = _stored(wiring, layer, _packed(values[:, :width]), scale)
    read = [table, node.input[1], scales]
    gather = helper.make_node("GatherBlockQuantized", read, node.output, node.name, domain=_CONTRIB)
    settings = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 4}
    gather.attribute.extend(helper.make_attribute(name, value) for name, value in settings.items())
    return [gather]


_WAYS = {(8, "MatMul"): _matmul_8, (8, "Gather"): _gather_8, (4, "MatMul"): _matmul_4, (4, "Gather"): _gather_4}


def _columns(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, columns] -> int8 [rows, columns] in [-127, 127] and float32 scales [columns]."""
    scale = np.abs(values).max(axis=0, initial=0) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale


def _blocks(rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, n] -> uint8 [rows, whole blocks] in 0..15 around 8, and float32 scales [rows, blocks].

    The value of largest magnitude maps to -8, the end that has one step more; then the share of the range with the
    least squared error is taken for each block.
    """
    count = -(-rows.shape[1] // block)
    filled = np.pad(rows, ((0, 0), (0, count * block - rows.shape[1]))).reshape(len(rows), count, block)
    extreme = np.take_along_axis(filled, np.abs(filled).argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    full = np.where(extreme == 0, 1, extreme / -8).astype(np.float32)
    best, scale, least = np.zeros(filled.shape, np.uint8), full, np.full(full.shape, np.inf)
    for share in _SHARES:
        step = (full * share).astype(np.float32)
        values = np.clip(np.rint(filled / step[..., None]) + 8, 0, 15)
        error = (((values - 8) * step[..., None] - filled) ** 2).sum(axis=-1)
        better = error < least
        best = np.where(better[..., None], values, best).astype(np.uint8)
        scale, least = np.where(better, step, scale), np.where(better, error, least)
    return best.reshape(len(rows), -1), scale.astype(np.float32)


def _packed(values: np.ndarray) -> np.ndarray:
    """Two values of 4 bits a byte, the first in the lower half: uint8 [rows, n] -> [rows, n / 2]."""
    packed: np.ndarray = values[:, 0::2] | (values[:, 1::2] << 4)
    return packed
