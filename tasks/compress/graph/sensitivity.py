"""How much each layer's quantization costs: only that layer quantized, the answers' error measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from tasks.compress.graph import Treated, static
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.nodes import Wiring
from tasks.core.log import progress

_ROWS = 128


@dataclass(frozen=True)
class LayerDamage:
    """One layer.

    Attributes:
        name: as in the report of ``int8``, and for its ``exclude``.
        op: operator.
        damage: squared error of the answers relative to their variance; NaN if no answer measures it.
        weights: how many.
    """

    name: str
    op: str
    damage: float
    weights: int


def damage(
    core: onnx.ModelProto,
    calibration: Mapping[str, np.ndarray],
    quantize: Callable[..., Treated] = static.quantize,
) -> list[LayerDamage]:
    """Quantize one layer at a time, on at most 128 rows; the worst layer first.

    Args:
        core: float network.
        calibration: encoded rows, each array [rows, ...].
        quantize: with the arguments of :func:`tasks.compress.graph.static.quantize`.

    Raises:
        UsageError: as ``quantize`` does.
        DataRejected: as ``quantize`` does.
    """
    prepared = static.prepare(core)
    rows = feeding.some(feeding.checked(prepared, calibration), _ROWS)
    expected = feeding.observe(prepared, rows, feeding.judged(prepared))
    layers = {layer.name: layer for layer in Wiring(prepared.graph).layers()}
    names = quantize(prepared, rows, correct_bias=False).report["quantized"]
    found = []
    for name in progress(names, "compress: damage by layer", len(names)):
        model = quantize(prepared, rows, exclude=[other for other in layers if other != name], correct_bias=False).model
        error = feeding.error(expected, feeding.observe(model, rows, feeding.judged(model)))
        found.append(LayerDamage(name, layers[name].node.op_type, error, layers[name].size))
    return sorted(found, key=lambda layer: -np.nan_to_num(layer.damage, nan=-1.0))
