"""Weight-only quantization: int8 or int4 matrices and tables in the file, float activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph import Treated
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import Layer, Wiring, attribute, copied, keep, opened

_CONTRIB = "com.microsoft"
#: Below this many weights scales and extra operators outweigh what is saved.
_LEAST_WEIGHTS = 1024
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
    model = opened(core)
    wiring = Wiring(model.graph)
    layers = wiring.layers()
    kept = {layer.name: reason for layer in layers if (reason := _reason(wiring, layer, bits))}
    done = {layer.name: layer for layer in layers if layer.name not in kept}
    report = {"quantized": list(done), "kept": kept, "bits": bits}
    if not done:
        return Treated(copied(core), report | {"nothing": "no matrix or table is worth it or can be quantized"})
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        treat = _TREATMENTS[bits, "Gather" if node.op_type == "Gather" else "MatMul"]
        nodes.extend(treat(wiring, done[node.name], block) if node.name in done else [node])
    keep(model.graph.node, nodes)
    if bits == 4 and not any(item.domain == _CONTRIB for item in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
    return Treated(compact(model), report)


def _reason(wiring: Wiring, layer: Layer, bits: Bits) -> str | None:
    """Why a layer stays in float, or None."""
    node = layer.node
    tensor = wiring.constants[layer.weight]
    reasons = {
        f"{node.op_type} is not quantized by weights alone": node.op_type not in ("MatMul", "Gemm", "Gather"),
        "its weight is not float32": tensor.data_type != onnx.TensorProto.FLOAT,
        "the constant is on the left": node.op_type == "MatMul" and layer.index != 1,
        f"its weight has {len(layer.shape)} axes, not 2": len(layer.shape) != 2,
        "its input is transposed": attribute(node, "transA", 0) != 0,
        "alpha or beta is not 1": {attribute(node, name, 1.0) for name in ("alpha", "beta")} != {1.0},
        "it gathers columns": node.op_type == "Gather" and attribute(node, "axis", 0) not in (0, -2),
        "its rows have an odd length": node.op_type == "Gather" and bits == 4 and layer.shape[-1] % 2 == 1,
        f"{layer.size} weights are too few to be worth it": layer.size < _LEAST_WEIGHTS,
        "others read its weight in another way": not _alike(wiring, layer),
    }
    return next((text for text, holds in reasons.items() if holds), None)


def _alike(wiring: Wiring, layer: Layer) -> bool:
    """Whether every reader of the weight is an operator of the same kind: one quantized copy then serves all."""
    kinds = {(node.op_type, attribute(node, "transB", 0)) for node in wiring.readers[layer.weight]}
    return len(kinds) == 1 and layer.weight not in wiring.outputs


def _matrix(wiring: Wiring, layer: Layer) -> np.ndarray:
    """A layer's weight as [inputs, outputs]."""
    values = wiring.array(layer.weight)
    return values.T if attribute(layer.node, "transB", 0) else values


def _with_bias(node: onnx.NodeProto, product: Callable[[str], list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """The nodes of a product, and an Add after them if the layer is a Gemm with a bias."""
    if len(node.input) < 3 or not node.input[2]:
        return product(node.output[0])
    inner = f"{node.output[0]}:product"
    return [*product(inner), helper.make_node("Add", [inner, node.input[2]], [node.output[0]], f"{node.name}:bias")]


def _matmul_8(wiring: Wiring, layer: Layer, _: int) -> list[onnx.NodeProto]:
    node, names = layer.node, [f"{layer.weight}:{part}" for part in ("int8", "scale", "zero")]
    values, scale = _columns(_matrix(wiring, layer))
    for name, array in zip(names, (values, scale, np.zeros(len(scale), np.int8)), strict=True):
        wiring.put(name, array)
    weight = f"{node.name}:weight"
    return [
        helper.make_node("DequantizeLinear", names, [weight], f"{node.name}:dequantize", axis=1),
        *_with_bias(node, lambda to: [helper.make_node("MatMul", [node.input[0], weight], [to], node.name)]),
    ]


def _gather_8(wiring: Wiring, layer: Layer, _: int) -> list[onnx.NodeProto]:
    node, names = layer.node, [f"{layer.weight}:{part}" for part in ("int8", "scale", "zero")]
    values, scale = _columns(wiring.array(layer.weight))
    for name, array in zip(names, (values, scale, np.zeros(len(scale), np.int8)), strict=True):
        wiring.put(name, array)
    rows = f"{node.name}:rows"
    return [
        helper.make_node("Gather", [names[0], node.input[1]], [rows], node.name, axis=0),
        helper.make_node("DequantizeLinear", [rows, *names[1:]], [node.output[0]], f"{node.name}:dequantize", axis=-1),
    ]


def _matmul_4(wiring: Wiring, layer: Layer, block: int) -> list[onnx.NodeProto]:
    node, names = layer.node, [f"{layer.weight}:{part}" for part in ("int4", "scale")]
    matrix = _matrix(wiring, layer)
    inputs, outputs = matrix.shape
    values, scale = _blocks(matrix.T, block)
    wiring.put(names[0], _packed(values).reshape(outputs, -1, block // 2))
    wiring.put(names[1], scale.reshape(-1))
    settings = {"K": inputs, "N": outputs, "bits": 4, "block_size": block, "accuracy_level": _INT8_ACCURACY}
    return _with_bias(
        node,
        lambda to: [
            helper.make_node("MatMulNBits", [node.input[0], *names], [to], node.name, domain=_CONTRIB, **settings)
        ],
    )


def _gather_4(wiring: Wiring, layer: Layer, block: int) -> list[onnx.NodeProto]:
    node, names = layer.node, [f"{layer.weight}:{part}" for part in ("int4", "scale")]
    table = wiring.array(layer.weight)
    width = table.shape[1] + table.shape[1] % 2
    values, scale = _blocks(table, block)
    wiring.put(names[0], _packed(values[:, :width]))
    wiring.put(names[1], scale)
    settings = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 4}
    inputs = [names[0], node.input[1], names[1]]
    return [helper.make_node("GatherBlockQuantized", inputs, [node.output[0]], node.name, domain=_CONTRIB, **settings)]


_TREATMENTS = {(8, "MatMul"): _matmul_8, (8, "Gather"): _gather_8, (4, "MatMul"): _matmul_4, (4, "Gather"): _gather_4}


def _columns(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, columns] -> int8 [rows, columns] in [-127, 127] and float32 scales [columns]."""
    scale = np.abs(matrix).max(axis=0, initial=0) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(matrix / scale).astype(np.int8), scale


def _blocks(rows: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, n] -> uint8 [rows, n filled up to whole blocks] in 0..15 around 8, and float32 scales [rows, blocks].

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
