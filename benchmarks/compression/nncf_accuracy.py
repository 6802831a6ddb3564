"""NNCF's quantization with accuracy control: `python benchmarks/compression/nncf_accuracy.py INPUTS OUT`.

nncf.quantize_with_accuracy_control with a largest drop of 0.005 on validation, otherwise its defaults: layers that cost
too much go back to float, one by one.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import peer
from rows import Rows

_MAX_DROP = 0.005
_BATCH = 50


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The quantized model."""
    import nncf

    validation = given.validation.first(given.options.rows)
    starts = range(0, len(validation), _BATCH)
    items = [
        (inputs, validation.labels[start : start + _BATCH])
        for start, inputs in zip(starts, validation.batches(_BATCH), strict=True)
    ]

    def validate(
        model: onnx.ModelProto, data: Iterable[tuple[dict[str, np.ndarray], np.ndarray]]
    ) -> tuple[float, None]:
        batches = list(data)
        labels = np.concatenate([labels for _, labels in batches])
        names = batches[0][0]
        inputs = {name: np.concatenate([inputs[name] for inputs, _ in batches]) for name in names}
        return given.metric(labels, peer.answers(model, Rows(inputs, labels))), None

    model = nncf.quantize_with_accuracy_control(
        onnx.load(given.model),
        calibration_dataset=nncf.Dataset(list(given.calibration.batches(1))),
        validation_dataset=nncf.Dataset(items, lambda item: item[0]),
        validation_fn=validate,
        max_drop=_MAX_DROP,
    )
    return model, {"max_drop": _MAX_DROP, "validation_rows": len(validation)}


def main() -> None:
    """Read the script's own argument, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=6000, help="validation rows that NNCF may use, at most")
    peer.run("nncf_accuracy", __doc__, quantize, parser)


if __name__ == "__main__":
    main()
