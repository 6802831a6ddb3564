"""The reproducible part of a bundle: everything that equal data, params and seed give again, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy import variants
from deploy.golden import GREATEST
from deploy.signature import Signature
from deploy.variants import Variants
from tasks.core import files
from tasks.core.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.workloads.contract import Encoder


def copy_verified(compressed: Path, verified: Path, out: Path) -> None:
    """Copy the model, its signature and the verdict; and where there are several targets, their variants."""
    for source in (compressed / "model.onnx", compressed / "signature.json", verified / "verdict.json"):
        shutil.copyfile(source, out / source.name)
    if len(Variants.read(compressed).order) > 1:
        shutil.copyfile(compressed / variants.NAME, out / variants.NAME)
        if (compressed / "variants").is_dir():
            shutil.copytree(compressed / "variants", out / "variants")


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    """Answers out of ``predictions.parquet``: [n], or [n, k] of a column of lists."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat.reshape(len(column), column.type.list_size))


def write_golden(out: Path, encoder: Encoder, rows: pa.Table, answers: np.ndarray) -> None:
    """A request that the model must answer, and its answer, in the JSON of the Open Inference Protocol.

    A missing number is ``null``: JSON has no NaN. It has no infinity either; the greatest float32 stands for it, and
    has the same answer where a model clips every number to the range seen in training.

    Args:
        out: the bundle's folder.
        encoder: makes inputs of rows.
        rows: test rows.
        answers: what the verified file answered to them (its first output), [rows, ...].
    """
    signature = Signature.read(out / "signature.json")
    arrays = signature.tensors(encoder.raw_inputs(rows))
    golden = out / "golden"
    golden.mkdir()
    inputs = [_tensor(tensor.name, tensor.datatype, arrays[tensor.name]) for tensor in signature.inputs]
    output = signature.outputs[0]
    shape = (rows.num_rows, *answers.shape[1:]) if answers.ndim > 1 else (rows.num_rows, 1)
    answer = _tensor(output.name, output.datatype, answers.reshape(shape)) | {
        "parameters": {"absolute_tolerance": {"CPUExecutionProvider": 1e-3, "CUDAExecutionProvider": 1e-2}}
    }
    files.write_json(golden / "typical.request.json", {"inputs": inputs})
    files.write_json(golden / "typical.response.json", {"model_name": "model", "outputs": [answer]})


def _tensor(name: str, datatype: str, array: np.ndarray) -> dict[str, Any]:
    data = [_plain(value) for value in array.ravel().tolist()]
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else float(np.clip(value, -GREATEST, GREATEST))
    return value


def write_metrics(out: Path, stages: Mapping[str, Manifest]) -> None:
    """Flat metrics of all stages, and the gate's lines with their intervals and n."""
    metrics: dict[str, Any] = {}
    for manifest in stages.values():
        metrics |= manifest.metrics
    lines = files.read_json(out / "verdict.json")["lines"]
    files.write_json(out / "metrics.json", {"metrics": metrics, "intervals": lines})
