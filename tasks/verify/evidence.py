"""What the judge is given: the labels of test, and what the original and the exported file answer to its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.variants import Variants
from tasks.core import devices, manifest, original, scoring
from tasks.core.metrics import Metric, class_recalls, find, usual
from tasks.core.stage import StageSettings


@dataclass(frozen=True)
class Evidence:
    """Answers of the original and of one exported file to the same rows.

    Attributes:
        variant: the target that the file is for.
        model_sha256: hash of the file.
        rows: numbers of the rows in the snapshot, [n].
        labels: the target, [n].
        original: answers of the original, [n, ...].
        shipped: answers of the exported file, [n, ...].
        metric: what decides.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        classes: the target's values.
        provider: what ran the exported file.
    """

    variant: str
    model_sha256: str
    rows: pa.ChunkedArray
    labels: np.ndarray
    original: np.ndarray
    shipped: np.ndarray
    metric: Metric
    task: str
    classes: tuple[Any, ...]
    provider: str


def collect(settings: StageSettings, inputs: Mapping[str, Path]) -> list[Evidence]:
    """Score test with the original and with each variant, the first one first, on its device in a process of its own.

    Raises:
        IntegrityError: if the exported model cannot be scored.
        MachineError: if the device or the disk refuses.
    """
    base, facts = settings.base, manifest.read(inputs["validate"]).facts
    hashes = manifest.read(inputs["compress"]).files
    rows = pq.read_table(inputs["validate"] / "test.parquet")
    model = original.load(inputs["tune"], devices.prepare(base))
    labels, answers = model.encoder.labels(rows), model.predict(rows)
    found = []
    for variant in Variants.read(inputs["compress"]).distinct():
        exported = scoring.score_exported(inputs["compress"] / variant.folder, model.encoder, rows, variant.device)
        one = Evidence(
            variant.target,
            hashes[variant.model].sha256,
            rows["row"],
            labels,
            answers,
            exported.answers,
            find(original.metric_name(base, facts["task"]), facts["task"]),
            facts["task"],
            tuple(facts["classes"]),
            exported.provider,
        )
        found.append(one)
    return found


def predictions(variants: Sequence[Evidence]) -> pa.Table:
    """row (int64), label, and what each model answered: a value, or a list of them, a row.

    The first variant's answers are ``shipped``, those of another one ``shipped_<target>``.
    """
    first = variants[0]
    columns = {
        "row": first.rows,
        "label": pa.array(first.labels),
        "original": as_column(first.original),
        "shipped": as_column(first.shipped),
    }
    return pa.table(columns | {f"shipped_{one.variant}": as_column(one.shipped) for one in variants[1:]})


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
