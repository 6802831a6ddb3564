"""int8 by dynamic quantization: weights in the file, activations measured at every call; needs no calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from tasks.compress.graph import Treated
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import Wiring, copied
from tasks.compress.graph.static import prepare
from tasks.core import devices

#: Where an activation's range costs less than its int8 product saves. ConvInteger is slower than Conv.
_OPERATORS = ("MatMul", "Gemm")
_LEAST_WEIGHTS = 1024


def quantize(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray] | None = None) -> Treated:  # noqa: ARG001
    """Quantize MatMul and Gemm with a constant right-hand matrix; ``calibration`` is not needed.

    Raises:
        UsageError: if weights are not finite.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    prepared = prepare(core)
    layers = Wiring(prepared.graph).layers()
    fit = [
        layer.name
        for layer in layers
        if layer.node.op_type in _OPERATORS
        and layer.index == 1
        and len(layer.shape) == 2
        and layer.size >= _LEAST_WEIGHTS
    ]
    reason = f"not a MatMul or Gemm with a constant matrix of at least {_LEAST_WEIGHTS} weights"
    report = {"quantized": fit, "kept": {layer.name: reason for layer in layers if layer.name not in fit}}
    if not fit:
        return Treated(copied(core), report | {"nothing": "no layer is worth it or can be quantized"})
    with tempfile.TemporaryDirectory() as folder, feeding.quiet():
        given, result = Path(folder) / "given.onnx", Path(folder) / "result.onnx"
        onnx.save(prepared, given)
        quantize_dynamic(
            given,
            result,
            op_types_to_quantize=list(_OPERATORS),
            per_channel=True,
            reduce_range=not devices.has_vnni(),
            weight_type=QuantType.QInt8,
            nodes_to_quantize=fit,
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(result)
    return Treated(compact(model), report | {"reduced_range": not devices.has_vnni()})
