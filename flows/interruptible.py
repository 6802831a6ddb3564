"""Work that can be stopped: it runs beside the main thread, and the processes it started die with it.

DVC ignores SIGINT in the main thread while a stage runs, and starts the stage in our own process group. So the work
goes to another thread, the main thread stays free for signals, and on any of them (Ctrl-C, SIGTERM, Prefect's
cancellation) the stage's whole family of processes is ended before the signal's exception travels on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TypeVar

import psutil

T = TypeVar("T")

_TICK_SECONDS = 0.25
_GRACE_SECONDS = 10.0


def run(work: Callable[[], T], tick: Callable[[], None]) -> T:
    """Run ``work`` in a thread of its own, calling ``tick`` a few times a second; return what it returns.

    Args:
        work: what may block. The processes that are born meanwhile are ended if this call is interrupted.
        tick: called from this thread while the work goes on, and once after it.

    Raises:
        BaseException: what ``work`` raised, or what interrupted this thread.
    """
    elders = _descendants()
    future: Future[T] = Future()
    worker = threading.Thread(target=_fill, args=(future, work), name="stage", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            tick()
            worker.join(_TICK_SECONDS)
    except BaseException:
        end_descendants(elders)
        while worker.is_alive():  # it may have been just about to start a process
            worker.join(_TICK_SECONDS)
            end_descendants(elders)
        raise
    tick()
    return future.result()


def _fill(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 (the thread that waits raises it)
        future.set_exception(error)


def _descendants() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


def end_descendants(elders: Collection[psutil.Process] = (), grace: float = _GRACE_SECONDS) -> None:
    """End this process's descendants, ``elders`` aside: SIGTERM, and SIGKILL to those left after ``grace`` seconds."""
    family = [process for process in _descendants() if process not in elders]
    try:
        for process in family:
            _send(process.terminate)
        psutil.wait_procs(family, timeout=grace)
    finally:  # also when a second Ctrl-C cuts the wait short
        for process in family:
            if process.is_running():
                _send(process.kill)


def _send(signal: Callable[[], None]) -> None:
    try:
        signal()
    except psutil.NoSuchProcess:
        return
