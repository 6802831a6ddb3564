"""What every peer's script does around its own method: read the inputs, time, save, report. Not run itself.

A peer's script runs in the peers' environment (peers.sh): `python benchmarks/compression/<script>.py INPUTS OUT`. It
leaves `<name>.onnx` and `<name>.json` in OUT; if the peer cannot do it, only the JSON, with the error.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rows import Rows

from tasks.core import files
from tasks.core.metrics import Metric, find

_BATCH = 64


@dataclass(frozen=True)
class Given:
    """What a peer works on.

    Attributes:
        model: the float file.
        calibration: rows to calibrate with.
        validation: rows to choose by.
        metric: what decides.
        options: the script's own arguments.
    """

    model: Path
    calibration: Rows
    validation: Rows
    metric: Metric
    options: argparse.Namespace

    def score(self, model: onnx.ModelProto | Path) -> float:
        """The metric on validation."""
        return self.metric(self.validation.labels, answers(model, self.validation))


Method = Callable[[Given], tuple[onnx.ModelProto, dict[str, Any]]]


def answers(model: onnx.ModelProto | Path, rows: Rows) -> np.ndarray:
    """What a model's first output says to the rows, [rows, ...], on one thread."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    loaded = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    session = onnxruntime.InferenceSession(loaded, settings, providers=["CPUExecutionProvider"])
    first = [session.get_outputs()[0].name]
    return np.concatenate([session.run(first, batch)[0] for batch in rows.batches(_BATCH)])


def run(name: str, description: str | None, method: Method, parser: argparse.ArgumentParser | None = None) -> None:
    """Parse the arguments, run the method, save its model and its report.

    Args:
        name: of the files.
        description: for ``--help``.
        method: given the inputs, the model and what else the report shall say.
        parser: with the script's own arguments.
    """
    parser = parser or argparse.ArgumentParser()
    parser.description = description
    parser.add_argument("inputs", type=Path, help="folder that inputs.py filled")
    parser.add_argument("out", type=Path, help="folder for the model and the report")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    spec = files.read_json(options.inputs / "task.json")
    calibration, validation = (Rows.read(options.inputs / f"{split}.npz") for split in ("calibration", "validation"))
    metric = find(spec["metric"], spec["task"])
    given = Given(options.inputs / "fp32.onnx", calibration, validation, metric, options)
    for stale in (options.out / f"{name}.onnx", options.out / f"{name}.json"):
        stale.unlink(missing_ok=True)
    started = time.perf_counter()
    try:
        model, report = method(given)
    except Exception as error:
        _write(options.out, name, started, {"error": f"{type(error).__name__}: {error}"})
        raise
    onnx.save(model, options.out / f"{name}.onnx")
    _write(options.out, name, started, report | {f"validation_{metric.name}": given.score(model)})


def _write(out: Path, name: str, started: float, report: dict[str, Any]) -> None:
    report = {"name": name, "seconds": round(time.perf_counter() - started, 1)} | report
    files.write_json(out / f"{name}.json", report)
    print(report)
