"""Builds the candidates: the original as float ONNX, and one file for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from tasks.core.contracts import Compressor
from tasks.core.errors import AssayError, UsageError
from tasks.core.log import log
from tasks.core.metrics import Metric, find
from tasks.core.stage import StageSettings
from tasks.core.workloads.onnx_export import finish

#: By the names of :data:`tasks.core.contracts.METHODS`.
_BUILT_IN: Mapping[str, Compressor] = {"int8": int8.quantize}


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
    encoder = model.encoder
    calibration_rows = pq.read_table(inputs["validate"] / "calibration.parquet")
    core = model.core(calibration_rows)
    signature = original.signature(encoder, core)
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
    cores = {"fp32": core} | {name: _smaller(name, core, calibration) for name in settings.own.methods}
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


def _smaller(name: str, core: onnx.ModelProto, calibration: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """What a method makes of a copy of the core.

    Raises:
        UsageError: if the method fails at it, or its result has other inputs or outputs.
    """
    method = _BUILT_IN[name] if name in _BUILT_IN else cast("Compressor", plugins.load(plugins.COMPRESSORS, name))
    given = onnx.ModelProto()
    given.CopyFrom(core)
    try:
        result = method(given, calibration)
        if isinstance(result, onnx.ModelProto):
            onnx.checker.check_model(result)
    except (AssayError, OSError, MemoryError):
        raise
    except Exception as error:  # the quantizer of onnxruntime and a user's code raise anything
        raise UsageError(
            "every method of compress.methods must be able to treat the model",
            f"{name}: {type(error).__name__}: {str(error)[:500]}",
            f"leave {name} out of compress.methods, or correct the model or the plug-in",
        ) from error
    if not isinstance(result, onnx.ModelProto) or _interface(result) != _interface(core):
        raise UsageError(
            "a method of compression keeps the inputs and outputs of the model",
            f"{name} gives {_interface(result) if isinstance(result, onnx.ModelProto) else type(result).__name__}",
            f"correct the plug-in: the core has {_interface(core)}",
        )
    return result


def _interface(core: onnx.ModelProto) -> tuple[list[str], list[str]]:
    own = {tensor.name for tensor in core.graph.initializer}
    return [item.name for item in core.graph.input if item.name not in own], [item.name for item in core.graph.output]


def _quality(metric: Metric, labels: np.ndarray, answers: np.ndarray) -> float:
    """The metric, or NaN if any answer is not finite: such a candidate is never chosen."""
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        return math.nan
    return metric(labels, answers)
