"""A log of sampled predictions, which `assay monitor` reads: one JSON object a line, in a folder of bounded size.

A file's lines are of two forms. A head says what the lines after it are about::

    {"model": "flights", "version": "1-bc0b...", "digest": "<SHA-256 of its manifest>", "spreads": ["carrier", ...]}

Each other one is a row: its time (to the second), the place of its bin in each spread (see :mod:`deploy.bins`), and
what was answered: a number, or of several classes the place of the answered one, or null where that is a ranking::

    {"time": "2013-11-02T07:15:03+00:00", "bins": [3, 1, ...], "answer": 0.1139, "id": "a7"}

What a row held cannot be read out of it: no bin of the reference has fewer rows than its ``least_count``, categories
that fewer rows have are one, persons are only there or missing, and lists are as long as they are. Two things are told
as they are. The answer, since AUC and the like cannot be had from bins. And the name that the client gave its request
(``id``), since without one no label that comes later finds its row; it is left out unless it is a short word, and a
client that must not tell whom a row is about names it at random. Whoever knows all of a row can find its
bins, as in any list of single rows: the folder is as private as the answers.

Nothing here can hold up or fail a request. A request's rows are drawn one by one, and kept in memory; a thread of its
own bins and writes them. Where it cannot keep up, or the disk refuses, rows are dropped and counted.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from deploy.errors import MachineError
from deploy.server.log import say, shown
from deploy.server.responses import dumps

if TYPE_CHECKING:
    from deploy.server.metrics import Metrics
    from deploy.server.requests import Request
    from deploy.server.settings import Predictions
    from deploy.server.version import Version

PATTERN = "predictions-*.jsonl"
#: What can be written down of the name that a client gave its request.
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Rows and bytes that wait for the thread at most, and seconds between two times that it writes.
_MOST_ROWS, _MOST_BYTES, _SECONDS = 1 << 16, 64 << 20, 1.0
#: A file is closed at this part of the folder's size, or when the day (in UTC) ends.
_PARTS = 16


@dataclass(frozen=True)
class _Asked:
    """Rows that were drawn out of one request; arrays are [rows, ...]."""

    version: Version
    seconds: float
    arrays: Mapping[str, np.ndarray]
    answers: np.ndarray
    ids: tuple[str | None, ...]
    size: int


class PredictionLog:
    """Draws rows in the thread of the event loop, and writes them in its own."""

    def __init__(self, settings: Predictions, model: str, metrics: Metrics) -> None:
        """Raises :class:`MachineError` if the folder cannot be written."""
        self._settings, self._model, self._metrics = settings, model, metrics
        self._random = np.random.default_rng()
        self._lock = threading.Lock()
        self._waiting: list[_Asked] = []
        self._rows = self._bytes = 0
        self._told = False
        self._files = _Files(settings.folder, settings.most_bytes)
        try:
            self._files.begin()
        except OSError as error:
            rule, found = (
                "the prediction log needs a folder that can be written",
                f"{settings.folder}: {error.strerror}",
            )
            raise MachineError(rule, found, "make it writable, or name another --prediction-log") from error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    def add(self, version: Version, request: Request, outputs: dict[str, np.ndarray]) -> None:
        """Draw rows of a request that was answered."""
        first = version.signature.outputs[0].name
        drawn = np.flatnonzero(self._random.random(request.rows) < self._settings.sample)
        if len(drawn) == 0 or not version.drift or first not in outputs:
            return
        those: Any = slice(None) if len(drawn) == request.rows else drawn  # a view costs less than a copy
        arrays = {name: array[those] for name, array in (request.tensors | outputs).items() if name in version.drift}
        size = sum(array.nbytes for array in arrays.values())
        if self._rows + len(drawn) > _MOST_ROWS or self._bytes + size > _MOST_BYTES:
            self._metrics.predictions(len(drawn), "dropped")
            return
        ids = _ids(request, drawn)
        asked = _Asked(version, time.time(), arrays, _answers(version, outputs[first][those]), ids, size)
        with self._lock:
            self._waiting.append(asked)
            self._rows += len(drawn)
            self._bytes += size

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._stop.set()
        self._thread.join(10 * _SECONDS)

    def _run(self) -> None:
        while not self._stop.wait(_SECONDS):
            self._write()
        self._write()
        self._files.close()

    def _write(self) -> None:
        with self._lock:
            waiting, self._waiting, self._rows, self._bytes = self._waiting, [], 0, 0
        rows = sum(len(asked.ids) for asked in waiting)
        try:
            for asked in waiting:
                self._files.write(self._head(asked.version), _lines(asked))
            self._files.flush()
        except Exception as error:  # noqa: BLE001 (it is told and counted; requests go on)
            if not self._told:
                reason = str(error) if isinstance(error, OSError) else shown(error)
                say("prediction_log_failed", "error", folder=str(self._settings.folder), error=reason)
            self._told = True
            self._metrics.predictions(rows, "dropped")
            self._files.close()
        else:
            self._told = False
            self._metrics.predictions(rows, "logged")

    def _head(self, version: Version) -> dict[str, Any]:
        spreads = [spread.name for spreads in version.drift.values() for spread in spreads if spread.each_row]
        return {"model": self._model, "version": version.name, "digest": version.digest, "spreads": spreads}


class _Files:
    """The files of this process; a file of another one is never written to, but the oldest go when all are too many."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self._file: BinaryIO | None = None
        self._head: dict[str, Any] | None = None
        self._day, self._size, self._number = "", 0, 0

    def begin(self) -> None:
        """Close the file that is written, make room, and open another one."""
        self.close()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room()
        now = datetime.now(UTC)
        self._number += 1
        name = f"predictions-{now:%Y%m%dT%H%M%S}-{os.getpid()}-{self._number}.jsonl"
        self._file = (self._folder / name).open("xb")
        self._day, self._size = f"{now:%Y%m%d}", 0

    def write(self, head: dict[str, Any], lines: Iterator[dict[str, Any]]) -> None:
        """Write rows, after their head unless it was the last one in this file."""
        if self._file is None or self._size >= self._most // _PARTS or f"{datetime.now(UTC):%Y%m%d}" != self._day:
            self.begin()
        given = lines if head == self._head else (head, *lines)
        self._head = head
        data = b"".join(dumps(line) + b"\n" for line in given)
        self._size += len(data)
        assert self._file is not None  # noqa: S101 (`begin` opened it)
        self._file.write(data)

    def flush(self) -> None:
        """Give the system what was written."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Close the file, whatever the disk says to that."""
        file, self._file, self._head = self._file, None, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _make_room(self) -> None:
        """Remove the oldest files, until one more fits in."""
        found = []
        for path in self._folder.glob(PATTERN):
            with suppress(FileNotFoundError):  # another server made room as well
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        found.sort()
        total = sum(size for _, size, _ in found)
        for _, size, path in found:
            if total <= self._most - self._most // _PARTS:
                return
            path.unlink(missing_ok=True)
            total -= size


def _ids(request: Request, drawn: np.ndarray) -> tuple[str | None, ...]:
    """What each row is called: as its request, and of several rows in one with the row's place after a colon."""
    if request.id is None or not _WORD.fullmatch(request.id):
        return (None,) * len(drawn)
    return (request.id,) if request.rows == 1 else tuple(f"{request.id}:{row}" for row in drawn.tolist())


def _answers(version: Version, answers: np.ndarray) -> np.ndarray:
    """A number a row: the answer, or the place of the likeliest class; NaN where it is a ranking."""
    flat = answers.reshape(len(answers), -1)
    if flat.dtype.kind != "f":
        return np.full(len(flat), np.nan)
    return flat[:, 0].astype(np.float64) if version.signature.outputs[0].is_column else flat.argmax(axis=1)


def _lines(asked: _Asked) -> Iterator[dict[str, Any]]:
    spreads = [
        spread.place(asked.arrays[name])
        for name, spreads in asked.version.drift.items()
        for spread in spreads
        if spread.each_row
    ]
    when = datetime.fromtimestamp(asked.seconds, UTC).isoformat(timespec="seconds")
    for places, answer, name in zip(np.stack(spreads, axis=1).tolist(), asked.answers.tolist(), asked.ids, strict=True):
        line = {"time": when, "bins": places, "answer": float(f"{answer:.6g}")}
        yield line if name is None else line | {"id": name}
