"""Any two ONNX files and labelled rows: the gate outside the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import files
from tasks.core.brought.original import Brought, admit
from tasks.core.metrics import find
from tasks.core.settings import Tune
from tasks.verify import labelled
from tasks.verify.case import Case, Scorer

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.settings import Verify

#: Metric of a task, where none is named.
_USUAL = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}


def compare(
    original: Path,
    candidate: Path,
    data: Path,
    *,
    label: str,
    task: str,
    classes: int | None,
    metric: str | None,
    output: str | None,
    drop: tuple[str, ...],
    device: str,
    verify: Verify,
    seed: int,
    scratch: Path,
) -> Case:
    """Both files' answers to the rows.

    Args:
        original: what the candidate must be as good as.
        candidate: the file that would be shipped.
        data: labelled rows, see :func:`tasks.verify.labelled.read`.
        label: name of the labels.
        task: ``auto``, ``binary``, ``multiclass`` or ``regression``.
        classes: labels are the integers below it; None takes those that occur.
        metric: what decides; None takes auc, accuracy or rmse.
        output: the files' output that is judged; None takes their only one of floats.
        drop: columns that the files do not read.
        device: where the candidate is judged.
        verify: confidence.
        seed: of everything random.
        scratch: an empty folder for the files as they are scored.

    Raises:
        UsageError: if a file does not fit the rows.
        IntegrityError: if a file is no ONNX file, or cannot be scored.
        DataRejected: if the rows are not what they must be.
    """
    rows, facts = labelled.read(data, label, task, classes)
    judged = find(metric or _USUAL[facts["task"]], facts["task"])
    raw = {"start_from": "model.onnx", "output": output, "features": {"drop": list(drop)}}
    tune = Tune.model_validate_json(files.canonical_json(raw))
    first, second = (
        _admitted(path, facts, tune, rows, scratch / name)
        for name, path in (("original", original), ("candidate", candidate))
    )
    scorers = Scorer(scratch / "original", "cpu"), Scorer(scratch / "candidate", device)
    columns = second.encoder.raw_inputs(rows)
    answers = [
        scorer.answers(model.encoder.raw_inputs(rows)) for scorer, model in zip(scorers, (first, second), strict=True)
    ]
    return Case(
        second.encoder.labels(rows), answers[0], answers[1], judged, facts["task"], facts["classes"], columns, None,
        scorers[0], scorers[1], seed, verify.confidence,
    )  # fmt: skip


def _admitted(path: Path, facts: Mapping[str, Any], tune: Tune, rows: pa.Table, folder: Path) -> Brought:
    """A file that fits the rows, with what scoring needs in ``folder``."""
    import onnx

    folder.mkdir()
    model = admit(path, facts, tune, rows, folder / "model.onnx")
    onnx.save(model.encoder.wrap(model.core(rows)), folder / "model.onnx")
    files.write_json(folder / "signature.json", model.encoder.signature().as_dict())
    return model
