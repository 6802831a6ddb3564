"""What the judge is given: a case for each exported file, and what else is known of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from deploy.variants import Variant, Variants
from tasks.core import devices, manifest, original
from tasks.core.errors import UsageError
from tasks.core.metrics import find
from tasks.core.splitting import group_column
from tasks.core.stage import StageSettings
from tasks.verify.case import Case, Scorer
from tasks.verify.checks import Members
from tasks.verify.stored import Stored, asked, scored

if TYPE_CHECKING:
    from tasks.core.original import Original

#: The original as float ONNX, among the candidates of `compress`.
_FLOAT = "fp32.onnx"
#: Rows of train that are asked for; more make an attack's AUC no surer than test does.
_MOST_MEMBERS = 10_000


@dataclass(frozen=True)
class Evidence:
    """One exported file.

    Attributes:
        variant: the target that the file is for.
        folder: where it lies.
        model_sha256: its hash in the manifest of `compress`.
        rows: numbers of the rows in the snapshot, [n].
        case: both models' answers.
        provider: what ran the file.
        slices: columns that cut test into slices, [n] each.
        members: gives both models' answers to a sample of train; None where train holds no such rows.
    """

    variant: str
    folder: Path
    model_sha256: str
    rows: pa.ChunkedArray
    case: Case
    provider: str
    slices: Mapping[str, np.ndarray]
    members: Callable[[], Members] | None


def collect(settings: StageSettings, inputs: Mapping[str, Path], scratch: Path) -> list[Evidence]:
    """Score test with the original and with each variant, the first one first, on its device in a process of its own.

    Args:
        settings: of the stage.
        inputs: of the stage.
        scratch: a folder for the original as a file, which must stay as long as the evidence is used.

    Raises:
        UsageError: if a column that slices test is not there.
        IntegrityError: if the exported model cannot be scored.
        MachineError: if the device or the disk refuses.
    """
    base, validated = settings.base, inputs["validate"]
    facts, hashes = manifest.read(validated).facts, manifest.read(inputs["compress"]).files
    stored = Stored(validated / "test.parquet")
    slices = _slices(stored, settings.own.slices)
    model = original.load(inputs["tune"], devices.prepare(base))
    labels, answers = asked(model, stored)
    numbers, columns, together = stored.column("row"), stored.inputs(model.encoder), group_column(facts["split"])
    groups = None if together is None else _values(stored, together)
    metric = find(original.metric_name(base, facts["task"]), facts["task"])
    found = []
    for variant in Variants.read(inputs["compress"]).distinct():
        shipped = Scorer(inputs["compress"] / variant.folder, variant.device)
        shipped_answers, provider = scored(shipped, model.encoder, stored)
        case = Case(
            labels=labels,
            original=answers,
            shipped=shipped_answers,
            metric=metric,
            task=facts["task"],
            classes=tuple(facts["classes"]),
            columns=columns,
            groups=groups,
            original_file=_original_file(inputs["compress"], variant, scratch),
            shipped_file=shipped,
            seed=base.seed,
            confidence=settings.own.confidence,
        )

        def members(scorer: Scorer = shipped) -> Members:
            return _members(model, scorer, validated / "train.parquet", len(labels), base.seed)

        sha256 = hashes[variant.model].sha256
        # A recommender's train holds interactions, which are no requests that could be answered.
        wanted = None if facts["task"] == "ranking" else members
        found.append(Evidence(variant.target, shipped.folder, sha256, numbers, case, provider, slices, wanted))
    return found


def _original_file(compressed: Path, variant: Variant, scratch: Path) -> Scorer | None:
    """The original as float ONNX on the variant's device."""
    if not (compressed / _FLOAT).is_file():
        return None
    folder = scratch / "original"
    if not folder.is_dir():
        folder.mkdir()
        shutil.copyfile(compressed / _FLOAT, folder / "model.onnx")
        shutil.copyfile(compressed / "signature.json", folder / "signature.json")
    return Scorer(folder, variant.device)


def _slices(stored: Stored, names: Sequence[str]) -> dict[str, np.ndarray]:
    if absent := [name for name in names if name not in stored.names]:
        there = ", ".join(name for name in stored.names if name != "row")
        raise UsageError("verify.slices names columns of the rows", ", ".join(absent), f"choose from {there}")
    return {name: _values(stored, name) for name in names}


def _values(stored: Stored, name: str) -> np.ndarray:
    return np.asarray(stored.column(name).to_numpy(zero_copy_only=False))


def _members(model: Original, shipped: Scorer, train: Path, count: int, seed: int) -> Members:
    """Both models' answers to about as many rows of train as test has."""
    import pyarrow.dataset

    stored = pyarrow.dataset.dataset(train)
    total = stored.count_rows()
    chosen = np.random.default_rng(seed).choice(total, min(total, count, _MOST_MEMBERS), replace=False)
    rows = stored.take(pa.array(np.sort(chosen)))
    answers = shipped.score(model.encoder.raw_inputs(rows)).answers
    return Members(model.encoder.labels(rows), model.predict(rows), answers)


def predictions(variants: Sequence[Evidence]) -> pa.Table:
    """row (int64), label, and what each model answered: a value, or a list of them, a row.

    The first variant's answers are ``shipped``, those of another one ``shipped_<target>``.
    """
    first = variants[0]
    columns = {
        "row": first.rows,
        "label": pa.array(first.case.labels),
        "original": as_column(first.case.original),
        "shipped": as_column(first.case.shipped),
    }
    return pa.table(columns | {f"shipped_{one.variant}": as_column(one.case.shipped) for one in variants[1:]})


def as_column(answers: np.ndarray) -> pa.Array:
    """Answers [n] or [n, 1] as plain values, [n, k] as lists of fixed size."""
    width = int(np.prod(answers.shape[1:], dtype=np.int64))
    flat = pa.array(answers.ravel())
    return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
