"""Builds the candidates: the original as float ONNX, and one file for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pyarrow.parquet as pq

from deploy.predictor import Predictor
from deploy.runtime import open_session
from deploy.signature import Signature
from tasks.compress import int8
from tasks.compress.choose import Candidate
from tasks.core import manifest, original, plugins
from tasks.core.log import log
from tasks.core.metrics import Metric, find
from tasks.core.stage import StageSettings
from tasks.core.workloads.onnx_export import finish

#: (float core, calibration inputs by name) -> a smaller core with the same inputs and outputs.
Method = Callable[[onnx.ModelProto, Mapping[str, np.ndarray]], onnx.ModelProto]

_BUILT_IN: Mapping[str, Method] = {"int8": int8.quantize}


@dataclass(frozen=True)
class Built:
    """The candidates (float first), their common signature, inputs to race them with, and what judged them."""

    candidates: list[Candidate]
    signature: Signature
    sample: dict[str, np.ndarray]
    metric: Metric


def candidates(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Built:
    """Write ``<name>.onnx`` for fp32 and every method into ``out``, and score each on validation.

    Raises:
        UsageError: if a method's plug-in is not usable.
    """
    facts = manifest.read(inputs["validate"]).facts
    metric = find(original.metric_name(settings.base, facts["task"]), facts["task"])
    model = original.load(inputs["tune"])
    encoder, signature = model.encoder, model.encoder.signature()
    calibration_rows = pq.read_table(inputs["validate"] / "calibration.parquet")
    core = model.core(calibration_rows)
    fed = {item.name for item in core.graph.input}
    encoded = zip(encoder.input_names, encoder.encode(calibration_rows), strict=True)
    calibration = {name: array for name, array in encoded if name in fed}
    metadata = {
        "assay.name": settings.base.name,
        "assay.target": settings.base.target,
        "assay.tune_manifest": manifest.identity(inputs["tune"]),
    }
    validation = pq.read_table(inputs["validate"] / "validation.parquet")
    raw, labels = encoder.raw_inputs(validation), encoder.labels(validation)
    cores = {"fp32": core} | {name: _method(name)(core, calibration) for name in settings.own.methods}
    built = []
    for name, network in cores.items():
        path = out / f"{name}.onnx"
        onnx.save(finish(encoder.wrap(network), metadata | {"assay.candidate": name}), path)
        predictor = Predictor(open_session(path, settings.base.device), signature)
        score = _quality(metric, labels, predictor.predict(raw)[signature.outputs[0].name])
        built.append(Candidate(name, score, path.stat().st_size))
        log.info("compress: %s has %.1f KiB and %s %.5f", name, path.stat().st_size / 1024, metric.name, score)
    sample = signature.tensors(encoder.raw_inputs(calibration_rows.slice(0, max(settings.own.batch_sizes))))
    return Built(built, signature, sample, metric)


def _method(name: str) -> Method:
    return _BUILT_IN[name] if name in _BUILT_IN else cast("Method", plugins.load(plugins.COMPRESSORS, name))


def _quality(metric: Metric, labels: np.ndarray, answers: np.ndarray) -> float:
    """The metric, or NaN if any answer is not finite: such a candidate is never chosen."""
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        return math.nan
    return metric(labels, answers)
