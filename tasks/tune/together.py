"""Several processes on this machine that train one network together: one for each GPU, or each with some cores."""

from __future__ import annotations

import functools
import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tasks.tune.elsewhere import local
from tasks.tune.processes import Worker
from tasks.tune.trial import Event, Job, Runner, Task


class Together:
    """A :class:`~tasks.tune.trial.Runner` of several workers, which are asked the same and answer the same."""

    _numbers = itertools.count()

    def __init__(self, job: Job) -> None:
        """Start ``tune.processes`` workers."""
        self._job = job
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
            Worker(self._job, functools.partial(member, rank=rank, meeting=meeting.as_uri())) for rank in ranks
        ]

    def _ask(self, method: str, argument: Any) -> Event:
        with ThreadPoolExecutor(len(self._workers)) as pool:
            answers: list[Future[Event]] = [pool.submit(getattr(worker, method), argument) for worker in self._workers]
        for worker, answer in zip(self._workers, answers, strict=True):
            if not worker.is_alive():  # the others can only have failed by its absence
                outcome = answer.result()
                self.close()
                self._start()
                return outcome
        first, *_ = [answer.result() for answer in answers]
        return first


def member(job: Job, rank: int, meeting: str) -> Runner:
    """The runner of one of the workers, once all of them have met.

    Args:
        job: the job of all.
        rank: its number among them.
        meeting: address of a file that no others have met in.
    """
    import torch
    from torch import distributed as dist

    has_gpu = torch.cuda.is_available() and job.base.device != "cpu"
    if has_gpu:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    dist.init_process_group(
        "nccl" if has_gpu else "gloo", init_method=meeting, rank=rank, world_size=job.tune.processes
    )
    return local(job)
