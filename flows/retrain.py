"""The flow `retrain`: every step and every stage a Prefect task. Its deployments are in ``deploy/prefect.yaml``."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import State, Task, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows import models
from flows.notify import failure, notify, on_crash
from flows.pipeline import Pipeline
from flows.publish import draw, link
from flows.retraining import Wanted, carry_out, error_of, told, way_on
from flows.run import failed, run_stages
from tasks.core.errors import AssayError, UsageError
from tasks.core.settings import load

#: What people are told of, and how.
_TOLD = {"ACCEPTED": "a version waits for its promotion", "REJECTED": "a retraining was rejected"}


def _again(parameters: Mapping[str, Any]) -> str:
    return f"assay retrain --params {shlex.quote(parameters.get('params', 'params.yaml'))} (it goes on from there)"


@flow(
    name="retrain",
    persist_result=False,
    on_completion=[models.show_models],
    on_failure=[models.show_models],
    on_crashed=[on_crash("STOPPED", _again)],
)
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
        own = load(Path(params))
    except UsageError as error:  # it does not say whom to tell
        return failed(error)

    tell = functools.partial(_tell, blocks=own.retrain.notify)
    try:
        wanted = Wanted(Path(params), force, as_of or None, because or None)
        record = carry_out(wanted, _as_task, _run_stages, tell)
    except Exception as error:
        failure(own, "FAILED", error, _again({"params": params}))
        if isinstance(error, AssayError):
            return failed(error)
        raise
    tell(record)
    return _state(record)


def _tell(record: dict[str, Any], blocks: Sequence[str]) -> None:
    """Tell people first, then leave the artifacts: what cannot be shown has happened all the same."""
    if record["word"] in _TOLD:
        notify(blocks, f"Assay: {record['name']}: {_TOLD[record['word']]}", told(record))
    try:
        _leave(record)
    except Exception:  # noqa: BLE001 (whatever a server or its client raises is told, with its traceback)
        get_run_logger().exception("the artifacts of this run could not be left; it is: %s", told(record))


def _leave(record: dict[str, Any]) -> None:
    """The artifacts of a run: what became of it, what was found in the data, drawings, links to pages."""
    create_markdown_artifact(_markdown(record), key="retrain", description="What became of it")
    if record.get("findings"):
        rows = [{key.replace("_", " "): value for key, value in one.items()} for one in record["findings"]]
        create_table_artifact(rows, key="retrain-data", description="Data against the last snapshot")
    if "folder" in record:
        draw(Path(record["folder"], "report.html"), "retrain")
        for page in sorted(Path(record["folder"]).glob("*.html")):
            of = "retrain" if page.stem == "report" else page.stem
            link(page, f"{of}-page", f"{of}: {page.name}")


def _markdown(record: dict[str, Any]) -> str:
    """A record as Markdown: word and reason, then a block of what a person may copy."""
    lines = way_on(record)
    block = "\n".join(["```", *lines, "```"]) if lines else ""
    reason = record["reason"].replace("\n", "\n\n")
    return f"## {record['name']}: {record['word']}\n\n{reason}\n\n{block}\n"


def _state(record: dict[str, Any]) -> State[Any]:
    """A state that is named after the record's word; it carries the record or, of a rejection, the verdict."""
    if (error := error_of(record)) is None:
        return Completed(name=record["word"].capitalize(), message=record["reason"], data=record)
    return Failed(name="Rejected", message=record["reason"], data=error)


def _run_stages(pipeline: Pipeline, until: str | None) -> None:
    run_stages(pipeline, until=until, links=False)  # it works in a folder that goes; the pages are kept elsewhere


def _as_task(name: str, step: Callable[[], Any]) -> Any:
    """Do a step as a task of its name, never twice."""
    return Task(step, name=name, task_run_name=name, persist_result=False, cache_policy=NO_CACHE)()
