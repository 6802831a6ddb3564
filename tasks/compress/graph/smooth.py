"""int8 after smoothing: activations with outlying channels hand part of their range to the weights.

Xiao, Lin, Seznec, Wu, Demouth, Han: SmoothQuant, ICML 2023. Channel j of an activation is divided by
``s_j = max|x_j|**a / max|w_j|**(1 - a)`` and the weights' row j is multiplied by it: the product stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tasks.compress.graph import Treated, static
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.nodes import LEAST_WEIGHTS, Layer, Wiring, copied, keep
from tasks.compress.graph.products import inputs_axis, matrix, plain

#: Channels outlie from this multiple of the middle channel's range on; below it there is nothing to gain.
_OUTLYING = 3.0
_ROWS = 512


def quantize(
    core: onnx.ModelProto, calibration: Mapping[str, np.ndarray], *, strength: float = 0.5, **settings: Any
) -> Treated:
    """Smooth the inputs of MatMul and Gemm whose channels differ much in range, then quantize as ``int8`` does.

    The division is folded into the layer that writes the activation where that changes nothing else, and is an
    operator of its own elsewhere.

    Args:
        core: float network.
        calibration: encoded rows, each array [rows, ...].
        strength: ``a`` above, from 0 (all range stays with the activations) to 1.
        settings: of :func:`tasks.compress.graph.static.quantize`.

    Returns:
        The quantized model; the report names ``smoothed`` layers with the way, ``folding`` or ``Mul``.

    Raises:
        UsageError: as ``int8`` does.
        DataRejected: as ``int8`` does.
    """
    model = static.prepare(core)
    rows = feeding.some(feeding.checked(model, calibration), _ROWS)
    wiring = Wiring(model.graph)
    groups = _groups(wiring)
    smoothed: dict[str, str] = {}
    for activation, extremes in _extremes(model, rows, list(groups)).items():
        middle = float(np.median(extremes))
        if middle == 0 or extremes.max() < _OUTLYING * middle:
            continue
        how = _smooth(wiring, activation, groups[activation], _scale(wiring, groups[activation], extremes, strength))
        smoothed |= {layer.name: how for layer in groups[activation]}
    if not smoothed:
        reason = f"no input of a MatMul or Gemm has channels {_OUTLYING:g} times as wide as its middle one"
        return Treated(copied(core), {"kept": {}, "nothing": reason})
    treated = static.quantize(model, calibration, **settings)
    return Treated(treated.model, treated.report | {"smoothed": smoothed})


def _groups(wiring: Wiring) -> dict[str, list[Layer]]:
    """Activation -> the layers that multiply it by a matrix of their own."""
    groups: dict[str, list[Layer]] = {}
    for layer in wiring.layers(("MatMul", "Gemm")):
        fit = layer.index == 1 and len(layer.shape) == 2 and plain(layer.node)
        if fit and layer.size >= LEAST_WEIGHTS and not wiring.shared(layer.weight):
            groups.setdefault(layer.node.input[0], []).append(layer)
    return groups


def _extremes(model: onnx.ModelProto, rows: feeding.Rows, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Activation -> largest magnitude in each channel, each [channels]."""
    found: dict[str, np.ndarray] = {}
    for values in feeding.watch(model, rows, names):
        for name, value in zip(names, values, strict=True):
            largest = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, largest), largest)
    return found


def _scale(wiring: Wiring, layers: Sequence[Layer], extremes: np.ndarray, strength: float) -> np.ndarray:
    """``s`` of the module's formula, float32 [channels]; 1 where a channel or its weights are all zero."""
    widest = np.max([np.abs(matrix(wiring, layer.node)).max(axis=1) for layer in layers], axis=0)
    used = (extremes > 0) & (widest > 0)
    ratio = np.where(used, extremes, 1) ** strength / np.where(used, widest, 1) ** (1 - strength)
    return np.where(used, ratio, 1).astype(np.float32)


def _smooth(wiring: Wiring, activation: str, layers: Sequence[Layer], scale: np.ndarray) -> str:
    """Divide the activation and multiply the weights; ``folding`` or ``Mul``, the way in which it was divided."""
    for layer in layers:
        along = scale[None, :] if inputs_axis(layer.node) else scale[:, None]
        wiring.put(layer.weight, wiring.array(layer.weight) * along)
    alone = len(wiring.readers[activation]) == len(layers) and activation not in wiring.outputs
    if alone and _fold(wiring, activation, scale):
        return "folding"
    divided, factor = f"{activation}:smooth", f"{activation}:smooth_by"
    wiring.put(factor, 1 / scale)
    first = min(list(wiring.graph.node).index(layer.node) for layer in layers)
    node = helper.make_node("Mul", [activation, factor], [divided], divided)
    keep(wiring.graph.node, [*wiring.graph.node[:first], node, *wiring.graph.node[first:]])
    names = {layer.name for layer in layers}
    for reader in wiring.graph.node:
        if reader.name in names:
            reader.input[0] = divided
    return "Mul"


def _fold(wiring: Wiring, activation: str, scale: np.ndarray) -> bool:
    """Divide the constants of the layer that writes the activation, through a Relu, which keeps proportions."""
    node = wiring.writer.get(activation)
    if node is not None and node.op_type == "Relu" and len(wiring.readers[node.input[0]]) == 1:
        node = wiring.writer.get(node.input[0]) if node.input[0] not in wiring.outputs else None
    if node is None or (node.op_type, node.domain) not in (("LayerNormalization", ""), ("Gemm", "")) or not plain(node):
        return False
    parts = [name for name in node.input[1:] if name]
    if any(name not in wiring.constants or wiring.shared(name) for name in parts):
        return False
    scales = dict.fromkeys(parts, scale)
    if node.op_type == "Gemm" and inputs_axis(node):
        scales[parts[0]] = scale[:, None]
    if any(wiring.array(name).shape[-by.ndim :][:1] != (len(scale),) for name, by in scales.items()):
        return False
    for name, by in scales.items():
        wiring.put(name, wiring.array(name) / by)
    return True
