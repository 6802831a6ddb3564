"""ONNX Runtime's static quantization: what the scripts that call it by hand share. Not run itself."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rows import Rows

from tasks.core import devices

_BATCH = 64
#: Histograms need every activation in memory at once: 1,000 images of this network would take gigabytes.
_HISTOGRAM_ROWS = 256
#: Where the weights are; None is everything that can be quantized.
OPERATORS: dict[str, list[str] | None] = {"all": None, "weights": ["Conv", "MatMul", "Gemm", "Gather"]}
METHODS = {name: CalibrationMethod[name] for name in ("MinMax", "Percentile", "Entropy")}


class Reader(CalibrationDataReader):
    """Calibration rows in batches."""

    def __init__(self, rows: Rows) -> None:
        self._batches = rows.batches(_BATCH)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        return next(self._batches, None)


@dataclass(frozen=True)
class Setting:
    """A way to quantize per channel with U8 activations and S8 weights.

    Attributes:
        method: key of :data:`METHODS`.
        operators: key of :data:`OPERATORS`.
    """

    method: str
    operators: str

    def quantize(self, model: Path, calibration: Rows) -> onnx.ModelProto:
        """QDQ, per channel, after onnxruntime's own preparation; 7 bits of weight where 8 would saturate."""
        rows = calibration if self.method == "MinMax" else calibration.first(_HISTOGRAM_ROWS)
        with tempfile.TemporaryDirectory() as folder:
            prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "result.onnx"
            quant_pre_process(model, prepared, skip_symbolic_shape=True)
            settings: dict[str, Any] = {
                "quant_format": QuantFormat.QDQ,
                "per_channel": True,
                "activation_type": QuantType.QUInt8,
                "weight_type": QuantType.QInt8,
                "reduce_range": not devices.has_vnni(),
                "calibrate_method": METHODS[self.method],
                "op_types_to_quantize": OPERATORS[self.operators],
                "nodes_to_exclude": _without_kernel(onnx.load(prepared)),
            }
            quantize_static(prepared, result, Reader(rows), **settings)
            return onnx.load(result)


def _without_kernel(model: onnx.ModelProto) -> list[str]:
    """MatMuls of batched weights: per channel onnxruntime quantizes them, and then has no kernel to run them."""
    dims = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
    products = (node for node in model.graph.node if node.op_type == "MatMul")
    return [node.name for node in products if any(dims.get(name, 0) > 2 for name in node.input)]
