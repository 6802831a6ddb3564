"""Trials on a Ray cluster: an actor for each runner, on whichever machine has the cores free."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.core.errors import MachineError
from tasks.tune.elsewhere import Answer, Died, Elsewhere, Make, There, local
from tasks.tune.trial import Job, Outcome, Runner

_SECONDS = 10
#: Ray hears of a machine that is gone when it has missed its looks at it, which takes half a minute.
_GONE_SECONDS = 60


@contextmanager
def cluster(job: Job, count: int, make: Make = local) -> Iterator[list[Runner]]:
    """Runners on the cluster that RAY_ADDRESS names, else on one that is started here for the block.

    Raises:
        MachineError: if the cluster does not answer, or is too small.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read while ray is imported
    # Read likewise: otherwise Ray starts the workers through the package manager that started this process.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy machine takes longer than 15 s
    import ray

    threads = job.base.threads or 1
    address = os.environ.get("RAY_ADDRESS", "")
    own: dict[str, Any] = {"num_cpus": count * threads, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        _knock(address)
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **({} if address else own))
    except Exception as error:  # Ray raises bare ones, when it could not start, for example
        raise MachineError(
            "tune.executor: ray needs a Ray cluster that answers",
            " ".join(str(error).split())[:300],
            "start it, or unset RAY_ADDRESS to start one on this machine",
        ) from error
    found: list[Runner] = []
    try:
        _check_room(ray.nodes(), count, threads)  # type: ignore[no-untyped-call]
        gpus = _share_of_gpus(job, ray.cluster_resources().get("GPU", 0.0), count)  # type: ignore[no-untyped-call]
        found += [OnRay(job, make, count, threads, gpus) for _ in range(count)]
        yield found
    finally:
        for runner in found:
            runner.close()
        ray.shutdown()


def _check_room(nodes: list[dict[str, Any]], count: int, threads: int) -> None:
    """A runner for which there is no room would hold its trial, and the search, for ever.

    Raises:
        MachineError: if not all runners can work at the same time.
    """
    room = sum(int(node["Resources"].get("CPU", 0) // threads) for node in nodes if node["Alive"])
    if room < count:
        raise MachineError(
            "the Ray cluster must have room for all of tune.workers at once",
            f"of {count} workers of {threads} cores each there is room for {room}",
            "lower tune.workers, set base.threads lower, or start more nodes first",
        )


def _share_of_gpus(job: Job, gpus: float, count: int) -> float:
    """Of a GPU for each runner: a whole one, a part of one where there are fewer than runners, or none."""
    return 0.0 if gpus < 1 or job.base.device in ("cpu", "mps") else 1 / math.ceil(count / gpus)


def _knock(address: str) -> None:
    """Ask whether anybody listens at ``host:port`` or ``ray://host:port``: Ray itself tries for a quarter of an hour.

    Raises:
        OSError: if nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()


class OnRay(Elsewhere):
    """Runs trials in a Ray actor."""

    def __init__(self, job: Job, make: Make, count: int, threads: int, gpus: float) -> None:
        """Start the actor, one of so many, with so many cores and GPUs."""
        import ray

        self._actors: Any = ray.remote(There).options(num_cpus=threads, num_gpus=gpus, max_restarts=0)
        self._job, self._make, self._count, self._threads = job, make, count, threads
        self._actor: Any = self._actors.remote(job, make)

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self._actor)

    def _ask(self, method: str, argument: Any) -> Answer:
        import ray

        try:
            kind, found = ray.get(self._actor.answer.remote(method, argument))
        except ray.exceptions.RayTaskError:  # raised there, by what is no trial's fault
            raise
        except ray.exceptions.RayError as error:  # it died, memory ran out, or nobody hears of it any more
            cause = self._cause(error)
            _check_made(cause)
            self.close()
            _check_room(ray.nodes(), self._count, self._threads)  # type: ignore[no-untyped-call]
            self._actor = self._actors.remote(self._job, self._make)
            said = f"its Ray worker died: {_told(cause)}"
            if _is_lost(cause):
                return "event", Outcome("failed", error=said, lost=True)
            raise Died(said) from error
        return kind, found

    def _cause(self, error: Exception) -> Exception:
        """Why the actor does not answer: while Ray has not heard of its end yet, it is but unavailable."""
        import ray

        if not isinstance(error, ray.exceptions.ActorUnavailableError):
            return error
        try:
            ray.get(self._actor.__ray_ready__.remote(), timeout=_GONE_SECONDS)
        except ray.exceptions.RayActorError as known:
            return known
        except ray.exceptions.RayError:
            return error
        return error


def _check_made(error: Exception) -> None:
    """An actor that could not be made will not be there for the next trial either.

    Raises:
        MachineError: if it could not be.
    """
    from ray import exceptions

    never = (exceptions.RuntimeEnvSetupError, exceptions.ActorUnschedulableError)
    if not (isinstance(error, never) or _failed_to_begin(error)):
        return
    raise MachineError(
        "every machine of the Ray cluster must be able to make a worker",
        _told(error),
        "give the cluster's machines Assay's code and the same packages as this one, or unset RAY_ADDRESS",
    ) from error


def _is_lost(error: Exception) -> bool:
    """Whether the machine is gone, or cannot be reached; a process that died there may have asked for too much."""
    from ray import exceptions

    if isinstance(error, (exceptions.NodeDiedError, exceptions.ActorUnavailableError)):
        return True
    return isinstance(error, exceptions.ActorDiedError) and (error.preempted or "its node has died" in str(error))


def _failed_to_begin(error: Exception) -> bool:
    from ray import exceptions

    return isinstance(error, exceptions.RayActorError) and error.actor_init_failed


def _told(error: Exception) -> str:
    """The line of Ray's many that says why: the last one of a traceback, else the first after the actor's numbers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if _failed_to_begin(error):
        lines = lines[-1:]
    elif len(lines) > 1 and lines[0] == getattr(error, "BASE_ERROR_MSG", None):
        lines = lines[1:]
    return lines[0][:300] if lines else type(error).__name__
