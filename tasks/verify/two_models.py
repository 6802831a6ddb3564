"""Any two ONNX files and labelled rows: the gate outside the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import files, model_file
from tasks.core.brought.original import Brought, admit
from tasks.core.errors import UsageError
from tasks.core.metrics import find
from tasks.core.settings import Tune
from tasks.verify import gate, labelled, report
from tasks.verify.case import Case, Scorer
from tasks.verify.published import told_of

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.settings import Verify

#: Metric of a task, where none is named.
_USUAL = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}
#: Checks that need what a pipeline knows.
_NOT_HERE = {
    "data": "data: outside a pipeline nothing is known of the rows that the models were trained and calibrated on, nor "
    "how often these rows have judged",
}


@dataclass(frozen=True)
class Question:
    """What is asked of two files.

    Attributes:
        original: what the candidate must be as good as.
        candidate: the file that would be shipped.
        data: labelled rows, see :func:`tasks.verify.labelled.read`.
        label: name of the labels.
        task: ``auto``, ``binary``, ``multiclass`` or ``regression``.
        classes: labels are the integers below it; None takes those that occur.
        metric: what decides; None takes auc, accuracy or rmse.
        output: the files' output that is judged; None takes their only one of floats.
        group: column of what belongs together; None where each row stands alone.
        drop: columns that are no input, such as row numbers.
        device: where the candidate is judged.
        seed: of everything random.
    """

    original: Path
    candidate: Path
    data: Path
    label: str = "y"
    task: str = "auto"
    classes: int | None = None
    metric: str | None = None
    output: str | None = None
    group: str | None = None
    drop: tuple[str, ...] = ()
    device: str = "auto"
    seed: int = 0


def judge(question: Question, own: Verify, out: Path) -> dict[str, Any]:
    """Ask the gate, and leave ``verdict.json`` and ``report.html``.

    Args:
        question: the files and the rows.
        own: margins and checks, as in a params file.
        out: a folder, made if it is not there; what it holds of an earlier verdict is replaced.

    Returns:
        What ``verdict.json`` holds.

    Raises:
        UsageError: if a file does not fit the rows.
        IntegrityError: if a file is no ONNX file, or cannot be scored.
        DataRejected: if the rows are not what they must be.
        MachineError: if the device or the disk refuses.
    """
    for name in ("verdict.json", "report.html"):
        (out / name).unlink(missing_ok=True)  # an earlier verdict must not stand for this one
    with TemporaryDirectory(prefix="assay-") as scratch:
        case, slices, provider, read_as = _case(question, own, Path(scratch))
        known = []
        if "file" in own.checks:
            known = model_file.measure(case.shipped_file.folder, original=Path(scratch, "original", "model.onnx"))
            known.append(model_file.outside(question.candidate))
        judged = gate.decide(case, own, known, slices)
    told = told_of(question.candidate.name, files.sha256(question.candidate), provider, case, judged, own)
    told["notes"] += [read_as, *(_NOT_HERE[name] for name in own.checks if name in _NOT_HERE)]
    with files.machine_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        files.write_json(out / "verdict.json", told)
        files.write_text(out / "report.html", report.render(question.candidate.name, told, case))
    return told


def _case(question: Question, own: Verify, scratch: Path) -> tuple[Case, dict[str, np.ndarray], str, str]:
    """Both files' answers, the columns that cut the rows into slices, what ran the candidate, how answers were read.

    The original's answers tell probabilities from logits, and the candidate's are read alike: else one whose answers
    are neither would be refused instead of judged.
    """
    rows, facts = labelled.read(question.data, question.label, question.task, question.classes)
    metric = find(question.metric or _USUAL[facts["task"]], facts["task"])
    dropped = [*question.drop, *([] if question.group is None else [question.group])]
    if absent := sorted({*dropped, *own.slices} - set(rows.column_names)):
        there = ", ".join(rows.column_names)
        raise UsageError(
            "--group, --slice and --drop name columns of the rows", ", ".join(absent), f"choose from {there}"
        )
    raw = {"start_from": "model.onnx", "output": question.output, "features": {"drop": dropped}}
    tune = Tune.model_validate_json(files.canonical_json(raw))
    first = _admitted(question.original, facts, tune, rows, scratch / "original")
    kind = first.encoder.reading.kind
    second = _admitted(question.candidate, facts, tune, rows, scratch / "candidate", kind)
    original, shipped = Scorer(scratch / "original", "cpu"), Scorer(scratch / "candidate", question.device)
    columns = second.encoder.raw_inputs(rows)
    exported = shipped.score(columns)
    case = Case(
        labels=second.encoder.labels(rows),
        original=original.answers(first.encoder.raw_inputs(rows)),
        shipped=exported.answers,
        metric=metric,
        task=facts["task"],
        classes=facts["classes"],
        columns=columns,
        groups=None if question.group is None else _values(rows, question.group),
        original_file=original,
        shipped_file=shipped,
        seed=question.seed,
        confidence=own.confidence,
    )
    slices = {name: _values(rows, name) for name in own.slices}
    return case, slices, exported.provider, f"the answers of both files were read as {kind}, as the original's are"


def _values(rows: pa.Table, name: str) -> np.ndarray:
    return np.asarray(rows[name].to_numpy(zero_copy_only=False))


def _admitted(
    path: Path, facts: Mapping[str, Any], tune: Tune, rows: pa.Table, folder: Path, kind: str | None = None
) -> Brought:
    """A file that fits the rows, with what scoring needs in ``folder``; its answers read as ``kind``."""
    import onnx

    folder.mkdir()
    model = admit(path, facts, tune, rows, folder / "model.onnx", kind)
    onnx.save(model.encoder.wrap(model.core(rows)), folder / "model.onnx")
    files.write_json(folder / "signature.json", model.encoder.signature().as_dict())
    return model
