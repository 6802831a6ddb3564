"""ONNX Runtime's static quantization with its own defaults: `python benchmarks/compression/ort_default.py INPUTS OUT`.

quantize_static with nothing set: QDQ, signed activations and weights, one scale a tensor, MinMax, all operators, no
preparation of the graph.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import peer
from ort_static import Reader


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The quantized file."""
    from onnxruntime.quantization import quantize_static

    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.onnx"
        quantize_static(given.model, result, Reader(given.calibration))
        return onnx.load(result), {"calibration_rows": len(given.calibration)}


if __name__ == "__main__":
    peer.run("ort_default", __doc__, quantize)
