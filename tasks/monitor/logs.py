"""Windows out of the server's prediction logs; their form is in :mod:`deploy.server.predictions`.

A window is a stretch of time of equal length, counted from 1970, that has ended. What a server writes while this reads
is not yet in one: windows are left alone for :data:`SETTLE` after their end.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from deploy.server.predictions import PATTERN
from tasks.core.errors import IntegrityError, UsageError
from tasks.monitor.bundle import Champion
from tasks.monitor.window import Found, Window

#: How long after its end a window is complete, and how far clocks may differ.
SETTLE = timedelta(minutes=5)
#: Of several classes a log holds the answered one alone; so much can be had of that.
_OF_CLASSES = ("accuracy", "macro_f1")


@dataclass
class _Rows:
    """Rows of the champion, packed, as they may be millions; and how many there were of others."""

    moments: array[float] = field(default_factory=lambda: array("d"))
    bins: array[int] = field(default_factory=lambda: array("H"))
    answers: array[float] = field(default_factory=lambda: array("d"))
    ids: list[str | None] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    torn: int = 0


def read(
    folder: Path, name: str, champion: Champion, hours: float, now: datetime, labels: Mapping[str, float] | None
) -> Found:
    """The windows of a folder of logs.

    Args:
        folder: with the files of one or more servers.
        name: of the model.
        champion: whose rows are looked at; those of other versions are only counted.
        hours: length of a window.
        now: this moment.
        labels: row's name -> label; None where there are none.

    Raises:
        UsageError: if there are no logs, or only such of another model or other versions.
        IntegrityError: if a line is none of a log. The last line of a file may be torn: its server was killed.
    """
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        found = f"{folder} has none" if folder.is_dir() else f"{folder} does not exist"
        way_out = f"assay serve ... --prediction-log {folder}, or name the right folder in monitor.predictions"
        raise UsageError(f"prediction logs are files {PATTERN}", found, way_out)
    rows = _Rows()
    order: list[str] = list(champion.spreads)
    for path in paths:
        _read_file(path, name, champion, order, rows)
    if rows.others and not rows.moments:
        kinds = ", ".join(f"{version} ({count} rows)" for version, count in rows.others.most_common(3))
        way_out = f"name the bundle that they are about with --bundle, or serve {champion.version}"
        raise UsageError(f"prediction logs are about {champion.version}, whose reference is used", kinds, way_out)
    return _windows(rows, order, champion, timedelta(hours=hours), now, labels, str(folder))


def _read_file(path: Path, name: str, champion: Champion, order: list[str], rows: _Rows) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    rows.torn += whole < len(data)
    head: dict[str, Any] = {}
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            told = json.loads(line)
            if "digest" in told:
                head = told
                _check_head(head, path, name, champion, order)
            elif head["digest"] != champion.digest:
                rows.others[head["version"]] += 1
            else:
                _keep(told, champion, order, rows)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            rule = "each line of a prediction log is a head, or a row in the bins of the head's reference"
            found = f"{path} line {number}: {type(error).__name__}: {error}"
            raise IntegrityError(rule, found, "find out who changed it, and remove the file") from error


def _check_head(head: Mapping[str, Any], path: Path, name: str, champion: Champion, order: list[str]) -> None:
    if head["model"] != name:
        rule, found = f"prediction logs are about {name}", f"{path} is about {head['model']}"
        raise UsageError(rule, found, "give each model a folder of its own")
    if head["digest"] == champion.digest and head["spreads"] != order:
        raise ValueError("a head with other spreads than the bundle's reference")


def _keep(told: Mapping[str, Any], champion: Champion, order: list[str], rows: _Rows) -> None:
    places = told["bins"]
    for place, spread in zip(places, order, strict=True):
        if not 0 <= place < len(champion.spreads[spread].bins):
            raise ValueError(f"{spread} has no bin {place}")
    rows.moments.append(datetime.fromisoformat(told["time"]).timestamp())
    rows.bins.extend(places)
    rows.answers.append(np.nan if told["answer"] is None else float(told["answer"]))
    rows.ids.append(told.get("id"))


def _windows(
    rows: _Rows,
    order: list[str],
    champion: Champion,
    length: timedelta,
    now: datetime,
    labels: Mapping[str, float] | None,
    source: str,
) -> Found:
    moments = np.array(rows.moments)
    future = moments > (now + SETTLE).timestamp()
    seconds = length.total_seconds()
    starts = np.floor(moments / seconds) * seconds
    ended = ~future & (starts + seconds <= (now - SETTLE).timestamp())
    bins = np.array(rows.bins).reshape(len(moments), len(order))
    answers, notes = _answers(np.array(rows.answers), champion), _notes(rows, future)
    known, doubtful = _labels(rows.ids, labels)
    if answers is not None and known is not None and (without := np.isnan(rows.answers)).any():
        known[without] = np.nan
        notes.append(f"{int(without.sum())} rows had no finite answer: the metric is that of the others")
    if doubtful:
        notes.append(f"{doubtful} rows share their id with others, so their labels are not used")
    windows = []
    for start in np.unique(starts[ended]).tolist():
        own = ended & (starts == start)
        counts = {
            spread: np.bincount(bins[own, place], minlength=len(champion.spreads[spread].bins))
            for place, spread in enumerate(order)
        }
        begins, ends = (datetime.fromtimestamp(moment, UTC) for moment in (start, start + seconds))
        windows.append(
            Window(
                begins.isoformat(),
                f"{begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC",
                int(own.sum()),
                counts,
                None if answers is None else answers[own],
                None if known is None else known[own],
            )
        )
    open_rows = int((~ended & ~future).sum())
    return Found(windows, source, notes, f"{open_rows} rows are in a window that has not ended yet")


def _notes(rows: _Rows, future: np.ndarray) -> list[str]:
    notes = [f"{count} rows of version {version} are left out" for version, count in sorted(rows.others.items())]
    if future.any():
        notes.append(f"{int(future.sum())} rows are from the future, and left out: look at the servers' clocks")
    if rows.torn:
        notes.append(f"{rows.torn} files end with a torn line, which is left out")
    return notes


def _answers(answers: np.ndarray, champion: Champion) -> np.ndarray | None:
    """As the metric takes them: scores [rows], or of classes the answered one as a certainty [rows, classes].

    Anything where a row has no answer; None where none has one, as with rankings.
    """
    shown, labels = champion.shown, champion.signature.outputs[0].labels
    if shown is None or np.isnan(answers).all():
        return None
    if labels is None or champion.signature.outputs[0].is_column:
        return answers
    places = np.nan_to_num(answers).astype(np.int64)
    return np.eye(len(labels))[places] if shown.metric.name in _OF_CLASSES else None


def _labels(ids: list[str | None], labels: Mapping[str, float] | None) -> tuple[np.ndarray | None, int]:
    """Label of each row, NaN where there is none; and how many rows have a name that is not theirs alone."""
    if labels is None:
        return None, 0
    often = Counter(ids)
    doubtful = sum(count for name, count in often.items() if name is not None and count > 1)
    found = [np.nan if name is None or often[name] > 1 else labels.get(name, np.nan) for name in ids]
    return np.array(found, np.float64), doubtful
