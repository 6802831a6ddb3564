"""The reproducible part of a bundle: everything that equal data, params and seed give again, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy import variants
from deploy.variants import Variants
from tasks.core import files
from tasks.core.manifest import Manifest

if TYPE_CHECKING:
    import pyarrow as pa


def copy_verified(compressed: Path, verified: Path, out: Path) -> None:
    """Copy the model, its signature, the verdict and its report; where there are several targets, their variants."""
    of_model = [compressed / name for name in ("model.onnx", "signature.json")]
    for source in (*of_model, verified / "verdict.json", verified / "report.html"):
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


def write_metrics(out: Path, stages: Mapping[str, Manifest]) -> None:
    """Flat metrics of all stages, and the gate's lines with their intervals and n."""
    metrics: dict[str, Any] = {}
    for manifest in stages.values():
        metrics |= manifest.metrics
    lines = files.read_json(out / "verdict.json")["lines"]
    files.write_json(out / "metrics.json", {"metrics": metrics, "intervals": lines})
