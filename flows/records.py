"""What retrainings leave: ``<artifacts>/runs/retrain/<id>/`` with ``record.json``, a page and the stages' reports."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.pipeline import Pipeline
from flows.publish import report
from flows.workplace import Workplace, git, holds
from tasks import retrain
from tasks.core import files
from tasks.core.settings import STAGES

#: How a record begins that says that staging was not reached.
REFUSED = "refused"
_RECORD = "record.json"
_TRIALS = "trials.csv"


@dataclass(frozen=True)
class Records:
    """The retrainings of one model on this machine."""

    home: Pipeline

    @property
    def folder(self) -> Path:
        """Where they lie, a folder each, whose names sort by time."""
        return self.home.artifacts / "runs" / "retrain"

    def new_id(self) -> str:
        """Name of the next one: this moment in UTC, or the last name and a sign, if the clock was set back since."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        last = max((path.name for path in self.folder.glob("*")), default="")
        return now if now > last else f"{last}+"

    def all(self) -> list[dict[str, Any]]:
        """Every record, oldest first."""
        return [files.read_json(path) for path in sorted(self.folder.glob(f"*/{_RECORD}"))]

    def last_accepted(self, but: str | None = None) -> dict[str, Any] | None:
        """The record of the last retraining that was accepted, that of id ``but`` left out."""
        accepted = (one for one in reversed(self.all()) if one["word"] == "ACCEPTED" and one["id"] != but)
        return next(accepted, None)

    def trials(self) -> Path | None:
        """The table of trials of the last accepted search."""
        last = self.last_accepted()
        path = None if last is None else self.folder / last["id"] / _TRIALS
        return path if path is not None and path.is_file() else None

    def write(self, state: Mapping[str, Any], word: str, reason: str, place: Workplace | None = None) -> dict[str, Any]:
        """Write a record, ``record.json`` last; return it. ``place`` has the reports to keep."""
        folder = self.folder / state["id"]
        folder.mkdir(parents=True, exist_ok=True)
        if place is not None:
            self._keep_reports(place.there_artifacts, folder, state.get("until", STAGES[-1]))
        when = datetime.now(UTC).isoformat(timespec="seconds")
        record = {**state, "word": word, "reason": reason, "when": when, "folder": str(folder)}
        record["next"] = next_commands(record, self._option)
        files.write_text(folder / "report.html", retrain.page(self._told(record, folder)))
        files.write_json(folder / _RECORD, record)
        return record

    @property
    def _option(self) -> str:
        """How commands name the params file, in the repository's folder: not at all if it is the default."""
        params = self.home.params.relative_to(self.home.repo).as_posix()
        return "" if params == "params.yaml" else f" --params {shlex.quote(params)}"

    def _told(self, record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """What the page tells: the record, what its stages left, and what changed since the last accepted run."""
        last = self.last_accepted(but=record["id"])
        before = {} if last is None else {**last, "metrics": _json(self.folder / last["id"] / "metrics.json") or {}}
        metrics = _json(folder / "metrics.json") or {}
        return {
            "record": dict(record),
            "before": before,
            "metrics": metrics,
            "verdict": _json(folder / "verify.json"),
            "checks": (_json(folder / "checks.json") or {}).get("outcomes", []),
            "trials": _rows(folder / _TRIALS),
            "candidates": _json(folder / "candidates.json") or [],
            "code": self._commits(before.get("commit"), record["commit"]),
            "pages": [path.name for path in sorted(folder.glob("*.html")) if path.name != "report.html"],
        }

    def _commits(self, before: str | None, now: str) -> list[str]:
        """The commits between two retrainings, newest first, those of retrainings left out."""
        if before is None or before == now:
            return []
        if not holds(self.home.repo, f"{before}^{{commit}}"):  # a shallow clone, or a history written anew
            return [f"{before[:12]}, the commit of the last accepted run, is not in this repository"]
        return git(self.home.repo, "log", "--oneline", "--no-decorate", "-50", f"{before}..{now}").splitlines()

    def _keep_reports(self, artifacts: Path, folder: Path, until: str) -> None:
        """Those of the stages up to one; what lies there of later ones is of the version before."""
        done = STAGES[: STAGES.index(until) + 1]
        pages = {name: path for stage in done for name, path in _reports(artifacts, stage).items()}
        for name, path in pages.items():
            if path.is_file():
                files.copy(path, folder / name)


def _reports(artifacts: Path, stage: str) -> dict[str, Path]:
    """Name in a record's folder -> what a stage left, if it left it."""
    own = artifacts / stage
    measured = artifacts / "runs" / "candidates.json"  # not there after a checkout
    known = {
        "tune": {"tune.html": own / "report.html", _TRIALS: own / "trials.csv"},
        "compress": {"candidates.json": measured if measured.is_file() else own / "candidates.json"},
        "verify": {"metrics.json": artifacts / "metrics.json"},
    }
    pages = dict(known.get(stage, {}))
    for passed in (True, False):  # what a stage rejected is newer than what it left before
        if (found := report(artifacts, stage, passed)) is not None:
            pages |= {f"{stage}.html": found.with_name("report.html"), f"{stage}{found.suffix}": found}
            pages |= {"checks.json": found.with_name("results.json")} if stage == "validate" else {}
    return pages


def next_commands(record: Mapping[str, Any], option: str) -> list[str]:
    """What a person can do now, as commands; ``option`` names the params file."""
    name = record["name"]
    if record["word"] == "ACCEPTED":
        promoted = record["staging"] is not None and not record["staging"].startswith(REFUSED)
        to = "prod" if promoted else "staging"
        merge = f"git merge {record['branch']} && dvc checkout"  # promotion wants the data of the version in place
        return [merge, f"assay promote {name} {record['version']} --to {to}{option}"]
    if record["word"] == "REJECTED":
        return [f"assay retrain{option}" if record["by"] == "data" else f"assay run{option}"]
    return [f"assay retrain{option}"] if record["word"] == "FAILED" else []


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _json(path: Path) -> Any:
    return files.read_json(path) if path.is_file() else None
