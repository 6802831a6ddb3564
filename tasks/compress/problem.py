"""What is to be compressed and how a candidate is judged: read once, the same for every candidate."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from tasks.core import manifest, original
from tasks.core.log import log
from tasks.core.metrics import Metric, find
from tasks.core.stage import StageSettings
from tasks.core.workloads.onnx_export import finish

if TYPE_CHECKING:
    from deploy.signature import Signature
    from tasks.core.original import Original


@dataclass(frozen=True)
class Problem:
    """The original and the rows that candidates are made with and judged on.

    Attributes:
        model: the original.
        metric: what judges.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        rows: calibration rows, out of train.
        validation: rows that candidates are judged on.
        metadata: texts for every file.
        most_rows: rows of the largest batch that is raced.
    """

    model: Original
    metric: Metric
    task: str
    rows: pa.Table
    validation: pa.Table
    metadata: Mapping[str, str]
    most_rows: int

    @staticmethod
    def read(settings: StageSettings, inputs: Mapping[str, Path], most_rows: int) -> Problem:
        """Read it out of the folders of the stages before."""
        facts = manifest.read(inputs["validate"]).facts
        metadata = {
            "assay.name": settings.base.name,
            "assay.target": settings.base.target,
            "assay.tune_manifest": manifest.identity(inputs["tune"]),
        }
        calibration = pq.read_table(inputs["validate"] / "calibration.parquet")
        if strange := outside(calibration, inputs["validate"] / "train.parquet"):
            log.warning("compress: calibration rows lie outside of train's range in %s", ", ".join(strange))
        return Problem(
            original.load(inputs["tune"]),
            find(original.metric_name(settings.base, facts["task"]), facts["task"]),
            facts["task"],
            calibration,
            pq.read_table(inputs["validate"] / "validation.parquet"),
            metadata,
            most_rows,
        )

    @functools.cached_property
    def core(self) -> onnx.ModelProto:
        """The original as float ONNX without its preprocessing."""
        return self.model.core(self.rows)

    @functools.cached_property
    def signature(self) -> Signature:
        """What every candidate takes and gives."""
        return original.signature(self.model.encoder, self.core)

    @functools.cached_property
    def calibration(self) -> dict[str, np.ndarray]:
        """The core's inputs for the calibration rows, by name."""
        fed = {item.name for item in self.core.graph.input}
        encoder = self.model.encoder
        encoded = zip(encoder.input_names, encoder.encode(self.rows), strict=True)
        return {name: array for name, array in encoded if name in fed}

    @functools.cached_property
    def raw(self) -> dict[str, np.ndarray]:
        """The exported model's inputs for validation."""
        return self.model.encoder.raw_inputs(self.validation)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The target on validation."""
        return self.model.encoder.labels(self.validation)

    @functools.cached_property
    def sample(self) -> dict[str, np.ndarray]:
        """Graph inputs of the largest batch that is raced, of calibration rows, repeated if these are fewer."""
        some = self.signature.tensors(self.model.encoder.raw_inputs(self.rows.slice(0, self.most_rows)))
        return {name: np.resize(array, (self.most_rows, *array.shape[1:])) for name, array in some.items()}

    @functools.cached_property
    def reference(self) -> float:
        """The original's own metric on validation."""
        return self.score(self.model.predict(self.validation))

    def packaged(self, core: onnx.ModelProto, name: str) -> onnx.ModelProto:
        """A core with its preprocessing around it, as it would be shipped."""
        return finish(self.model.encoder.wrap(core), {**self.metadata, "assay.candidate": name})

    def score(self, answers: np.ndarray) -> float:
        """The metric on validation, or NaN if any answer is not finite: such a candidate is never chosen."""
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return math.nan
        return self.metric(self.labels, answers)


def outside(rows: pa.Table, train: Path) -> list[str]:
    """Names of number and time columns in which rows lie outside of what the file of training rows holds."""
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_temporal)
    measured = [item.name for item in rows.schema if item.name != "row" and any(kind(item.type) for kind in kinds)]
    known = pq.read_table(train, columns=measured)
    found = []
    for name in measured:
        of_rows, of_train = (compute.min_max(table[name]).as_py() for table in (rows, known))
        if None not in of_rows.values() and (of_rows["min"] < of_train["min"] or of_rows["max"] > of_train["max"]):
            found.append(name)
    return found


def interface(core: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """Names and element types of a core's inputs and outputs."""
    own = {tensor.name for tensor in core.graph.initializer}
    inputs = [(item.name, item.type.tensor_type.elem_type) for item in core.graph.input if item.name not in own]
    return inputs, [(item.name, item.type.tensor_type.elem_type) for item in core.graph.output]
