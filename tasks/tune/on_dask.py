"""Trials on a Dask cluster: an actor for each runner, one or more to a worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.core.errors import MachineError
from tasks.tune.elsewhere import Answer, Died, Elsewhere, Make, There, local
from tasks.tune.trial import Job, Outcome, Runner

if TYPE_CHECKING:
    from distributed import Client

_SECONDS = 30
#: A call that waits for its answer looks so often whether it is still to wait.
_LOOK_SECONDS = 1.0
_RULE = "tune.executor: dask needs a Dask cluster that answers and has workers"
_WAY_OUT = "start it, or unset DASK_SCHEDULER_ADDRESS to start one on this machine"


@contextmanager
def cluster(job: Job, count: int, make: Make = local) -> Iterator[list[Runner]]:
    """Runners on the cluster that DASK_SCHEDULER_ADDRESS names, else on one that is started here for the block.

    Raises:
        MachineError: if the cluster does not answer, or has no workers.
    """
    import dask
    from distributed import Client, LocalCluster

    address = dask.config.get("scheduler-address", None)
    own = None
    try:
        if address is None:
            own = LocalCluster(n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
        client = Client(own or address, direct_to_workers=True, timeout=_SECONDS)
        client.wait_for_workers(1, timeout=_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:  # the last one of an address that is none
        if own is not None:
            own.close()
        raise MachineError(_RULE, " ".join(str(error).split())[:300], _WAY_OUT) from error
    try:
        yield [OnDask(job, make, client, index) for index in range(count)]
    finally:
        client.close()
        if own is not None:
            own.close()


class OnDask(Elsewhere):
    """Runs trials in a Dask actor."""

    def __init__(self, job: Job, make: Make, client: Client, index: int) -> None:
        """Start the actor on the cluster's worker of that index, counted round."""
        self._job, self._make, self._client, self._index = job, make, client, index
        self._closed = False
        self._start()

    def close(self) -> None:
        """Let the actor go: nobody waits for it any more, though its thread there ends with the epoch."""
        self._closed = True
        self._future.release()

    def _start(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS)
            workers = sorted(self._workers())
            self._future = self._client.submit(
                There,
                self._job,
                self._make,
                actor=True,
                pure=False,
                workers=[workers[self._index % len(workers)]],
                allow_other_workers=True,
            )
            actor: Any = self._future.result(timeout=_SECONDS)
            self._actor = actor
            self._nanny, self._folder = _whereabouts(self._workers().get(actor._address, {}))
        except Exception as error:  # whatever a machine could not load is raised here, besides Dask's own
            raise _not_made(error) from error

    def _workers(self) -> dict[str, Any]:
        """What the scheduler says of each worker, by address."""
        found: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return found

    def _ask(self, method: str, argument: Any) -> Answer:
        try:
            kind, found = self._answer(self._actor.answer(method, argument))
        except (OSError, RuntimeError, CancelledError) as error:
            lost = self._is_lost()
            if self._closed:
                raise Died("the search is over") from error
            self._start()
            if lost:
                return "event", Outcome("failed", error="its Dask worker and its machine are gone", lost=True)
            raise Died("its Dask worker died: most often because memory ran out") from error
        return kind, found

    def _answer(self, asked: Any) -> Any:
        """What was answered; an actor whose worker was lost may leave a question without any answer."""
        while not self._closed and self._future.status in ("pending", "finished"):
            try:
                return asked.result(timeout=_LOOK_SECONDS)
            except TimeoutError:
                if asked.done():  # just now, or with an error of the same name
                    return asked.result()
        raise RuntimeError("nobody will answer")

    def _is_lost(self) -> bool:
        """Whether the machine is gone: where only the worker died, its nanny starts another one.

        Without a nanny, nobody can tell: the worker may have asked for too much memory.
        """
        end = time.monotonic() + _SECONDS
        while self._nanny and not self._closed and time.monotonic() < end:
            try:
                others = [_whereabouts(worker) for worker in self._workers().values()]
            except OSError:  # the scheduler is gone likewise, as the next start will tell
                return False
            if any(nanny == self._nanny and folder != self._folder for nanny, folder in others):
                return False
            time.sleep(_LOOK_SECONDS / 4)
        return self._nanny is not None


def _whereabouts(worker: dict[str, Any]) -> tuple[str | None, str]:
    """The address of its nanny, and the folder that it has for as long as it lives."""
    return worker.get("nanny"), worker.get("local_directory", "")


def _not_made(error: Exception) -> MachineError:
    from distributed.exceptions import WorkerStartTimeoutError

    if isinstance(error, WorkerStartTimeoutError):
        return MachineError(_RULE, "none of its workers is left", "start workers again, and run again")
    if isinstance(error, TimeoutError):
        found = f"within {_SECONDS} s they had no time for a runner"
        return MachineError(_RULE, found, "wait until its other work is done, or start more workers")
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    if isinstance(error, OSError | CancelledError):
        return MachineError(_RULE, said, _WAY_OUT)
    way_out = "give all its machines Assay's code, the same packages as this one, and memory enough"
    return MachineError("the Dask cluster's scheduler and workers must be able to make a runner", said, way_out)
