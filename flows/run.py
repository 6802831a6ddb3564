"""The flow `run`: the whole pipeline as one Prefect flow run, each stage a task run. Ready to be served or deployed::

from flows.run import run
run.serve(name="nightly", cron="0 2 * * *", parameters={"params": "/srv/flights/params.yaml"})
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, Failed

from flows import interruptible
from flows.bundles import export_must_run
from flows.dvc_driver import Outcome, StageCrashed, StageDone, reproduce
from flows.pipeline import Pipeline, prepare
from flows.publish import Progress, publish
from flows.stage_log import Follower, api_logger
from tasks.core.errors import VERDICT_CODES, AssayError
from tasks.core.log import log_file
from tasks.core.settings import STAGES


@flow(name="run", persist_result=False)
def run(params: str = "params.yaml", force: str | None = None, retries: int = 0) -> Any:
    """Bring every stage of a params file's pipeline up to date.

    Args:
        params: the params file.
        force: a stage to run even if nothing changed.
        retries: how often a stage that crashed is tried again. Verdicts never are.

    Returns:
        What became of each stage: name -> value of an :class:`~flows.dvc_driver.Outcome`.

    Raises:
        AssayError: the error of the stage that did not end well, or of the set-up.
    """
    try:
        return run_stages(prepare(Path(params)), force, retries)
    except AssayError as error:
        return failed(error)


def run_stages(
    pipeline: Pipeline, force: str | None = None, retries: int = 0, until: str | None = None, links: bool = True
) -> dict[str, str]:
    """Every stage as a task of the flow run that is active.

    See :func:`run`, :func:`flows.dvc_driver.reproduce` (``until``) and :func:`flows.publish.publish` (``links``).
    """
    outcomes: dict[str, str] = {}
    progress = Progress(STAGES if until is None else STAGES[: STAGES.index(until) + 1])

    def conduct(stage: str, done: StageDone) -> None:
        attempts: list[Outcome | AssayError] = []

        def attempt() -> State[Any]:
            attempts.append(_attempt(pipeline, stage, done, links))
            return _state(attempts[-1])

        _task(stage, attempt, retries)()
        last = attempts[-1]
        if isinstance(last, AssayError):
            raise last
        outcomes[stage] = last.value
        progress.ended(stage, last.value)

    def forced(stage: str) -> bool:
        return stage == force or (stage == "export" and export_must_run(pipeline))

    reproduce(pipeline, conduct, forced, until)
    return outcomes


def _task(stage: str, attempt: Callable[[], State[Any]], retries: int) -> Task[[], State[Any]]:
    """The Prefect task of a stage. DVC is the one cache; a second one would disagree with it sooner or later."""
    return Task(
        attempt,
        name=stage,
        task_run_name=stage,
        retries=retries,
        retry_condition_fn=_crashed,
        persist_result=False,
        cache_policy=NO_CACHE,
    )


def _attempt(pipeline: Pipeline, stage: str, done: StageDone, links: bool) -> Outcome | AssayError:
    """Have the stage done, its log lines following it to Prefect; publish what it left."""
    log = log_file(pipeline.artifacts, stage)
    follower, api = Follower(log), api_logger()

    def tick() -> None:
        for level, text in follower.new_lines():
            api.log(level, "%s", text)

    try:
        outcome = interruptible.run(done, tick)
    except AssayError as error:
        if error.exit_code in VERDICT_CODES:
            publish(pipeline.artifacts, stage, passed=False, links=links)
        return error
    if outcome is Outcome.UNCHANGED:
        print(f"{stage}: {outcome.value}", file=sys.stderr)
    publish(pipeline.artifacts, stage, passed=True, links=links)
    return outcome


def _state(result: Outcome | AssayError) -> State[Any]:
    if isinstance(result, AssayError):
        return failed(result)
    return Completed(name="Cached" if result is Outcome.UNCHANGED else "Completed", message=result.value)


def failed(error: AssayError) -> State[Any]:
    """A failed state that is named after the error and carries it: no traceback for what is no bug."""
    return Failed(name=type(error).__name__, message=str(error), data=error)


def _crashed(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, StageCrashed)
