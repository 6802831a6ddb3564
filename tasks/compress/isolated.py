"""Runs a function in a process of its own: a model that kills the runtime does not kill the search."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import AssayError, MachineError
from tasks.core.files import machine_errors

T = TypeVar("T")


class Crashed(Exception):
    """The process ended without an answer; the text says how."""


def call(function: Callable[..., T], *arguments: Any, seconds: float) -> T:
    """Call a module-level function with picklable arguments in a fresh process.

    Raises:
        Crashed: if the process dies, raises, or takes longer than ``seconds``.
        MachineError: if the function raises one (CUDA asked for and not used, for example), or there is no room on the
            disk for temporary files: the machine's fault, and no verdict on a model.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there,), daemon=True)
    process.start()
    there.close()
    kind: str
    found: Any
    try:
        here.send((function, arguments))
        kind, found = here.recv() if here.poll(seconds) else ("late", None)
    except (EOFError, OSError):  # it died before, or in the middle of, its answer
        kind, found = "dead", None
    finally:
        here.close()
        process.join(timeout=1)
        process.kill()
        process.join()
    if kind == "done":
        result: T = found
        return result
    if kind == "refused":
        raise found
    raise Crashed(found or _end(kind, process.exitcode, seconds))


def _end(kind: str, code: int | None, seconds: float) -> str:
    if kind == "late":
        return f"the runtime took longer than {seconds:.0f} s"
    if code is not None and code < 0:
        return f"the runtime was ended by {signal.Signals(-code).name}"
    return f"the runtime's process ended with code {code}"


def _answer(pipe: Connection) -> None:
    """The process; its question comes through the pipe, since Python complains of arguments that a kill cut off."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function, arguments = pipe.recv()
    except EOFError:
        return
    try:
        with machine_errors(Path(tempfile.gettempdir())):
            found = function(*arguments)
        pipe.send(("done", found))
    except MachineError as error:
        pipe.send(("refused", error))
    except AssayError as error:
        pipe.send(("failed", f"{error.rule}: {error.found}"))
    except Exception as error:  # noqa: BLE001 (whatever it is, the search must hear of it)
        pipe.send(("failed", f"{type(error).__name__}: {str(error)[:500]}"))


def _end_with_parent() -> None:
    """A killed search must not leave a race behind that would spoil the next one's times."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
