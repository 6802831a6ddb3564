"""ONNX Runtime's static quantization as set by hand: `python benchmarks/compression/ort_best.py INPUTS OUT`.

Per channel, U8 activations, S8 weights, QDQ, prepared graph; MinMax, Percentile and Entropy, each with all operators
or only those with weights. Kept is one of those within 0.5 points of fp32 on validation: of the fastest and all within
3 % of its time, which a race cannot tell apart (interleaved, one thread, batch 1 and 64), the best on validation. If
none is within 0.5 points, the best on validation.
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
_AS_FAST = 1.03
_ROUNDS = 60
_BATCH_SIZES = (1, 64)


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The chosen file, and what was tried."""
    original = given.score(given.model)
    tried: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fp32": given.model}
        for setting in (Setting(*names) for names in product(METHODS, OPERATORS)):
            name = f"{setting.method}, {setting.operators}"
            try:
                quantized = setting.quantize(given.model, given.calibration)
            except ValueError as error:  # a histogram of missing values, for example
                failed[name] = str(error)
                continue
            paths[name] = Path(folder) / f"{name}.onnx"
            onnx.save(quantized, paths[name])
            tried[name] = {"validation": given.score(paths[name])}
        sample = given.validation.first(max(_BATCH_SIZES)).inputs
        laps = race(paths, "fp32", sample, _BATCH_SIZES, _ROUNDS, 1, "cpu").laps
        for name, found in tried.items():
            found["ratio"] = math.sqrt(math.prod(laps[name][batch].ratio for batch in _BATCH_SIZES))
            found["loss"] = given.metric.loss(original, found["validation"])
        if not tried:
            raise RuntimeError(f"no setting gives a file: {failed}")
        chosen = _choose(tried)
        return onnx.load(paths[chosen]), {"chosen": chosen, "tried": tried, "failed": failed}


def _choose(tried: dict[str, dict[str, float]]) -> str:
    """Name of the setting to keep."""
    pool = [name for name, found in tried.items() if found["loss"] <= _MOST_LOST]
    if pool:
        slowest = _AS_FAST * min(tried[name]["ratio"] for name in pool)
        pool = [name for name in pool if tried[name]["ratio"] <= slowest]
    return min(pool or tried, key=lambda name: tried[name]["loss"])


if __name__ == "__main__":
    peer.run("ort_best", __doc__, quantize)
