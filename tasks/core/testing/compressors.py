"""Runs a compressor on Assay's own network for tables."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from deploy.runtime import open_session
from tasks.core import workloads
from tasks.core.contracts import Compressor
from tasks.core.testing import data
from tasks.core.testing.checks import BATCHES, Bench, require
from tasks.core.workloads.onnx_export import finish


def _core() -> tuple[onnx.ModelProto, Mapping[str, np.ndarray]]:
    """A float core and its calibration inputs."""
    workload = workloads.find("tabular")
    bench = Bench.of(workload, workload.models["mlp"], "mlp", *data.make("tabular", "binary"))
    encoder = bench.encoder
    inputs = dict(zip(encoder.input_names, encoder.encode(bench.rows), strict=True))
    return bench.original(bench.network()).core(bench.rows), inputs


def check_answers(compressor: Compressor, tolerance: float) -> None:
    """The result takes and gives the same, answers alike within ``tolerance``, and is smaller."""
    core, inputs = _core()
    result = compressor(_copy(core), inputs)
    require(isinstance(result, onnx.ModelProto), f"the result must be a ModelProto, and is {type(result).__name__}")
    for what in ("input", "output"):
        given, found = ([item.name for item in getattr(model.graph, what)] for model in (core, result))
        require(given == found, f"the {what}s must stay {given}, and are {found}")
    before, after = _answers(core, inputs), _answers(result, inputs)
    for batch, wanted, answer in zip(BATCHES, before, after, strict=True):
        worst = float(np.abs(wanted - answer).max())
        require(worst <= tolerance, f"at batch {batch} answers differ by {worst}, more than {tolerance}")
    sizes = core.ByteSize(), result.ByteSize()
    require(sizes[1] < sizes[0], f"the result must be smaller: {sizes[1]} bytes of {sizes[0]}")


def check_repeatable(compressor: Compressor) -> None:
    """Two calls give the same bytes, and the calibration inputs stay as they are."""
    core, inputs = _core()
    kept = {name: array.copy() for name, array in inputs.items()}
    first, second = (compressor(_copy(core), inputs).SerializeToString(deterministic=True) for _ in range(2))
    require(first == second, "two calls with the same arguments must give the same file")
    same = all(np.array_equal(kept[name], array, equal_nan=array.dtype.kind == "f") for name, array in inputs.items())
    require(same, "the calibration inputs must not be changed")


def _copy(core: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(core)
    return copied


def _answers(core: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The first output at each batch size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "core.onnx"
        onnx.save(finish(_copy(core), {}), path)
        session = open_session(path, "cpu")
        return [session.run(None, {name: array[:batch] for name, array in inputs.items()})[0] for batch in BATCHES]
