"""Runs a function in a process of its own: a model that kills the runtime does not kill the search."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.child import Child
from tasks.core.errors import AssayError, MachineError
from tasks.core.files import machine_errors
from tasks.core.process import stop_on_terminate

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
    child = Child(_answer, function, arguments)
    kind: str = "late"
    found: Any = None
    try:
        if child.pipe.poll(seconds):
            kind, found = child.pipe.recv()
    except (EOFError, OSError):  # it died before, or in the middle of, its answer
        kind = "dead"
    finally:
        if kind == "late":  # or Ctrl-C came: it may still put the terminal in order, where it draws a bar
            child.terminate()
        child.wait(1)
        child.kill()
        child.wait()
    if kind == "done":
        result: T = found
        return result
    if kind == "refused":
        raise found
    raise Crashed(found or _end(kind, child.code, seconds))


def _end(kind: str, code: int | None, seconds: float) -> str:
    if kind == "late":
        return f"the runtime took longer than {seconds:.0f} s"
    if code is not None and code < 0:
        return f"the runtime was ended by {signal.Signals(-code).name}"
    return f"the runtime's process ended with code {code}"


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The process."""
    stop_on_terminate()
    with suppress(ConnectionError):  # nobody listens any more
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
