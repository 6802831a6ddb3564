"""Several processes on this machine that train one network together: one for each GPU, or each with some cores."""

from __future__ import annotations

import functools
import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from typing import Any

from tasks.tune.elsewhere import local
from tasks.tune.processes import Worker, take_gpu
from tasks.tune.trial import Event, Job, Outcome, Runner, Task

#: Where one of them fails, the others get so long to fail likewise.
_GRACE_SECONDS = 20.0


class Together:
    """A :class:`~tasks.tune.trial.Runner` of several workers, which are asked the same and answer the same."""

    _numbers = itertools.count()

    def __init__(self, job: Job, index: int = 0) -> None:
        """Start ``tune.processes`` workers, of so many such groups after others."""
        self._job, self._first = job, index * job.tune.processes
        self._workers: list[Worker] = []
        self._start()

    def begin(self, task: Task) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._ask("begin", task)

    def go_on(self, stop: bool) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._ask("go_on", stop)

    def close(self) -> None:
        """See :class:`~tasks.tune.trial.Runner`."""
        for worker in self._workers:
            worker.close()

    def _start(self) -> None:
        meeting = self._job.folder / f"meeting-{os.getpid()}-{next(self._numbers)}"
        ranks = range(self._job.tune.processes)
        self._workers = [
            Worker(self._job, functools.partial(member, rank=rank, place=self._first + rank, meeting=meeting.as_uri()))
            for rank in ranks
        ]

    def _start_again(self) -> None:
        self.close()
        self._start()

    def _ask(self, method: str, argument: Any) -> Event:
        if not all(worker.is_alive() for worker in self._workers):  # who comes later would find nobody to meet
            self._start_again()
        with ThreadPoolExecutor(len(self._workers)) as pool:
            answers: list[Future[Event]] = [pool.submit(getattr(worker, method), argument) for worker in self._workers]
            failed = next((one for one in as_completed(answers) if _has_failed(one)), None)
            if failed is not None and wait(answers, timeout=_GRACE_SECONDS).not_done:
                self.close()  # the others wait for one that has left this training
        if failed is not None:
            if not all(worker.is_alive() for worker in self._workers):
                self._start_again()
            return failed.result()
        return answers[0].result()


def _has_failed(answer: Future[Event]) -> bool:
    if answer.exception() is not None:
        return True
    event = answer.result()
    return isinstance(event, Outcome) and event.state == "failed"


def member(job: Job, rank: int, place: int, meeting: str) -> Runner:
    """The runner of one of the workers, once all of them have met.

    Args:
        job: the job of all.
        rank: its number among them.
        place: its number among all processes of the search.
        meeting: address of a file that no others have met in.
    """
    from torch import distributed as dist

    has_gpu = take_gpu(job, place)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    dist.init_process_group(
        "nccl" if has_gpu else "gloo", init_method=meeting, rank=rank, world_size=job.tune.processes
    )
    return local(job)
