"""Runners in processes of their own on this machine: a trial that kills its process is a failed trial, no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tasks.core.errors import AssayError
from tasks.tune.objective import Job, Objective
from tasks.tune.trial import Local, Outcome, Report, Runner, Task


class Bug(Exception):
    """Something in a worker that is no trial's fault; the text is its traceback."""


def local(job: Job) -> Runner:
    """A runner of a job, in this process."""
    return Local(Objective.prepare(job).train)


class Worker:
    """A :class:`~tasks.tune.trial.Runner` in a process, which is started anew when it dies."""

    def __init__(self, job: Job, make: Callable[[Job], Runner] = local) -> None:
        """Start it.

        Args:
            job: what its trials are about.
            make: makes the runner there; a module-level function.
        """
        self._job, self._make = job, make
        self._start()

    def begin(self, task: Task) -> Report | Outcome:
        """See :class:`~tasks.tune.trial.Runner`."""
        if not self._process.is_alive():
            self._start()
        return self._ask("begin", task)

    def go_on(self, stop: bool) -> Report | Outcome:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._ask("go_on", stop)

    def memory(self) -> int:
        """Bytes that the process holds."""
        import psutil

        return int(psutil.Process(self._process.pid).memory_info().rss)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._job, self._make), daemon=True)
        self._process.start()
        there.close()

    def _ask(self, method: str, argument: Any) -> Report | Outcome:
        try:
            self._pipe.send((method, argument))
            kind, found = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return Outcome("failed", error=_end(self._process.exitcode))
        if kind == "refused":
            raise found
        if kind == "bug":
            raise Bug(found)
        event: Report | Outcome = found
        return event


def _end(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL): most often because memory ran out"
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def _serve(pipe: Connection, job: Job, make: Callable[[Job], Runner]) -> None:
    """The process: answers one call after the other until the pipe is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the stage ends its workers
    try:
        runner = make(job)
        while True:
            method, argument = pipe.recv()
            pipe.send(("event", getattr(runner, method)(argument)))
    except EOFError:
        return
    except AssayError as error:
        pipe.send(("refused", error))
    except Exception:  # noqa: BLE001 (it is raised again where the search is)
        pipe.send(("bug", traceback.format_exc()))


def _end_with_parent() -> None:
    """A killed search must not leave trainings behind that nobody will ask for."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
