"""A layer that lost inputs is fitted to what the original layer answered: ridge regression on calibration rows.

Reconstruction of the next layer's answers as in He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural
Networks, ICCV 2017, and Luo, Wu, Lin: ThiNet, ICCV 2017; the ridge pulls towards the weights that were there.
"""

from __future__ import annotations

import numpy as np
import onnx

from tasks.compress.graph import rows as feeding
from tasks.compress.graph.nodes import Wiring, attribute

#: Places (rows, or rows and pixels) that a layer is fitted on, and as many that judge the fit.
_PLACES = 16384
#: Candidates for the ridge, as a share of the inputs' mean variance. The other half of the rows chooses.
_RIDGES = (1e-4, 1e-2, 1.0)


def refitted(
    original: onnx.ModelProto,
    model: onnx.ModelProto,
    wiring: Wiring,
    node: onnx.NodeProto,
    learn: feeding.Rows,
    judge: feeding.Rows,
) -> bool:
    """Change the weight and the bias of a layer of ``model`` so that it answers as in ``original`` again.

    Args:
        original: the model before pruning; the layer's output has the same name in both.
        model: the pruned model.
        wiring: of ``model``.
        node: the layer: MatMul, Gemm or Conv.
        learn: rows to fit on.
        judge: rows to choose the ridge with.

    Returns:
        Whether a fit lowers the squared error on ``judge``; if none does, the layer stays as it is.
    """
    inputs, missing = _examples(original, model, wiring, node, learn)
    seen, errors = _examples(original, model, wiring, node, judge)
    bias = next((name for name in node.input[2:3] if name in wiring.constants), None)
    center = inputs.mean(axis=0) if bias else np.zeros(inputs.shape[1])
    middle = missing.mean(axis=0) if bias else np.zeros(missing.shape[1])
    moved = inputs - center.astype(np.float32)
    gram = (moved.T @ moved).astype(np.float64) / len(moved)
    target = (moved.T @ (missing - middle.astype(np.float32))).astype(np.float64) / len(moved)
    least, change, shift = float(np.square(errors).mean()), None, middle
    for ridge in _RIDGES:
        scale = max(ridge * float(np.trace(gram)) / len(gram), float(np.finfo(np.float32).tiny))
        step = np.linalg.solve(gram + scale * np.eye(len(gram)), target)
        offset = middle - center @ step
        left = float(np.square(errors - seen @ step.astype(np.float32) - offset.astype(np.float32)).mean())
        if left < least:
            least, change, shift = left, step, offset
    if change is None:
        return False
    _add(wiring, node, change)
    if bias:
        values = wiring.array(bias)
        name = f"{node.name}:bias:fitted"
        wiring.put(name, (values + shift.reshape((*values.shape[:-1], -1))).astype(values.dtype))
        node.input[2] = name
    return True


def _add(wiring: Wiring, node: onnx.NodeProto, change: np.ndarray) -> None:
    """Add ``change`` [inputs, outputs] to a layer's weight."""
    weight = wiring.array(node.input[1])
    if node.op_type == "Conv":
        step = change.T.reshape(weight.shape)
    else:
        step = change.T if attribute(node, "transB", 0) else change
    wiring.put(node.input[1], (weight + step).astype(weight.dtype))


def _examples(
    original: onnx.ModelProto, model: onnx.ModelProto, wiring: Wiring, node: onnx.NodeProto, rows: feeding.Rows
) -> tuple[np.ndarray, np.ndarray]:
    """What the layer reads, float32 [places, inputs], and what its answers lack, float32 [places, outputs]."""
    count = len(next(iter(rows.values())))
    random = np.random.default_rng(0)
    inputs, missing = [], []
    there = feeding.watch(original, rows, [node.output[0]])
    here = feeding.watch(model, rows, [node.input[0], node.output[0]])
    for (wanted,), (read, answer) in zip(there, here, strict=True):
        lacking = wanted - answer
        if node.op_type == "Conv":
            pixels = int(np.prod(lacking.shape[2:]))
            chosen = random.choice(pixels, min(pixels, max(_PLACES // count, 1)), replace=False)
            places = np.unravel_index(np.sort(chosen), lacking.shape[2:])
            inputs.append(_patches(read, node, wiring.constants[node.input[1]].dims[2:], places))
            missing.append(np.moveaxis(lacking[:, :, *places], 1, -1).reshape(-1, lacking.shape[1]))
        else:
            flat = read.reshape(-1, read.shape[-1])
            most = max(_PLACES * len(read) // count, 1)
            chosen = np.sort(random.choice(len(flat), min(len(flat), most), replace=False))
            inputs.append(flat[chosen])
            missing.append(lacking.reshape(-1, lacking.shape[-1])[chosen])
    return np.concatenate(inputs), np.concatenate(missing)


def _patches(
    read: np.ndarray, node: onnx.NodeProto, kernel: tuple[int, ...], places: tuple[np.ndarray, ...]
) -> np.ndarray:
    """What a convolution reads for some of its answers.

    Args:
        read: float32 [rows, channels, ...].
        node: the Conv.
        kernel: its sizes.
        places: of the answers, along each axis.

    Returns:
        float32 [rows * places, channels * kernel].
    """
    axes = len(kernel)
    strides, dilations = (list(attribute(node, name, [1] * axes)) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads", [0] * 2 * axes))
    padded = np.pad(read, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    starts = tuple(place * stride for place, stride in zip(places, strides, strict=True))
    within = [slice(None, None, dilation) for dilation in dilations]
    chosen = windows[:, :, *starts][:, :, :, *within]  # rows, channels, places, kernel
    return np.moveaxis(chosen, 2, 1).reshape(len(read) * len(starts[0]), -1)
