"""The flow `promote`: every gate a Prefect task, and an approver who is asked in Prefect. Ready to be served::

from flows.promote import promote
promote.serve(name="promote")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

from prefect import State, Task, flow
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.utilities.urls import url_for

from flows import models
from flows.notify import notify
from flows.promotion import Wanted, carry_out
from flows.publish import shown
from flows.run import failed
from tasks.core.errors import AssayError, MachineError, PromotionRefused, UsageError
from tasks.core.settings import Approval as Rules
from tasks.core.settings import load
from tasks.promote import Gate, Said
from tasks.promote.approval import Approval, until

_POLL_SECONDS = 2


class Answer(RunInput):
    """What an approver answers."""

    approver: str
    """Your address, as it stands in promote.approval.approvers."""
    yes: bool
    """Whether the bundle may serve."""


@flow(name="promote", persist_result=False, on_completion=[models.show_models], on_failure=[models.show_models])
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

    try:
        people = load(Path(params)).retrain.notify  # now: while gates and approvers take their time it may change
    except UsageError as error:  # it does not say whom to tell
        return failed(error)

    paths = (Path(one) if one else None for one in (approve_with, approval, audit_report))
    wanted = Wanted(name, version, to, Path(params), reason, force, *paths)

    def ask(wished: Approval, rules: Rules) -> Approval | None:
        _tell(people, wanted, "waits for an approval", _question(wanted, rules, rows))
        return _ask(wished, rules)

    try:
        return carry_out(wanted, conduct, ask)
    except Exception as error:
        _tell_of(people, error, wanted)
        if isinstance(error, AssayError):
            return failed(error)
        raise
    finally:
        if rows:
            with shown("what the gates said"):
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


def _tell_of(people: Sequence[str], error: Exception, wanted: Wanted) -> None:
    """Tell of a promotion that did not end well, but not of a slip: whoever asked for it reads that, and mends it."""
    if isinstance(error, UsageError) and not isinstance(error, MachineError):
        return
    what = "was refused" if isinstance(error, PromotionRefused) else "FAILED"
    _tell(people, wanted, what, f"{error}\nnext:   {_command(wanted)} (when that is mended)")


def _tell(people: Sequence[str], wanted: Wanted, what: str, body: str) -> None:
    """Tell people (blocks' names, as in `retrain.notify`) what became of a promotion."""
    subject = f"Assay: {wanted.name}: the promotion of {wanted.version} to {wanted.stage} {what}"
    notify(people, subject, body)


def _question(wanted: Wanted, rules: Rules, gates: Iterable[Mapping[str, str]]) -> str:
    """What an approver has to know: what the gates said, why it is wanted, how to answer."""
    lines = [f"why: {wanted.reason}"] if wanted.reason else []
    lines += [f"{one['gate']}: {one['word']}: {one['reason']}" for one in gates]
    lines += [
        f"It waits {rules.wait_minutes:g} minutes for one of {', '.join(rules.approvers)}.",
        f"next:   press Resume at {url_for('flow-run', flow_run.id)}, and answer",
        f"or:     {_command(wanted, 'approve')} --key KEY --out yes.json && {_command(wanted)} --approval yes.json",
    ]
    return "\n".join(lines)


def _command(wanted: Wanted, word: str = "promote") -> str:
    parts = ["assay", word, wanted.name, wanted.version, "--to", wanted.stage, "--params", str(wanted.params)]
    if word == "promote":
        parts += ["--force"] if wanted.force else []
        parts += ["--reason", wanted.reason] if wanted.reason else []
        parts += ["--audit-report", str(wanted.audit_report)] if wanted.audit_report else []
    return " ".join(map(quote, parts))


def _ask(wanted: Approval, rules: Rules) -> Approval | None:
    """Pause the flow run until somebody answers; None if that is no, or nobody does."""
    try:
        answer: Any = pause_flow_run(Answer, int(rules.wait_minutes * 60), _POLL_SECONDS)
    except FlowPauseTimeout:
        return None
    return replace(wanted, approver=answer.approver, expires=until(rules.valid_days)) if answer.yes else None
