"""How a stage's process behaves when told to stop, or when whoever started it dies."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

DRIVER_VARIABLE = "ASSAY_DRIVER_PID"
_POLL_SECONDS = 0.5
_SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "fish"}


def stop_on_terminate() -> None:
    """Make SIGTERM raise :class:`SystemExit` (143), so that partial folders are removed on the way out."""

    def handler(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, handler)


@contextmanager
def dying_of_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once and silently, as it does most programs, instead of with a traceback."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def die_with_driver() -> None:
    """End this process when a process that drives it is gone, also when that one was killed by SIGKILL.

    The driver is the process named by ``ASSAY_DRIVER_PID``, else the parent; behind a shell that only passes a
    command on (``sh -c``, as DVC and make start theirs) also that shell's parent. A person's own shell drives
    nothing: a stage typed there may outlive it, as any program. A daemon thread polls: portable, and a few system
    calls every half second.
    """
    import psutil

    try:
        named = os.environ.get(DRIVER_VARIABLE)
        drivers = [psutil.Process(int(named))] if named else _drivers(psutil.Process())
    except psutil.NoSuchProcess:
        os._exit(128 + signal.SIGTERM)
    if not drivers:
        return

    def watch() -> None:
        while all(_lives(driver) for driver in drivers):
            time.sleep(_POLL_SECONDS)
        try:
            print("the process that started this one is gone: stopping", file=sys.stderr, flush=True)
        except OSError:  # who read this is gone as well; what waits in the buffer must not fail once more at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # a native call that holds the interpreter would never see the signal
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch-driver").start()


def _drivers(process: psutil.Process) -> list[psutil.Process]:
    """Ancestors of a process whose end is its end as well; none where there is no parent (a container's first)."""
    parent = process.parent()
    if parent is None:
        return []
    if _program(parent) not in _SHELLS:
        return [parent]
    options = itertools.takewhile(lambda word: word.startswith("-"), parent.cmdline()[1:])
    passes_on = any("c" in option for option in options if not option.startswith("--"))
    return [parent, *_drivers(parent)] if passes_on else []


def _program(process: psutil.Process) -> str:
    return str(process.name()).removesuffix(".exe").lstrip("-")  # a login shell's name begins with "-"


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
