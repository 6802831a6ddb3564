"""Magnitude pruning: small weights become zero. Only a compressed file gains: zeros are multiplied like any number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx

from tasks.compress.graph import Treated
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import Layer, Wiring, copied, opened
from tasks.core.errors import UsageError

#: Layers whose weights are pruned; a table's rows are looked up, not multiplied.
_OPERATORS = ("MatMul", "Gemm", "Conv", "ConvTranspose")

Scope = Literal["global", "layer"]


def prune(
    core: onnx.ModelProto,
    calibration: Mapping[str, np.ndarray] | None = None,  # noqa: ARG001
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    pattern: tuple[int, int] | None = None,
    scope: Scope = "global",
) -> Treated:
    """Set weights to zero by one of three rules; no calibration needed.

    Args:
        core: float network.
        calibration: not needed.
        ratio: this share of the weights, the smallest in magnitude.
        threshold: all weights of ``|W| <= threshold``.
        pattern: (n, m): of each m weights in a row along the inputs, all but the n largest ((2, 4) is what sparse
            tensor cores multiply).
        scope: whether a ratio counts over all layers together (``global``) or in each (``layer``).

    Returns:
        The pruned model; the report holds ``sparsity``, layer -> share of zeros, and ``sparsity_overall``.

    Raises:
        UsageError: if not exactly one rule is given, it is out of range, or weights are not finite.
    """
    _check(ratio, threshold, pattern)
    model = opened(core)
    wiring = Wiring(model.graph)
    layers = list({layer.weight: layer for layer in wiring.layers(_OPERATORS)}.values())
    if not layers:
        return Treated(copied(core), {"kept": {}, "nothing": "no MatMul, Gemm or Conv has constant weights"})
    weights = {layer.weight: wiring.array(layer.weight) for layer in layers}
    together = np.concatenate([np.abs(values).ravel() for values in weights.values()]) if scope == "global" else None
    kept, sparsity, zeros = {}, {}, 0
    for layer in layers:
        values = weights[layer.weight]
        if pattern:
            mask = _largest_of_each(values, layer, pattern)
        else:
            limit = threshold if ratio is None else _quantile(np.abs(values) if together is None else together, ratio)
            mask = np.abs(values) > limit
        if mask is None:
            kept[layer.name] = "its inputs do not divide by the pattern's length"
            mask = np.ones(values.shape, bool)
        wiring.put(layer.weight, np.where(mask, values, np.zeros((), values.dtype)))
        sparsity[layer.name] = float(np.mean((values == 0) | ~mask))
        zeros += int(np.sum((values == 0) | ~mask))
    overall = zeros / sum(values.size for values in weights.values())
    return Treated(compact(model), {"sparsity": sparsity, "sparsity_overall": overall, "kept": kept})


def _check(ratio: float | None, threshold: float | None, pattern: tuple[int, int] | None) -> None:
    given = [rule for rule in (ratio, threshold, pattern) if rule is not None]
    good = (
        len(given) == 1
        and (ratio is None or 0 <= ratio < 1)
        and (threshold is None or threshold >= 0)
        and (pattern is None or 0 < pattern[0] < pattern[1])
    )
    if not good:
        raise UsageError(
            "magnitude pruning takes one of: ratio in [0, 1), threshold >= 0, pattern (n, m) with 0 < n < m",
            f"ratio={ratio}, threshold={threshold}, pattern={pattern}",
            "give just one of them",
        )


def _quantile(magnitudes: np.ndarray, ratio: float) -> float:
    """The magnitude up to which ``ratio`` of the weights lie; -1 if none has to go."""
    count = int(ratio * magnitudes.size)
    return float(np.partition(magnitudes.ravel(), count - 1)[count - 1]) if count else -1.0


def _largest_of_each(values: np.ndarray, layer: Layer, pattern: tuple[int, int]) -> np.ndarray | None:
    """Mask of the n largest of each m weights along the inputs, or None if these do not divide."""
    n, m = pattern
    axis = _inputs_axis(layer)
    along = np.moveaxis(np.abs(values), axis, -1)
    if along.shape[-1] % m:
        return None
    groups = along.reshape(-1, m)
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, np.argsort(-groups, axis=1, kind="stable")[:, :n], True, axis=1)
    return np.moveaxis(mask.reshape(along.shape), -1, axis)


def _inputs_axis(layer: Layer) -> int:
    """The axis of a weight along which a product is summed."""
    if layer.node.op_type == "Conv":
        return 1
    if layer.node.op_type == "Gemm":
        return int(any(item.name == "transB" and item.i for item in layer.node.attribute))
    if layer.node.op_type == "MatMul" and layer.index == 1:
        return max(len(layer.shape) - 2, 0)
    return -1 if layer.node.op_type == "MatMul" else 0
