"""Structured pruning without training: hidden neurons and channels go, and the next layer is fitted to what is left."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from tasks.compress.graph import Treated
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.channels import Region, Unprunable, ranks, region
from tasks.compress.graph.compact import compact
from tasks.compress.graph.fuse import fused
from tasks.compress.graph.nodes import Wiring, copied
from tasks.compress.graph.refit import refitted
from tasks.core.errors import UsageError

_ROWS = 512


def neurons(
    core: onnx.ModelProto, calibration: Mapping[str, np.ndarray], *, ratio: float = 0.25, multiple: int = 8
) -> Treated:
    """Remove the least important hidden channels of each layer whose channels go to other layers and nowhere else.

    A channel's importance is the energy that it brings into the layers that read it: its mean square on calibration
    rows times the squares of their weights for it. Each reading layer is then fitted to the original one's answers
    (:mod:`tasks.compress.graph.refit`), layer after layer from the inputs on, so that errors do not add up.
    Channels that others read too (residual sums, answers of the model) stay.

    Args:
        core: float network.
        calibration: encoded rows, each array [rows, ...].
        ratio: share of the channels to remove, in [0, 1).
        multiple: the channels that stay are a multiple of this, as kernels like it.

    Returns:
        The smaller model. The report holds ``pruned``, layer -> channels [before, after], ``refitted`` layers, and
        ``error``, the answers' squared error relative to their variance.

    Raises:
        UsageError: if the ratio is out of range, weights are not finite, or inputs are missing.
        DataRejected: if there are fewer than two rows.
    """
    if not 0 <= ratio < 1 or multiple < 1:
        raise UsageError(
            "neurons needs a ratio in [0, 1) and a multiple of at least 1",
            f"ratio {ratio}, multiple {multiple}",
            "correct them",
        )
    original = onnx.shape_inference.infer_shapes(fused(core))
    learn, judge = feeding.halves(feeding.some(feeding.checked(original, calibration), _ROWS))
    known = ranks(original)
    model = copied(original)
    for item in model.graph.value_info:
        item.type.tensor_type.ClearField("shape")  # those of before
    wiring = Wiring(model.graph)
    pruned: dict[str, list[int]] = {}
    fitted: list[str] = []
    kept: dict[str, str] = {}
    for layer in wiring.layers():
        try:
            found = region(wiring, known, layer)
            places = _important(model, wiring, found, learn, _left(found.count, ratio, multiple))
        except Unprunable as reason:
            kept[layer.name] = str(reason)
            continue
        for node, at, axis in found.cuts:
            name = f"{node.name}:{at}:kept"
            wiring.put(name, wiring.array(node.input[at]).take(places, axis=axis))
            node.input[at] = name
        pruned[layer.name] = [found.count, len(places)]
        fitted += [end.name for end, _ in found.ends if refitted(original, model, wiring, end.node, learn, judge)]
    if not pruned:
        return Treated(copied(core), {"pruned": {}, "kept": kept, "nothing": "no layer can lose channels"})
    error = feeding.error(*(feeding.observe(item, judge, feeding.judged(item)) for item in (original, model)))
    return Treated(compact(model), {"pruned": pruned, "refitted": fitted, "kept": kept, "error": error})


def _left(count: int, ratio: float, multiple: int) -> int:
    left = multiple * math.ceil(max(count * (1 - ratio), 1) / multiple)
    if left >= count:
        raise Unprunable(f"{count} channels less {ratio:.0%}, rounded up to a multiple of {multiple}, are all of them")
    return left


def _important(model: onnx.ModelProto, wiring: Wiring, found: Region, rows: feeding.Rows, count: int) -> np.ndarray:
    """Places of the ``count`` most important channels, ascending."""
    names = [end.node.input[0] for end, _ in found.ends]
    energy = np.zeros(found.count)
    for values in feeding.watch(model, rows, names):
        for (end, inputs), value in zip(found.ends, values, strict=True):
            axis = 1 if end.node.op_type == "Conv" else value.ndim - 1
            others = tuple(at for at in range(value.ndim) if at != axis)
            squares = np.sum(np.square(wiring.array(end.weight)), axis=tuple({*range(len(end.shape))} - {inputs}))
            energy += np.square(value, dtype=np.float64).mean(axis=others) * squares
    return np.sort(np.argsort(-energy, kind="stable")[:count])
