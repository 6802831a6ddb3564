"""Gate `quality`: what the gate `verify` found of this very file, against the floors of the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tasks.core import files
from tasks.core.metrics import find
from tasks.promote.evidence import Evidence, Line
from tasks.promote.words import Said, Word


def ask(evidence: Evidence, task: str, floors: Mapping[str, float], slice_floor: float | None) -> Said:
    """Judge figures against their floors; of the metric that decides, the whole interval must keep to it.

    Args:
        evidence: of the bundle.
        task: of the model, as :func:`tasks.core.metrics.find` takes it.
        floors: figure -> least acceptable value, or the largest one where less is better.
        slice_floor: of the metric in each slice; None for none.
    """
    said = [*_verdict(evidence), *_floors(evidence, task, floors), *_slices(evidence, task, slice_floor)]
    figures = {name: pair.get("shipped") for name, pair in evidence.verdict.figures.items()}
    for word in ("FAIL", "INCONCLUSIVE"):
        if reasons := [reason for own, reason in said if own == word]:
            return Said(word, "; ".join(reasons), figures)
    asked = len(floors) + (slice_floor is not None)
    line = evidence.verdict.lines[0]
    fine = f"{line.metric} {line.shipped:.5g} on {line.n} test rows, proven as good as the original"
    fine += f"; {asked} floors hold" if asked else "; no floors are set"
    return Said("PASS", f"{fine}{_untested(evidence, slice_floor)}", figures)


def _verdict(evidence: Evidence) -> Iterator[tuple[Word, str]]:
    verdict = evidence.verdict
    if verdict.verdict != "ACCEPT":
        yield "FAIL", f"the verdict is {verdict.verdict}: {verdict.reason}"
    if files.sha256(evidence.folder / "model.onnx") != verdict.model_sha256:
        yield "FAIL", "the verdict is about another model.onnx"
    if dict(evidence.metrics.metrics) == {} or len(evidence.metrics.intervals) != len(verdict.lines):
        yield "FAIL", "metrics.json and verdict.json disagree"
    for own, line in zip(evidence.metrics.intervals, verdict.lines, strict=False):
        if own.get("shipped") != line.shipped or own.get("n") != line.n:
            yield "FAIL", f"metrics.json and verdict.json disagree about {line.metric} for {line.variant}"


def _floors(evidence: Evidence, task: str, floors: Mapping[str, float]) -> Iterator[tuple[Word, str]]:
    for name, floor in floors.items():
        shipped = evidence.verdict.figures.get(name, {}).get("shipped")
        if shipped is None:
            known = ", ".join(sorted(evidence.verdict.figures)) or "none"
            yield "INCONCLUSIVE", f"promote.floors: the verdict has no figure {name!r}; it has {known}"
            continue
        better = _better(name, task)
        lines = [line for line in evidence.verdict.lines if line.metric == name]
        for line in lines:
            yield from _interval(line, floor, better)
        if not lines and better * shipped < better * floor:
            yield "FAIL", f"{name} is {shipped:.5g}, the floor is {floor:.6g}"


def _interval(line: Line, floor: float, better: int) -> Iterator[tuple[Word, str]]:
    if better * line.shipped < better * floor:
        yield "FAIL", f"{line.metric} is {line.shipped:.5g} for {line.variant}, the floor is {floor:.6g}"
        return
    ends = [end for end in line.shipped_interval if end is not None]
    if not ends or min(better * end for end in ends) < better * floor:
        shown = " to ".join(f"{end:.5g}" for end in ends) or "unknown"
        yield "INCONCLUSIVE", f"{line.metric} is {line.shipped:.5g} ({shown}): more test rows must show {floor:.6g}"


def _slices(evidence: Evidence, task: str, floor: float | None) -> Iterator[tuple[Word, str]]:
    if floor is None:
        return
    lines = [check for check in evidence.verdict.checks if check.kind == "slice" and check.shipped is not None]
    if not lines:
        yield "INCONCLUSIVE", "promote.slice_floor: the gate judged no slices (verify.checks, verify.slices)"
    better = _better(evidence.verdict.lines[0].metric, task)
    for check in lines:
        if check.shipped is not None and better * check.shipped < better * floor:
            yield "FAIL", f"{check.name} is {check.shipped:.5g}, the floor of slices is {floor:.6g}"


def _untested(evidence: Evidence, floor: float | None) -> str:
    """Slices that nobody knows anything of, in the words of the gate `verify`; empty without a floor for them."""
    checks = evidence.verdict.checks if floor is not None else ()
    found = dict.fromkeys(one.note for one in checks if one.kind == "slice" and one.shipped is None)
    return f"; the floor of slices says nothing of those that were not tested: {'; '.join(found)}" if found else ""


def _better(name: str, task: str) -> int:
    """1 where more is better, else -1; a class's recall is no metric of its own."""
    return 1 if name.startswith("recall of ") or find(name, task).higher_is_better else -1
