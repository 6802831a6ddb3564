"""Trials on a Ray cluster: an actor for each runner, on whichever machine has the cores free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.core.errors import MachineError
from tasks.tune.elsewhere import Answer, Died, Elsewhere, There
from tasks.tune.trial import Job, Runner


@contextmanager
def cluster(job: Job, count: int) -> Iterator[list[Runner]]:
    """Runners on the cluster that RAY_ADDRESS names, else on one that is started on this machine for the block.

    Raises:
        MachineError: if the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read while ray is imported
    # Read likewise: otherwise Ray starts the workers through the package manager that started this process.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "120000")  # a busy machine takes longer than 15 s
    import ray

    threads = job.base.threads or 1
    here = "RAY_ADDRESS" not in os.environ
    own: dict[str, Any] = {"num_cpus": count * threads, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(logging_level="error", log_to_driver=False, **(own if here else {}))
    except (ConnectionError, RuntimeError) as error:
        raise MachineError(
            "tune.executor: ray needs a Ray cluster that answers",
            " ".join(str(error).split())[:300],
            "start it, or unset RAY_ADDRESS to start one on this machine",
        ) from error
    found: list[Runner] = []
    try:
        found += [OnRay(job, threads) for _ in range(count)]
        yield found
    finally:
        for runner in found:
            runner.close()
        ray.shutdown()


class OnRay(Elsewhere):
    """Runs trials in a Ray actor."""

    def __init__(self, job: Job, threads: int) -> None:
        """Start the actor, with so many cores."""
        import ray

        # The class goes by value: a cluster's machines need no other project on their path than Assay.
        self._make = ray.remote(There).options(num_cpus=threads, max_restarts=0)
        self._job = job
        self._actor = self._make.remote(job)

    def close(self) -> None:
        """End the actor."""
        import ray

        ray.kill(self._actor)

    def _ask(self, method: str, argument: Any) -> Answer:
        import ray

        try:
            answer: Answer = ray.get(self._actor.answer.remote(method, argument))
        except ray.exceptions.RayActorError as error:
            self._actor = self._make.remote(self._job)
            raise Died("its Ray worker died: most often because memory ran out") from error
        return answer
