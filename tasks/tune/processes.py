"""Trials in processes of their own on this machine."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from tasks.core.child import Child
from tasks.tune.elsewhere import Answer, Died, Elsewhere, Make, There, local
from tasks.tune.trial import Job, Runner


class Worker(Elsewhere):
    """Runs trials in a process, which is started anew when it has died."""

    def __init__(self, job: Job, make: Make = local) -> None:
        """Start it.

        Args:
            job: what its trials are about.
            make: makes the runner there.
        """
        self._job, self._make = job, make
        self._closing, self._closed = threading.Lock(), False  # it is closed while another thread may start it anew
        self._start()

    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._child.code is None

    def memory(self) -> int:
        """Bytes that the process holds."""
        import psutil

        return int(psutil.Process(self._child.pid).memory_info().rss)

    def close(self) -> None:
        """End the process; it is not started again."""
        with self._closing:
            self._closed = True
            self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        with self._closing:
            if self._closed:
                raise Died("the search is over")
            self._child = Child(_serve, self._job, self._make)

    def _ask(self, method: str, argument: Any) -> Answer:
        if not self.is_alive():
            if method != "begin":  # the trial that it was in the middle of is lost
                raise Died(_end(self._child.code))
            self._start()
        try:
            self._child.pipe.send((method, argument))
            answer: Answer = self._child.pipe.recv()
        except (EOFError, OSError) as error:
            raise Died(_end(self._child.wait())) from error
        return answer


def on_its_gpu(job: Job, place: int) -> Runner:
    """A runner of a job in this process, the one of that number among all of the search."""
    take_gpu(job, place)
    return local(job)


def take_gpu(job: Job, place: int) -> bool:
    """Let this process compute on a GPU of its own, as far as there are enough; whether there is any."""
    if job.base.device not in ("auto", "cuda"):
        return False
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
    return torch.cuda.is_available()


def _end(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL): most often because memory ran out"
    if code is not None and code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"


def _serve(pipe: Connection, job: Job, make: Make) -> None:
    """The process: answers one question after the other until the pipe is closed."""
    there = There(job, make)
    with suppress(EOFError, OSError):  # nobody asks any more; the answer holds all that fails here
        while True:
            pipe.send(there.answer(*pipe.recv()))
