"""``verdict.json``: what the gate says of a file, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import files, uses
from tasks.core.metrics import class_recalls, find, usual
from tasks.core.verdict import Line
from tasks.verify.behaviour import probabilities
from tasks.verify.case import Case
from tasks.verify.gate import Judged

if TYPE_CHECKING:
    from tasks.core.settings import Verify

#: A table of more is not read by anybody.
_MOST_CLASSES = 12
#: Of a line.
_FIGURES = ("original", "shipped", "loss", "lower", "upper")


def told_of(variant: str, model_sha256: str, provider: str, case: Case, judged: Judged, own: Verify) -> dict[str, Any]:
    """The verdict on one file.

    Args:
        variant: what the file is called: the target that it is for, or its name.
        model_sha256: its hash.
        provider: what ran it.
        case: the answers.
        judged: what the gate says.
        own: the section of the settings.
    """
    about = {"variant": variant, "model_sha256": model_sha256, "provider": provider}
    verdict, comparison = judged.verdict, judged.comparison
    return {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "lines": [] if comparison is None else [_line(case, judged) | about],
        "checks": [_check(line) | {"variant": variant} for line in verdict.lines],
        "notes": judged.notes,
        "drawings": {} if comparison is None else files.without_nan(judged.drawings | _confusion(case) | _sizes(case)),
        "figures": {} if comparison is None else figures(case),
        "confidence": own.confidence,
        "method": "" if comparison is None else comparison.method,
        "provider": provider,
        "model_sha256": model_sha256,
    }


def steady(told: Mapping[str, Any]) -> dict[str, Any]:
    """An ACCEPT without what differs from run to run: equal runs must make bundles of equal content and name.

    Of a line that varies, its word and its limit stay; :func:`varying` has the rest for the run record.
    """
    test = {key: value for key, value in told["test"].items() if key != uses.NUMBERS}
    return {**told, "checks": [_steady(line) if line["varies"] else line for line in told["checks"]], "test": test}


def varying(told: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`steady` leaves out, whole: the lines, and what :func:`tasks.core.uses.told` says of the test set."""
    return {"checks": [line for line in told["checks"] if line["varies"]], "test": told["test"]}


def _steady(line: Mapping[str, Any]) -> dict[str, Any]:
    within = "" if line["margin"] is None else f" within {line['margin']:.6g}"
    reason = f"{line['name']}:{within or ' nothing found'}; the figures are in the run record"
    return {**line, **dict.fromkeys(_FIGURES), "n": 1, "note": "", "reason": reason}


def _confusion(case: Case) -> dict[str, Any]:
    """Rows of each class (down) by the class that was decided for (right), for both models, where classes are few."""
    if case.task not in ("binary", "multiclass") or len(case.classes) > _MOST_CLASSES:
        return {}
    count = len(case.classes)
    sides = {}
    for side, answers in (("original", case.original), ("shipped", case.shipped)):
        decided = probabilities(answers).argmax(axis=1)
        cells = np.bincount(case.labels.astype(np.int64) * count + decided, minlength=count * count)
        sides[side] = cells.reshape(count, count).tolist()
    return {"confusion": {"classes": [str(value) for value in case.classes], **sides}}


def _sizes(case: Case) -> dict[str, Any]:
    """Bytes of both files, where there are such files."""
    both = {"original": case.original_file, "shipped": case.shipped_file}
    paths = {side: scorer.folder / "model.onnx" for side, scorer in both.items() if scorer is not None}
    sizes = {side: path.stat().st_size for side, path in paths.items() if path.is_file()}
    return {"size": sizes} if len(sizes) == 2 else {}


def _check(line: Line) -> dict[str, Any]:
    """One thing measured, with its word."""
    found = {key: files.without_nan(value) for key, value in asdict(line.measured).items()}
    return found | {"verdict": line.verdict, "reason": line.reason}


def _line(case: Case, judged: Judged) -> dict[str, Any]:
    """The metric, and the word for the file as a whole."""
    found = {key: files.without_nan(value) for key, value in asdict(judged.comparison).items()}  # type: ignore[arg-type]  # it is
    return found | {
        "metric": case.metric.name,
        "bound": found.pop("upper"),
        "margin": files.without_nan(judged.margin),
        "verdict": judged.verdict.verdict,
        "reason": judged.verdict.reason,
    }


def figures(found: Case) -> dict[str, dict[str, Any]]:
    """Every usual metric of the task for both models, and the recall of each class: name -> original, shipped."""
    result: dict[str, Mapping[str, float]] = {}
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
    return {name: {side: files.without_nan(value) for side, value in pair.items()} for name, pair in result.items()}
