"""The flow `promote`: every gate a Prefect task, and an approver who is asked in Prefect. Ready to be served::

from flows.promote import promote
promote.serve(name="promote")
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import State, Task, flow
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed

from flows.promotion import Wanted, carry_out
from flows.run import failed
from tasks.core.errors import AssayError
from tasks.core.settings import Approval as Rules
from tasks.promote import Gate, Said
from tasks.promote.approval import Approval, until

_POLL_SECONDS = 2


class Answer(RunInput):
    """What an approver answers."""

    approver: str
    """Your address, as it stands in promote.approval.approvers."""
    yes: bool
    """Whether the bundle may serve."""


@flow(name="promote", persist_result=False)
def promote(
    name: str,
    version: str,
    to: str,
    params: str = "params.yaml",
    reason: str = "",
    force: bool = False,
    approve_with: str | None = None,
    approval: str | None = None,
    audit_report: str | None = None,
) -> Any:
    """Promote a bundle; where no key and no file gives an approval for production, wait for one in Prefect.

    Args:
        name: of the model.
        version: of the bundle.
        to: the stage.
        params: the params file.
        reason: why.
        force: overrule gates (never `bundle` and `approval`).
        approve_with: private key of the approver.
        approval: file of an approval.
        audit_report: of `pip-audit`, made elsewhere.

    Returns:
        What became of it, in a sentence.

    Raises:
        AssayError: see :func:`flows.promotion.carry_out`.
    """
    rows: list[dict[str, Any]] = []

    def conduct(gate: Gate, answer: Callable[[Gate], Said]) -> Said:
        said = _as_task(gate, answer)
        rows.append({"gate": gate.name, "word": said.word, "reason": said.reason})
        print(f"{gate.name}: {said.word}: {said.reason}", file=sys.stderr)
        return said

    paths = (Path(one) if one else None for one in (approve_with, approval, audit_report))
    try:
        return carry_out(Wanted(name, version, to, Path(params), reason, force, *paths), conduct, _ask)
    except AssayError as error:
        return failed(error)
    finally:
        if rows:
            create_table_artifact(rows, key="promotion", description=f"Gates of {name} {version} for {to}")


def _as_task(gate: Gate, answer: Callable[[Gate], Said]) -> Said:
    """Ask a gate as a task of its name; no PASS is a failed state of that name, and no retry."""
    found: list[Said] = []

    def ask() -> State[Any]:
        found.append(said := answer(gate))
        state = Completed if said.word == "PASS" else Failed
        return state(name=said.word, message=said.reason)

    task = Task(ask, name=gate.name, task_run_name=gate.name, persist_result=False, cache_policy=NO_CACHE)
    task(return_state=True)
    return found[0]


def _ask(wanted: Approval, rules: Rules) -> Approval | None:
    """Pause the flow run until somebody answers; None if that is no, or nobody does."""
    try:
        answer: Any = pause_flow_run(Answer, int(rules.wait_minutes * 60), _POLL_SECONDS)
    except FlowPauseTimeout:
        return None
    return replace(wanted, approver=answer.approver, expires=until(rules.valid_days)) if answer.yes else None
