"""The flow `retrain`: every step and every stage a Prefect task. Its deployments are in ``deploy/prefect.yaml``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows.pipeline import Pipeline
from flows.retraining import Wanted, carry_out, error_of
from flows.run import failed, run_stages
from tasks.core.errors import AssayError


@flow(name="retrain", persist_result=False)
def retrain(
    params: str = "params.yaml", force: bool = False, as_of: str | None = None, because: str | None = None
) -> Any:
    """Take a new snapshot, and train, prove and register a new version if there is a reason to.

    Args:
        params: the params file.
        force: train without a reason, whatever the data look like.
        as_of: moment of the snapshot, ISO 8601; the last midnight in UTC by default.
        because: why, for the record; a reason to train.

    Returns:
        The record of the run.

    Raises:
        AssayError: see :func:`flows.retraining.carry_out`.
    """
    try:
        record = carry_out(Wanted(Path(params), force, as_of or None, because or None), _as_task, _run_stages)
    except AssayError as error:
        return failed(error)
    return _state(record)


def _state(record: dict[str, Any]) -> State[Any]:
    """A state that is named after the record's word and carries it; a rejection is a verdict, and no crash."""
    if error_of(record) is None:
        return Completed(name=record["word"].capitalize(), message=record["reason"], data=record)
    return Failed(name="Rejected", message=record["reason"], data=record)


def _run_stages(pipeline: Pipeline, until: str | None) -> None:
    run_stages(pipeline, until=until)


def _as_task(name: str, step: Callable[[], Any]) -> Any:
    """Do a step as a task of its name, never twice."""
    return Task(step, name=name, task_run_name=name, persist_result=False, cache_policy=NO_CACHE)()
