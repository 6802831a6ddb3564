"""Trials on a Dask cluster: an actor for each runner, one or more to a worker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tasks.core.errors import MachineError
from tasks.tune.elsewhere import Answer, Died, Elsewhere, Make, There, local
from tasks.tune.trial import Job, Runner

if TYPE_CHECKING:
    from distributed import Client

_SECONDS = 30
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
        self._start()

    def close(self) -> None:
        """Let the actor go."""
        self._future.release()

    def _start(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError as error:
            raise MachineError(_RULE, "none of its workers is left", "start workers again, and run again") from error
        workers = sorted(self._client.scheduler_info(n_workers=-1)["workers"])
        self._future = self._client.submit(
            There,
            self._job,
            self._make,
            actor=True,
            pure=False,
            workers=[workers[self._index % len(workers)]],
            allow_other_workers=True,
        )
        self._actor: Any = self._future.result(timeout=_SECONDS)

    def _ask(self, method: str, argument: Any) -> Answer:
        try:
            kind, found = self._actor.answer(method, argument).result()
        except (OSError, RuntimeError, CancelledError) as error:
            self._start()
            raise Died("its Dask worker died: most often because memory ran out") from error
        return kind, found
