"""Runs a function in a process of its own: a model that kills the runtime does not kill the search."""

from __future__ import annotations

import pickle
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

#: How long a process that is done, or asked to end, may take for it.
_GRACE_SECONDS = 2.0


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
    kind: str = "none"
    found: Any = None
    try:
        if child.pipe.poll(seconds):
            kind, found = pickle.loads(child.pipe.recv_bytes())  # noqa: S301 (of our own process)
    except (EOFError, OSError):  # it died before, or in the middle of, its answer
        kind = "dead"
    finally:
        if kind == "none":  # too late, or Ctrl-C: it may still put the terminal in order, where it draws a bar
            child.terminate()
        child.wait(_GRACE_SECONDS)
        child.kill()
        child.wait()
    if kind == "done":
        result: T = found
        return result
    if kind == "refused":
        raise found
    raise Crashed(found or _end(kind, child.code, seconds))


def _end(kind: str, code: int | None, seconds: float) -> str:
    if kind == "none":
        return f"the runtime took longer than {seconds:.0f} s"
    if code == 128 + signal.SIGTERM:  # see stop_on_terminate
        code = -signal.SIGTERM
    if code is not None and code < 0:
        return f"the runtime was ended by {signal.Signals(-code).name}"
    return f"the runtime's process ended with code {code}"


def _answer(pipe: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """The process."""
    stop_on_terminate()
    try:
        with machine_errors(Path(tempfile.gettempdir())):
            answer = pickle.dumps(("done", function(*arguments)))
    except MachineError as error:
        answer = pickle.dumps(("refused", error))
    except AssayError as error:
        answer = pickle.dumps(("failed", f"{error.rule}: {error.found}"))
    except Exception as error:  # noqa: BLE001 (whatever it is, the search must hear of it)
        answer = pickle.dumps(("failed", f"{type(error).__name__}: {str(error)[:500]}"))
    with suppress(OSError):  # nobody listens any more
        pipe.send_bytes(answer)
