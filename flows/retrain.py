"""The flow `retrain`: every step and every stage a Prefect task. Its deployments are in ``deploy/prefect.yaml``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import State, Task, flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows import models
from flows.notify import notify
from flows.pipeline import Pipeline
from flows.retraining import Wanted, carry_out, error_of, told
from flows.run import failed, run_stages
from tasks.core.errors import AssayError, SettingsError
from tasks.core.settings import load

#: What people are told of, and how.
_TOLD = {"ACCEPTED": "a version waits for its promotion", "REJECTED": "a retraining was rejected"}


@flow(name="retrain", persist_result=False, on_completion=[models.show_models], on_failure=[models.show_models])
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
    except SettingsError as error:  # it does not say whom to tell
        return failed(error)
    except Exception as error:
        own = load(Path(params))
        subject = f"Assay: {own.base.name}: FAILED"
        notify(own.retrain.notify, subject, f"{error}\nnext:   assay retrain --params {params} (it goes on from there)")
        if isinstance(error, AssayError):
            return failed(error)
        raise
    _leave(record)
    if record["word"] in _TOLD:
        subject = f"Assay: {record['name']}: {_TOLD[record['word']]}"
        notify(load(Path(params)).retrain.notify, subject, told(record))
    return _state(record)


def _leave(record: dict[str, Any]) -> None:
    """The artifacts of a run: the record in words, what was found in the data, a link to the page."""
    create_markdown_artifact(told(record).replace("\n", "\n\n"), key="retrain", description="What became of it")
    if record.get("findings"):
        create_table_artifact(record["findings"], key="retrain-data", description="Data against the last snapshot")
    if "folder" in record:
        page = Path(record["folder"]) / "report.html"
        create_link_artifact(page.resolve().as_uri(), key="retrain-page", link_text=f"retrain: {page.name}")


def _state(record: dict[str, Any]) -> State[Any]:
    """A state that is named after the record's word; it carries the record or, of a rejection, the verdict."""
    if (error := error_of(record)) is None:
        return Completed(name=record["word"].capitalize(), message=record["reason"], data=record)
    return Failed(name="Rejected", message=record["reason"], data=error)


def _run_stages(pipeline: Pipeline, until: str | None) -> None:
    run_stages(pipeline, until=until)


def _as_task(name: str, step: Callable[[], Any]) -> Any:
    """Do a step as a task of its name, never twice."""
    return Task(step, name=name, task_run_name=name, persist_result=False, cache_policy=NO_CACHE)()
