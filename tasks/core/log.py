"""Log lines of a stage: to the terminal and to ``<artifacts>/logs/<stage>.log``; progress bars where a person looks."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("assay")

_SECONDS_BETWEEN_LINES = 10.0


def log_file(artifacts: Path, stage: str) -> Path:
    """Where a stage's log lies. It is a record of the last run, not an output that DVC hashes."""
    return artifacts / "logs" / f"{stage}.log"


class _File(logging.FileHandler):
    """A log file whose own failure fails the stage, instead of a traceback for each line on standard error."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's names
        raise  # noqa: PLE0704 - logging calls this while it handles the error


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send the ``assay`` logger to standard error and, afresh, to ``path`` for the length of the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr), _File(path, "w", "utf-8")]
    handlers[0].setFormatter(logging.Formatter("%(message)s"))
    handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in handlers:
        log.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar in a terminal, or with a plain log line at most every ten seconds elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, what, total=total, console=Console(stderr=True), transient=True)
        return
    told = time.monotonic()
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - told >= _SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            log.info("%s: %d%s", what, done, f" of {total}" if total else "")
