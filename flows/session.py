"""One `assay run` from a terminal: the flow, with a Prefect server of its own where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.pipeline import Pipeline
from flows.server import TemporaryServer
from tasks.core import files
from tasks.core.errors import MachineError
from tasks.core.stage import only_one

if TYPE_CHECKING:
    from flows.promotion import Wanted
    from flows.retraining import Wanted as RetrainWanted
    from tasks.monitor import Outcome

_DRAIN_SECONDS = 10.0


def conduct(pipeline: Pipeline, force: str | None = None, retries: int = 0) -> dict[str, str]:
    """Run the flow for a pipeline; see :func:`flows.run.run` for the arguments, the result and the errors.

    Raises:
        UsageError: also if another run works on the same artifacts.
    """
    with _alone(pipeline.artifacts), _prefect(pipeline.artifacts):
        from flows.run import run

        outcomes: Any = run(str(pipeline.params), force, retries)
        return dict(outcomes)


def promote(wanted: Wanted) -> str:
    """Promote as a flow where a Prefect server is configured, as a plain function elsewhere.

    Nobody could answer on a temporary server, and nobody would look at it.

    Raises:
        AssayError: see :func:`flows.promotion.carry_out`.
    """
    from prefect.settings import PREFECT_API_URL

    from flows import promotion

    if not PREFECT_API_URL.value():
        return promotion.plain(wanted)
    with _prefect(wanted.params.parent):
        from flows.promote import promote as flow

        def text(path: Path | None) -> str | None:
            return None if path is None else str(path)

        files_given = (text(wanted.approve_with), text(wanted.approval), text(wanted.audit_report))
        return str(
            flow(
                wanted.name, wanted.version, wanted.stage, str(wanted.params), wanted.reason, wanted.force, *files_given
            )
        )


def monitor(params: Path, bundle: Path | None = None) -> Outcome:
    """Judge recent rows as a flow where a Prefect server is configured, as a plain function elsewhere.

    Nobody would listen on a temporary server for what is asked for.

    Raises:
        AssayError: see :func:`tasks.monitor.monitor`.
    """
    from prefect.settings import PREFECT_API_URL

    from flows import monitoring

    if not PREFECT_API_URL.value():
        return monitoring.examine(params, bundle)
    with _prefect(params.parent):
        from flows.monitor import monitor as flow

        found: Any = flow(str(params), None if bundle is None else str(bundle))
        if isinstance(found, monitoring.NothingServes):
            raise found
        outcome: Outcome = found
        return outcome


def retrain(wanted: RetrainWanted) -> dict[str, Any]:
    """Retrain as a flow where a Prefect server is configured, as a plain function elsewhere.

    Raises:
        AssayError: see :func:`flows.retraining.carry_out`.
    """
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        from flows import retraining

        return retraining.plain(wanted)
    with _prefect(wanted.params.parent):
        from flows.retrain import retrain as flow

        record: Any = flow(str(wanted.params), wanted.force, wanted.as_of, wanted.because)
        return dict(record)


@contextmanager
def _alone(artifacts: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with files.machine_errors(artifacts):
            stack.enter_context(only_one("run", artifacts))
        yield


@contextmanager
def _prefect(artifacts: Path) -> Iterator[None]:
    """A Prefect API to report to: the one that is configured, else a temporary server."""
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    _quiet()
    if url := PREFECT_API_URL.value():
        check_answers(url)
        try:
            yield
        finally:
            _deliver()
        return
    with TemporaryServer(artifacts) as server:
        import dvc.repo.reproduce  # noqa: F401 (while the server starts)

        import flows.run  # noqa: F401

        # Nobody watches a temporary server for missing heartbeats, and stopping them costs a second.
        with temporary_settings({PREFECT_API_URL: server.ready(), PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            try:
                yield
            finally:
                _deliver()


def check_answers(url: str) -> None:
    """Raise :class:`MachineError` if the configured Prefect API does not answer."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        raise MachineError(
            "the Prefect server that PREFECT_API_URL names must answer",
            f"{url}: {problem}",
            "start that server, or unset PREFECT_API_URL: a run then starts a server of its own",
        )


def _quiet() -> None:
    """Keep Prefect's lines about runs off the terminal: stages speak for themselves there. The API gets them all."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False


def _deliver() -> None:
    """Wait until Prefect's background senders have told the server everything."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=_DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)
