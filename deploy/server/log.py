"""Structured logs: one JSON object a line, on standard output."""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from deploy.server.responses import dumps


def say(event: str, level: str = "info", **facts: Any) -> None:
    """Write a line: the time in UTC, the level, the event, and what is known about it."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "event": event} | facts
    sys.stdout.buffer.write(dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def shown(error: BaseException) -> str:
    """The traceback, for the log alone: clients never see it."""
    return "".join(traceback.format_exception(error))


class Lines(logging.Handler):
    """Turns what libraries log into such lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """See :class:`logging.Handler`."""
        facts = {"error": shown(record.exc_info[1])} if record.exc_info and record.exc_info[1] else {}
        say("library", record.levelname.lower(), logger=record.name, message=record.getMessage(), **facts)
