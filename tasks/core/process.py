"""How a stage's process behaves when told to stop, or when whoever started it dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DRIVER_VARIABLE = "ASSAY_DRIVER_PID"
_POLL_SECONDS = 0.5


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
    """End this process when the process that drives it is gone, also when that one was killed by SIGKILL.

    The driver is the process named by ``ASSAY_DRIVER_PID``, else the parent. A daemon thread polls: portable, and
    one system call every half second. The first process of a container has no parent, and nobody to watch.
    """
    import psutil

    named = int(os.environ.get(DRIVER_VARIABLE) or os.getppid())
    if named == 0:
        return
    try:
        driver = psutil.Process(named)
    except psutil.NoSuchProcess:
        os._exit(128 + signal.SIGTERM)

    def lives() -> bool:
        try:
            return bool(driver.is_running()) and driver.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it ended between the two questions
            return False

    def watch() -> None:
        while lives():
            time.sleep(_POLL_SECONDS)
        print("the process that started this one is gone: stopping", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # a native call that holds the interpreter would never see the signal
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="watch-driver").start()
