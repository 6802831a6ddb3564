"""Validate: which rows are fit for use, and which of them each later stage may see.

A suite of Great Expectations checks and a few rules that always hold judge the snapshot. Rows that fail a check with
``rows: quarantine`` are set aside with the reason; a failed error rejects the run, and the report says why.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core import files, manifest, reports
from tasks.core.errors import DataRejected, MachineError
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.settings import Validate
from tasks.core.splitting import TimeSplit
from tasks.core.stage import StageSettings
from tasks.validate import data_docs, report, results, splits, suite
from tasks.validate.engine import Engine, Judging
from tasks.validate.examine import Findings, examine
from tasks.validate.histories import Histories
from tasks.validate.judge import Judge
from tasks.validate.outcome import Outcome
from tasks.validate.profile import profile
from tasks.validate.rules import PARTS
from tasks.validate.snapshot import Snapshot, open_snapshot
from tasks.validate.write import write_parts

_ROLES = {f"{name}.parquet": "rows" for name in (*PARTS, "calibration", "quarantine")}
_ROLES |= {"results.json": "results", "report.html": "report"}


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Validate and split the snapshot.

    Raises:
        UsageError: if the suite is absent or wrong, or a check cannot be evaluated.
        DataRejected: if a rule or an error check fails; the report lies under ``<artifacts>/rejected/validate``.
        MachineError: if memory does not suffice, or the disk for what the engine puts there.
    """
    reports.forget_rejected(settings.artifacts, "validate")
    with _enough_memory(settings.own.engine):
        return _run(settings, inputs, out)


def _run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    snapshot = open_snapshot(inputs["ingest"])
    own = _at(settings.own, snapshot.as_of)
    checks = suite.load(settings.root / own.suite, dict(snapshot.columns), own.engine)
    log.info("validate: %d checks over %s rows", len(checks.checks), f"{snapshot.rows:,}")
    seconds: dict[str, float] = settings.measured.setdefault("seconds", {})
    with _timed(seconds, "checks"):
        engine = Engine()
        judging = _judging(own.engine, engine, settings.scratch / "validate")
        judge = Judge(checks, snapshot, own.max_quarantine_share, engine, judging)
        found = examine(judge, settings.base, own)
    with _timed(seconds, "profile"):
        columns = profile(snapshot, judging.distinct)
    name = settings.base.name
    whole = results.gather(
        name, own, snapshot, found.outcomes, found.reasons, found.split_facts, columns, found.by_design
    )
    files.write_json(out / "results.json", whole)
    files.write_text(out / "report.html", report.render(whole))
    if own.data_docs:
        with files.replaced_folder(settings.artifacts / "data_docs") as folder:
            data_docs.build(judge.engine.context, judge.originals, name, folder)
    _tell(found.outcomes)
    if found.failed or found.parts is None:
        raise _rejected(settings, found.failed, out)
    with _timed(seconds, "splits"):
        drawn = splits.draw_calibration(found.parts, own.calibration_rows, settings.base.seed)
        histories = Histories(found.interactions, found.parts) if found.interactions else None
        write_parts(snapshot, out, found.parts, drawn, found.reasons, histories)
    return manifest.build(
        "validate", settings.hash, inputs, out, _ROLES, _metrics(whole), _facts(settings, own, snapshot, found)
    )


def _judging(name: str, engine: Engine, scratch: Path) -> Judging:
    """How ``validate.engine`` puts rows to Great Expectations."""
    from tasks.validate.in_batches import InBatches
    from tasks.validate.in_memory import InMemory

    if name == "pandas":
        return InMemory(engine)
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed run has left
    return InBatches(engine, scratch)


@contextmanager
def _enough_memory(engine: str) -> Iterator[None]:
    """Say which engine needs less, where memory does not suffice."""
    try:
        yield
    except MemoryError as error:
        smaller = "set validate.engine: duckdb, which reads the rows in batches (pip install '.[duckdb]')"
        raise MachineError(
            f"the columns of a check must fit into memory with validate.engine: {engine}",
            " ".join(str(error).split()) or "memory ran out",
            smaller if engine == "pandas" else "use a machine with more memory: docs/limits.md says what a row needs",
        ) from error


def _at(own: Validate, as_of: datetime | None) -> Validate:
    """The settings with the limits of a split by time fixed for the snapshot's moment."""
    if not isinstance(own.split, TimeSplit):
        return own
    return own.model_copy(update={"split": own.split.at(as_of)})


def _rejected(settings: StageSettings, failed: list[Outcome], out: Path) -> DataRejected:
    page = reports.publish_rejected(settings.artifacts, "validate", out) / "report.html"
    lines = "".join(f"\n    - {o.title}\n        found:   {o.found}\n        way out: {o.way_out}" for o in failed)
    return DataRejected(
        f"the rows must pass every rule and every error check of {settings.own.suite}",
        f"{len(failed)} failed{lines}",
        f"read {page}; the previous artifacts are untouched",
    )


def _tell(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.outcome in ("warning", "quarantined"):
            log.info("validate: %s: %s: %s", outcome.outcome, outcome.title, outcome.found)


def _metrics(whole: Mapping[str, Any]) -> dict[str, float]:
    counts = whole["counts"]
    metrics = {
        "validate.rows": whole["rows"],
        "validate.quarantined_share": whole["quarantine"]["share"],
        "validate.checks": sum(counts.values()),
        "validate.warnings": counts.get("warning", 0),
    }
    for split in whole["splits"]:
        metrics[f"validate.{split['name']}_rows"] = split["rows"]
        if split["positive_share"] is not None:
            metrics[f"validate.{split['name']}_positive_share"] = split["positive_share"]
    return metrics


def _facts(settings: StageSettings, own: Validate, snapshot: Snapshot, found: Findings) -> dict[str, Any]:
    rows = {split["name"]: split["rows"] for split in found.split_facts}
    rows |= {"calibration": own.calibration_rows, "quarantine": snapshot.rows - sum(rows.values())}
    return {
        "columns": dict(snapshot.columns),
        "tensors": {name: dict(tensor) for name, tensor in snapshot.tensors.items()},
        "target": settings.base.target,
        "task": found.target.task if found.target else "ranking",
        "classes": list(found.target.classes) if found.target else [],
        "rows": rows,
        "split": own.split.model_dump(mode="json"),
        "time_column": own.split.column if isinstance(own.split, TimeSplit) else None,
        "content_hash": snapshot.content_hash,
        "as_of": None if snapshot.as_of is None else snapshot.as_of.isoformat(),
        "user": settings.base.user,
        "time": settings.base.time,
    }


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[what] = round(time.perf_counter() - started, 3)
