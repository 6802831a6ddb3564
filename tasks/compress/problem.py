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
from tasks.core.margins import absolute
from tasks.core.metrics import Metric, find
from tasks.core.settings import Margin
from tasks.core.splitting import group_column
from tasks.core.stage import StageSettings
from tasks.core.statistics import greatest_loss
from tasks.core.statistics.bootstrap import FEWEST_GROUPS
from tasks.core.statistics.planning import least_rows
from tasks.core.workloads.onnx_export import finish

if TYPE_CHECKING:
    from deploy.signature import Signature
    from tasks.core.original import Original

#: Of the bound that candidates are judged by: what `verify` asks for unless params say otherwise.
_CONFIDENCE = 0.95


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
        limit: of the loss on validation, as params give it; None if they give none.
        group: column of validation rows that belong together; None where each stands alone.
        seed: of what is drawn at random.
    """

    model: Original
    metric: Metric
    task: str
    rows: pa.Table
    validation: pa.Table
    metadata: Mapping[str, str]
    most_rows: int
    limit: Margin | None = None
    group: str | None = None
    seed: int = 0

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
            settings.own.max_metric_drop,
            group_column(facts["split"]),
            settings.base.seed,
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
    def original(self) -> np.ndarray:
        """The original's own answers on validation."""
        return self.model.predict(self.validation)

    @functools.cached_property
    def reference(self) -> float:
        """The original's own metric on validation."""
        return self.score(self.original)

    # How much worse a candidate may be.

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        """Numbers of validation's groups, [n]; None where each row stands alone."""
        if self.group is None:
            return None
        return np.asarray(self.validation[self.group].combine_chunks().dictionary_encode().indices)

    @functools.cached_property
    def most(self) -> float:
        """Largest loss of the metric on validation: of its :meth:`bound` if that is asked for, else of the figure."""
        margin = absolute(self.limit, self.metric, self.reference)
        return margin if self.limit is not None or self.must_show else margin / 2

    @functools.cached_property
    def must_show(self) -> bool:
        """Whether a candidate must show on validation what `verify` will ask on test: that its loss keeps to a margin.

        Not where params set a limit of the figure; nor where validation is too small to show it of any candidate.
        """
        if self.limit is not None or not math.isfinite(self.reference):
            return False
        size = 1.0 if self.metric.bounded else abs(self.reference)
        margin = absolute(None, self.metric, self.reference)
        enough = bool(size) and self.metric.support(self.labels) >= least_rows(margin / size, _CONFIDENCE)
        return enough and (self.groups is None or len(np.unique(self.groups)) >= FEWEST_GROUPS)

    def bound(self, answers: np.ndarray) -> float | None:
        """The one-sided 95 % bound of a candidate's loss against the original; None where it is not asked for.

        Args:
            answers: the candidate's on validation, all finite.
        """
        if not self.must_show:
            return None
        return greatest_loss(self.metric, self.labels, self.original, answers, self.groups, _CONFIDENCE, self.seed)

    def packaged(self, core: onnx.ModelProto, name: str) -> onnx.ModelProto:
        """A core with its preprocessing around it, as it would be shipped."""
        return finish(self.model.encoder.wrap(core), {**self.metadata, "assay.candidate": name})

    def score(self, answers: np.ndarray) -> float:
        """The metric on validation, or NaN if any answer is not finite: such a candidate is never chosen."""
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return math.nan
        return self.metric(self.labels, answers)


def outside(rows: pa.Table, train: Path) -> list[str]:
    """Names of columns of numbers, times and arrays of them in which rows lie outside of what the file of train has."""
    there = set(pq.read_schema(train).names) - {"row"}
    measured = [item.name for item in rows.schema if item.name in there and _has_range(item.type)]
    known = pq.read_table(train, columns=measured)
    found = []
    for name in measured:
        of_rows, of_train = (compute.min_max(_values(table[name])).as_py() for table in (rows, known))
        if None not in of_rows.values() and (of_rows["min"] < of_train["min"] or of_rows["max"] > of_train["max"]):
            found.append(name)
    return found


def _has_range(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_temporal)
    return _has_range(kind.value_type) if _is_list(kind) else any(one(kind) for one in kinds)


def _values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    while _is_list(column.type):
        column = compute.list_flatten(column)
    return column


def _is_list(kind: pa.DataType) -> bool:
    return any(one(kind) for one in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def interface(core: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    """Names and element types of a core's inputs and outputs."""
    own = {tensor.name for tensor in core.graph.initializer}
    inputs = [(item.name, item.type.tensor_type.elem_type) for item in core.graph.input if item.name not in own]
    return inputs, [(item.name, item.type.tensor_type.elem_type) for item in core.graph.output]
