"""int8 by static quantization: QDQ, weights per channel, activation ranges from calibration rows."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from tasks.compress.graph import Treated, conversions
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.bias import corrected
from tasks.compress.graph.compact import compact, forget_unused_domains
from tasks.compress.graph.fuse import fused
from tasks.compress.graph.nodes import Layer, Wiring, attribute, copied
from tasks.core import devices
from tasks.core.errors import UsageError

#: Where the weights are. Quantizing the cheap operators between them only adds conversions.
OPERATORS = ("MatMul", "Gemm", "Conv", "Gather")
#: Quantized only where what they read comes from quantized layers.
_BETWEEN = ("GlobalAveragePool", "Squeeze")
#: A layer of fewer weights stays in float. Small ones pay, too: a float layer between quantized ones costs conversions
#: (a student of 131,000 parameters is 3 % smaller and 1.2 times as fast with these than with 1,024).
_LEAST_WEIGHTS = 256
#: A convolution that reads fewer channels (a picture's, or one at a time) stays in float: kernels for bytes gather them
#: one by one. A stem of 32 channels on three makes a student 1.2 to 1.5 times slower in bytes, on one 1.1 to 1.2 times.
_LEAST_CHANNELS = 4
#: The histograms of a calibrator hold every activation of these rows in memory at once.
_HISTOGRAM_ROWS = 256
#: Share of an activation's values that ``percentile`` keeps within the range.
_PERCENTILE = 99.99
#: Bins of the histogram that ``entropy`` cuts down to the levels; finer ones take longer than they gain.
_ENTROPY_BINS = 512

Calibrate = Literal["minmax", "percentile", "entropy"]
Activations = Literal["u8", "s8"]


def quantize(
    core: onnx.ModelProto,
    calibration: Mapping[str, np.ndarray],
    *,
    calibrate: Calibrate = "minmax",
    activations: Activations = "u8",
    exclude: Collection[str] = (),
    correct_bias: bool = True,
) -> Treated:
    """Quantize MatMul, Gemm, Conv and Gather with weights to QInt8, one scale a channel.

    Weights use 7 bits on processors without VNNI, where the 8-bit product of U8 and S8 can saturate.

    Args:
        core: float network, inputs as keys of ``calibration``.
        calibration: encoded rows, each array [rows, ...].
        calibrate: how an activation's range is found: its extremes, the 99.99th percentile, or the range of least
            divergence (entropy).
        activations: ``u8`` with a zero point, or ``s8`` without one, as TensorRT and some edge runtimes want it.
        exclude: layers to leave in float, by the names that the report uses.
        correct_bias: whether to take the layers' mean errors off their biases where that helps.

    Raises:
        UsageError: if weights are not finite, inputs are missing or an excluded layer does not exist.
        DataRejected: if there are fewer than two rows.
    """
    prepared = prepare(core)
    rows = feeding.checked(prepared, calibration)
    layers = Wiring(prepared.graph).layers()
    unknown = sorted(set(exclude) - {layer.name for layer in layers})
    if unknown:
        raise UsageError(
            "a layer left in float is one of the model",
            ", ".join(unknown),
            f"choose from {', '.join(layer.name for layer in layers) or 'none: the model has no weights'}",
        )
    kept = dict(filter(None, (_left_in_float(layer, exclude) for layer in layers)))
    model = _quantized(prepared, rows, calibrate, activations, [*kept, *_others(prepared, layers, kept)])
    model = conversions.fewer(model)
    done = quantized_layers(model)
    kept |= {layer.name: "onnxruntime left it in float" for layer in layers if layer.name not in done | kept.keys()}
    report: dict[str, Any] = {"quantized": [layer.name for layer in layers if layer.name in done], "kept": kept}
    if not done:  # trees, for example: no smaller file may bear the name int8
        return Treated(copied(core), report | {"nothing": "no layer is worth it or can be quantized"})
    report |= {"calibrate": calibrate, "activations": activations, "reduced_range": not devices.has_vnni()}
    if correct_bias:
        model, report["bias"] = corrected(prepared, model, report["quantized"], rows)
    return Treated(compact(model), report)


def prepare(core: onnx.ModelProto) -> onnx.ModelProto:
    """The network as the quantizer wants it: folded, averages as pools, shapes inferred, layers named."""
    return conversions.pooled(fused(core))


def quantized_layers(model: onnx.ModelProto) -> set[str]:
    """Names of nodes whose weight comes out of a DequantizeLinear of a constant."""
    wiring = Wiring(model.graph)
    integers = {
        name
        for name, node in wiring.writer.items()
        if node.op_type == "DequantizeLinear" and node.input[0] in wiring.constants
    }
    return {node.name for node in model.graph.node if node.op_type in OPERATORS and integers & set(node.input[:2])}


def _quantized(
    prepared: onnx.ModelProto, rows: feeding.Rows, calibrate: str, activations: str, excluded: list[str]
) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    with feeding.quiet():
        quantizer = QDQQuantizer(
            copied(prepared),
            per_channel=True,
            reduce_range=not devices.has_vnni(),
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
            tensors_range=_ranges(prepared, rows, calibrate),
            nodes_to_quantize=[],
            nodes_to_exclude=excluded,
            op_types_to_quantize=[*OPERATORS, *_BETWEEN],
            extra_options=_options(prepared) | {"ActivationSymmetric": activations == "s8"},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    model: onnx.ModelProto = quantizer.model.model
    forget_unused_domains(model)
    return model


def _ranges(prepared: onnx.ModelProto, rows: feeding.Rows, calibrate: str) -> Any:
    """Ranges of the activations, as onnxruntime's quantizer takes them.

    Its own ``quantize_static`` would give ``entropy`` as many bins as levels, and so one range to choose from, and
    make ranges of ``percentile`` symmetric.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            seen = rows if calibrate == "minmax" else feeding.some(rows, _HISTOGRAM_ROWS)
            self._batches = feeding.batches(prepared, seen)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    ways: dict[str, tuple[CalibrationMethod, dict[str, float]]] = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": _PERCENTILE}),
        "entropy": (CalibrationMethod.Entropy, {"num_bins": _ENTROPY_BINS}),
    }
    method, settings = ways[calibrate]
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given.onnx"
        onnx.save(prepared, given)
        calibrator = create_calibrator(
            given,
            [*OPERATORS, *_BETWEEN],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            extra_options={"symmetric": False, **settings},
        )
        calibrator.collect_data(Reader())
        return calibrator.compute_data()


def _options(model: onnx.ModelProto) -> dict[str, Any]:
    """Scores that are sorted stay float: 256 levels would tie, and an order of ties is no ranking."""
    ranks = any(node.op_type == "TopK" for node in model.graph.node)
    return {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]} if ranks else {}


def _left_in_float(layer: Layer, exclude: Collection[str]) -> tuple[str, str] | None:
    """A layer's name and why it stays float, or None if it does not."""
    plain = layer.node.op_type == "Conv" and attribute(layer.node, "group", 1) == 1
    channels = layer.shape[1] if plain else _LEAST_CHANNELS
    reasons = {
        "excluded": layer.name in exclude,
        f"{layer.node.op_type} is not quantized": layer.node.op_type not in OPERATORS,
        f"{layer.size} weights are too few to be worth it": layer.size < _LEAST_WEIGHTS,
        f"kernels for bytes are slower than float ones on {channels} channels": channels < _LEAST_CHANNELS,
        "batched weights lack a per-channel kernel": layer.node.op_type == "MatMul" and len(layer.shape) != 2,
    }
    reason = next((text for text, holds in reasons.items() if holds), None)
    return (layer.name, reason) if reason else None


def _others(model: onnx.ModelProto, layers: list[Layer], kept: Collection[str]) -> list[str]:
    """Nodes of the quantizer's operators that stay float, too.

    Products of two activations, and gathers of integers: nothing to shrink, and conversions to pay. Averages of values
    that are not all in bytes.
    """
    quantized = {layer.name for layer in layers} - set(kept)
    wanted = {layer.name for layer in layers} | set(conversions.pools_of(model, quantized))
    return [
        node.name for node in model.graph.node if node.op_type in (*OPERATORS, *_BETWEEN) and node.name not in wanted
    ]
