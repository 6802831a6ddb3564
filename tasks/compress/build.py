"""Builds the candidates: the original as float ONNX, and one file for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq

from deploy.runtime import open_session
from deploy.signature import Signature
from tasks.compress import int8
from tasks.compress.choose import Candidate
from tasks.core import manifest
from tasks.core.log import log
from tasks.core.metrics import auc
from tasks.core.stage import StageSettings
from tasks.core.workloads.tabular import graph
from tasks.core.workloads.tabular.model import load_original
from tasks.core.workloads.tabular.preprocess import OUTPUT, Preprocess

_BATCH = 4096


@dataclass(frozen=True)
class Built:
    """The candidates (float first), their common signature, and raw inputs to race them with."""

    candidates: list[Candidate]
    signature: Signature
    sample: dict[str, np.ndarray]


def candidates(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Built:
    """Write ``<name>.onnx`` for fp32 and every method into ``out``, and score each on validation."""
    target = manifest.read(inputs["validate"]).facts["target"]
    original = load_original(inputs["tune"])
    preprocess = original.preprocess
    core = graph.export_network(original.network, preprocess)
    calibration_rows = pq.read_table(inputs["validate"] / "calibration.parquet")
    numbers, codes = preprocess.encode(calibration_rows)
    calibration = {name: array for name, array in (("numbers", numbers), ("codes", codes)) if array.shape[1]}
    metadata = {
        "assay.name": settings.base.name,
        "assay.target": target,
        "assay.tune_manifest": manifest.identity(inputs["tune"]),
    }
    validation = pq.read_table(inputs["validate"] / "validation.parquet")
    raw, labels = graph_inputs(preprocess, validation), preprocess.labels(validation, target)
    networks = {"fp32": core} | {method: _METHODS[method](core, calibration) for method in settings.own.methods}
    built = []
    for name, network in networks.items():
        path = out / f"{name}.onnx"
        onnx.save(graph.with_preprocessing(network, preprocess, metadata | {"assay.candidate": name}), path)
        score = _quality(labels, _scores(path, raw, settings.base.device))
        built.append(Candidate(name, score, path.stat().st_size))
        log.info("compress: %s has %.1f KiB and validation AUC %.5f", name, path.stat().st_size / 1024, score)
    return Built(built, graph.signature(preprocess), graph_inputs(preprocess, calibration_rows))


_METHODS = {"int8": int8.quantize}


def graph_inputs(preprocess: Preprocess, rows: Any) -> dict[str, np.ndarray]:
    """Raw columns as onnxruntime takes them: text as Python objects, each [rows, 1]."""
    raw = preprocess.raw_inputs(rows)
    return {name: array.astype(np.object_) if array.dtype.kind == "U" else array for name, array in raw.items()}


def _quality(labels: np.ndarray, scores: np.ndarray) -> float:
    """AUC, or NaN if any score is not finite: such a candidate is never chosen."""
    return auc(labels, scores) if np.isfinite(scores).all() else math.nan


def _scores(path: Path, raw: Mapping[str, np.ndarray], device: str) -> np.ndarray:
    session = open_session(path, device)
    count = len(next(iter(raw.values())))
    parts = [
        session.run([OUTPUT], {name: array[start : start + _BATCH] for name, array in raw.items()})[0]
        for start in range(0, count, _BATCH)
    ]
    return np.concatenate(parts)[:, 0]
