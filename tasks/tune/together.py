"""Several processes on this machine that train one network together: one for each GPU, or each with some cores."""

from __future__ import annotations

import functools
import os
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any

from tasks.core import devices
from tasks.tune.elsewhere import local
from tasks.tune.processes import Worker, take_gpu
from tasks.tune.trial import Event, Job, Outcome, Runner, Task

#: Where one of them fails, the others get so long to fail likewise.
_GRACE_SECONDS = 20.0


class Together:
    """A :class:`~tasks.tune.trial.Runner` of several workers, which are asked the same and answer the same."""

    def __init__(self, job: Job, index: int = 0) -> None:
        """Start ``tune.processes`` workers, of so many such groups after others.

        Raises:
            MachineError: if there are not as many GPUs.
        """
        devices.check_enough(job.base, job.tune.processes)
        self._job, self._index = job, index
        self._workers: list[Worker] = []
        self._closing, self._closed = threading.Lock(), False  # it is closed while another thread may start it anew
        self._start()

    def begin(self, task: Task) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._ask("begin", task)

    def go_on(self, stop: bool) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._ask("go_on", stop)

    def close(self) -> None:
        """See :class:`~tasks.tune.trial.Runner`."""
        with self._closing:
            self._closed = True
            self._end()

    def _start(self) -> None:
        self._forget_meetings()
        count = self._job.tune.processes
        # No two may ever have one name: what an earlier group said there would be taken for this one's.
        meeting = self._job.folder / f"{self._prefix()}{uuid.uuid4().hex}"
        self._workers = [
            Worker(self._job, functools.partial(member, rank=rank, place=self._index * count + rank, meeting=meeting))
            for rank in range(count)
        ]

    def _end(self) -> None:
        for worker in self._workers:
            worker.close()
        self._forget_meetings()

    def _forget_meetings(self) -> None:
        """Remove the files of groups of this number that are no more, also of a search that was killed."""
        for meeting in self._job.folder.glob(f"{self._prefix()}*"):
            meeting.unlink(missing_ok=True)

    def _prefix(self) -> str:
        return f"meeting-{self._index}-"

    def _start_again(self) -> None:
        with self._closing:
            self._end()
            if not self._closed:
                self._start()

    def _ask(self, method: str, argument: Any) -> Event:
        if not all(worker.is_alive() for worker in self._workers):  # who comes later would find nobody to meet
            self._start_again()
            if method != "begin":
                return Outcome("failed", error="one of its processes died between two epochs")
        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                answers: list[Future[Event]] = [
                    pool.submit(getattr(worker, method), argument) for worker in self._workers
                ]
                failed = next((one for one in as_completed(answers) if _has_failed(one)), None)
                if failed is not None and wait(answers, timeout=_GRACE_SECONDS).not_done:
                    self._end()  # the others wait for one that has left this training
            except BaseException:  # Ctrl-C, of which the workers do not hear: the pool would wait for their answers
                self.close()
                raise
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


def member(job: Job, rank: int, place: int, meeting: Path) -> Runner:
    """The runner of one of the workers, once all of them have met.

    Args:
        job: the job of all.
        rank: its number among them.
        place: its number among all processes of the search.
        meeting: a file that no others have met in.
    """
    from torch import distributed as dist
    from torch.distributed.constants import default_pg_timeout

    has_gpu = take_gpu(job, place)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all are on this machine
    count = job.tune.processes
    # Not by the file's address, which torch takes for its path, %20 and all.
    store = dist.FileStore(str(meeting), count)  # type: ignore[attr-defined] # it does not say that it exports it
    store.set_timeout(default_pg_timeout)
    dist.init_process_group("nccl" if has_gpu else "gloo", store=store, rank=rank, world_size=count)
    return local(job)
