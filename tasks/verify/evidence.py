"""What the judge is given: the labels of test, and what the original and the exported file answer to its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core import devices, manifest, original, scoring
from tasks.core.metrics import Metric, class_recalls, find, usual
from tasks.core.stage import StageSettings


@dataclass(frozen=True)
class Evidence:
    """Answers of both models to the same rows.

    Attributes:
        rows: numbers of the rows in the snapshot, [n].
        labels: the target, [n].
        original: answers of the original, [n, ...].
        shipped: answers of the exported file, [n, ...].
        metric: what decides.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        classes: the target's values.
        provider: what ran the exported file.
    """

    rows: pa.ChunkedArray
    labels: np.ndarray
    original: np.ndarray
    shipped: np.ndarray
    metric: Metric
    task: str
    classes: tuple[Any, ...]
    provider: str


def collect(settings: StageSettings, inputs: Mapping[str, Path]) -> Evidence:
    """Score test with both models, the exported one in a process of its own.

    Raises:
        IntegrityError: if the exported model cannot be scored.
        MachineError: if the device or the disk refuses.
    """
    base, facts = settings.base, manifest.read(inputs["validate"]).facts
    rows = pq.read_table(inputs["validate"] / "test.parquet")
    model = original.load(inputs["tune"], devices.prepare(base))
    exported = scoring.score_exported(inputs["compress"], model.encoder, rows, base.device)
    return Evidence(
        rows["row"],
        model.encoder.labels(rows),
        model.predict(rows),
        exported.answers,
        find(original.metric_name(base, facts["task"]), facts["task"]),
        facts["task"],
        tuple(facts["classes"]),
        exported.provider,
    )


def predictions(found: Evidence) -> pa.Table:
    """row (int64), label, and what each model answered: a value, or a list of them, a row."""
    return pa.table(
        {
            "row": found.rows,
            "label": pa.array(found.labels),
            "original": as_column(found.original),
            "shipped": as_column(found.shipped),
        }
    )


def as_column(answers: np.ndarray) -> pa.Array:
    """Answers [n] or [n, 1] as plain values, [n, k] as lists of fixed size."""
    width = int(np.prod(answers.shape[1:], dtype=np.int64))
    flat = pa.array(answers.ravel())
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)


def figures(found: Evidence) -> dict[str, dict[str, float]]:
    """Every usual metric of the task for both models, and the recall of each class: name -> original, shipped."""
    result = {}
    for name in dict.fromkeys((found.metric.name, *usual(found.task, found.original.shape[-1]))):
        metric = find(name, found.task)
        result[name] = {
            "original": metric(found.labels, found.original),
            "shipped": metric(found.labels, found.shipped),
        }
    if found.task in ("binary", "multiclass"):
        sides = {
            side: class_recalls(found.labels, answers, len(found.classes))
            for side, answers in (("original", found.original), ("shipped", found.shipped))
        }
        for index, value in enumerate(found.classes):
            result[f"recall of {value}"] = {side: recalls[index] for side, recalls in sides.items()}
    return result
