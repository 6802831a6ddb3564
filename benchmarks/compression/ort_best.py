"""ONNX Runtime's static quantization as set by hand: `python benchmarks/compression/ort_best.py INPUTS OUT`.

Per channel, U8 activations, S8 weights, QDQ, prepared graph; MinMax, Percentile and Entropy, each with all operators
or only those with weights. Of those within 0.5 points of fp32 on validation the fastest is kept (interleaved, one
thread, batch 1 and 64); if none is, the best on validation.
"""

from __future__ import annotations

import math
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import peer
from ort_static import METHODS, OPERATORS, Setting

from tasks.compress.race import race

_MOST_LOST = 0.005
_ROUNDS = 60
_BATCH_SIZES = (1, 64)


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The chosen file, and what was tried."""
    original, tried = given.score(given.model), {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fp32": given.model}
        for setting in (Setting(*names) for names in product(METHODS, OPERATORS)):
            name = f"{setting.method}, {setting.operators}"
            paths[name] = Path(folder) / f"{name}.onnx"
            onnx.save(setting.quantize(given.model, given.calibration), paths[name])
            tried[name] = {"validation": given.score(paths[name])}
        sample = given.validation.first(max(_BATCH_SIZES)).inputs
        laps = race(paths, "fp32", sample, _BATCH_SIZES, _ROUNDS, 1, "cpu").laps
        for name, found in tried.items():
            found["ratio"] = math.sqrt(math.prod(laps[name][batch].ratio for batch in _BATCH_SIZES))
            found["loss"] = given.metric.loss(original, found["validation"])
        eligible = [name for name, found in tried.items() if found["loss"] <= _MOST_LOST]
        chosen = (
            min(eligible, key=lambda name: tried[name]["ratio"])
            if eligible
            else min(tried, key=lambda name: tried[name]["loss"])
        )
        return onnx.load(paths[chosen]), {"chosen": chosen, "tried": tried}


if __name__ == "__main__":
    peer.run("ort_best", __doc__, quantize)
