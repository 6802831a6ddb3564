"""NNCF's post-training quantization with its defaults: `python benchmarks/compression/nncf_ptq.py INPUTS OUT`.

nncf.quantize on the ONNX file: the performance preset, 300 calibration rows, fast bias correction.
"""

from __future__ import annotations

from typing import Any

import onnx
import peer


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The quantized model."""
    import nncf

    return nncf.quantize(onnx.load(given.model), nncf.Dataset(list(given.calibration.batches(1)))), {}


if __name__ == "__main__":
    peer.run("nncf_ptq", __doc__, quantize)
