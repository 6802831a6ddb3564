"""Carries the lines of a stage's log to Prefect while the stage runs.

They go to Prefect's API alone: the stage prints them to the terminal itself.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S* (?P<level>[A-Z]+) (?P<text>.*)$")


class Follower:
    """Reads what is appended to a log file that its stage starts afresh.

    Args:
        path: the log file; lines of an earlier run, if it is there already, are not told again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = self._stamp()
        self._offset = 0
        self._rest = b""
        self._level = logging.INFO

    def new_lines(self) -> list[tuple[int, str]]:
        """The complete lines since the last call: (logging level, text); a line without a level goes on at the last."""
        stamp = self._stamp()
        if stamp is None or stamp == self._told:
            return []
        self._told = stamp
        with self._path.open("rb") as file:
            if stamp[1] < self._offset:  # started afresh once more (a retry)
                self._offset, self._rest = 0, b""
            file.seek(self._offset)
            fresh = file.read()
        self._offset += len(fresh)
        *lines, self._rest = (self._rest + fresh).split(b"\n")
        return [self._parsed(line.decode("utf-8", errors="replace")) for line in lines]

    def _stamp(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size

    def _parsed(self, line: str) -> tuple[int, str]:
        found = _LINE.match(line)
        if not found:
            return self._level, line
        self._level = logging.getLevelNamesMapping().get(found["level"], logging.INFO)
        return self._level, found["text"]


def last_error(path: Path) -> str:
    """The last error that a log tells, all its lines; empty if it tells none."""
    words: list[str] = []
    within = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        if found := _LINE.match(line):
            within = found["level"] == "ERROR"
            words = [found["text"]] if within else words
        elif within:
            words.append(line)
    return "\n".join(words)


def api_logger() -> logging.Logger:
    """A logger whose records belong to the Prefect run that is active, and are shown nowhere else."""
    from prefect.logging.handlers import APILogHandler

    logger = logging.getLogger("assay.stage")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        logger.addHandler(APILogHandler())
    return logger
