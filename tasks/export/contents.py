"""The reproducible part of a bundle: everything that equal data, params and seed give again, byte for byte."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.signature import MISSING, Signature
from tasks.core import files
from tasks.core.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.workloads.tabular.preprocess import Preprocess


_GREATEST = float(np.finfo(np.float32).max)


def digest(folder: Path, apart_from: Collection[str] = ()) -> str:
    """SHA-256 over the names and hashes of all files of a folder, sorted by name: the bundle's identity."""
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    lines = [f"{files.sha256(folder / name)}  {name}\n" for name in sorted(names - set(apart_from))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def copy_verified(compressed: Path, verified: Path, out: Path) -> None:
    """Copy the model, its signature and the verdict."""
    for source in (compressed / "model.onnx", compressed / "signature.json", verified / "verdict.json"):
        shutil.copyfile(source, out / source.name)


def write_golden(out: Path, preprocess: Preprocess, rows: pa.Table, scores: np.ndarray) -> None:
    """A request that the model must answer, and its answer, in the JSON of the Open Inference Protocol.

    A missing number is ``null``: JSON has no NaN. It has no infinity either; the greatest float32 stands for it, and
    has the same answer, since the model clips every number to the range seen in training.

    Args:
        out: the bundle's folder.
        preprocess: names the columns.
        rows: test rows.
        scores: the verified file's probabilities of these rows, [rows].
    """
    signature = Signature.read(out / "signature.json")
    columns = preprocess.raw_inputs(rows)
    golden = out / "golden"
    golden.mkdir()
    inputs = [
        {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": [rows.num_rows, 1],
            "data": [_plain(value, tensor.datatype) for value in columns[tensor.name][:, 0].tolist()],
        }
        for tensor in signature.inputs
    ]
    output = signature.outputs[0]
    answer = {
        "name": output.name,
        "datatype": output.datatype,
        "shape": [rows.num_rows, 1],
        "data": [float(score) for score in scores],
        "parameters": {"absolute_tolerance": {"CPUExecutionProvider": 1e-3, "CUDAExecutionProvider": 1e-2}},
    }
    files.write_json(golden / "request.json", {"inputs": inputs})
    files.write_json(golden / "response.json", {"model_name": "model", "outputs": [answer]})


def _plain(value: Any, datatype: str) -> Any:
    if datatype == "FP32":
        return None if np.isnan(value) else float(np.clip(value, -_GREATEST, _GREATEST))
    return MISSING[datatype] if value is None else value


def write_metrics(out: Path, stages: Mapping[str, Manifest]) -> None:
    """Flat metrics of all stages, and the gate's lines with their intervals and n."""
    metrics: dict[str, Any] = {}
    for manifest in stages.values():
        metrics |= manifest.metrics
    lines = files.read_json(out / "verdict.json")["lines"]
    files.write_json(out / "metrics.json", {"metrics": metrics, "intervals": lines})
