"""The flow `monitor`: looks at recent rows, leaves a page, and asks for a retraining by an event. Ready to be served::

from flows.monitor import monitor
monitor.serve(name="monitor", cron="0 * * * *", parameters={"params": "/srv/flights/params.yaml"})

Drift never promotes anything: an automation that listens for :data:`EVENT` may start a retraining, which has gates.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.states import Completed

from flows import models
from flows.monitoring import NothingServes, examine
from flows.notify import failure, on_crash
from flows.publish import link, shown
from flows.run import failed
from tasks.core.errors import AssayError, UsageError
from tasks.core.settings import load
from tasks.monitor import Outcome

EVENT = "assay.drift"


def resource(name: str) -> str:
    """The id that a model has in Prefect's events."""
    return f"assay.model.{name}"


def _again(parameters: Mapping[str, Any]) -> str:
    bundle = parameters.get("bundle")
    given = "" if bundle is None else f" --bundle {shlex.quote(bundle)}"
    return f"assay monitor --params {shlex.quote(parameters.get('params', 'params.yaml'))}{given}"


@flow(
    name="monitor",
    persist_result=False,
    on_completion=[models.show_models],
    on_failure=[models.show_models],
    on_crashed=[on_crash("monitor STOPPED", _again)],
)
def monitor(params: str = "params.yaml", bundle: str | None = None) -> Any:
    """Judge the newest rows that a model was asked about.

    Args:
        params: the params file.
        bundle: what they are held against; None takes what serves at ``monitor.stage``.

    Returns:
        The :class:`~tasks.monitor.Outcome`; the flow run's state is called by its word. Where nothing was promoted yet,
        that finding, in a state NOTHING: a schedule may begin before the first promotion.

    Raises:
        AssayError: see :func:`tasks.monitor.monitor`.
    """
    path = Path(params)
    try:
        own = load(path)
    except UsageError as error:  # it does not say whom to tell
        return failed(error)

    try:
        outcome = examine(path, Path(bundle) if bundle else None, lambda found: _ask(found, path))
    except NothingServes as reason:
        return Completed(name="NOTHING", message=str(reason), data=reason)
    except Exception as error:
        failure(own, "monitor FAILED", error, _again({"params": params, "bundle": bundle}))
        if isinstance(error, AssayError):
            return failed(error)
        raise
    with shown("what monitor found"):
        _publish(outcome)
    return Completed(name=outcome.word, message=outcome.reason, data=outcome)


def _ask(outcome: Outcome, params: Path) -> None:
    """Emit the event. Its id is that of the finding: asked for again after a kill, it is the same event."""
    told = outcome.told
    emit_event(
        EVENT,
        {"prefect.resource.id": resource(told["name"]), "prefect.resource.name": told["name"]},
        payload={
            "params": str(params.resolve()),
            "version": told["version"],
            "drifted": list(outcome.asks),
            "reason": outcome.reason,
            "page": (outcome.folder / "report.html").resolve().as_uri(),
        },
        id=uuid5(NAMESPACE_URL, f"{EVENT}/{told['name']}/{told['digest']}/{outcome.key}"),
    )


def _publish(outcome: Outcome) -> None:
    told = outcome.told
    notes = "\n".join(f"- {note}" for note in told["notes"])
    create_markdown_artifact(
        f"## {outcome.word}\n\n{outcome.reason}\n\n{notes}\n", key="monitor", description=f"Drift of {told['name']}"
    )
    link(outcome.folder / "report.html", "monitor-page", "monitor: report.html")
    if told["spreads"]:
        names = ("name", "psi", "ks", "p", "drifted")
        rows: list[dict[str, Any]] = [{name: one[name] for name in names} for one in told["spreads"]]
        create_table_artifact(rows, key="monitor-columns", description="Distances of the last window")
