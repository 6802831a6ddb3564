"""Tells people, through notification blocks of Prefect (Slack, mail, any webhook: whatever Apprise speaks)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.settings import Params, load

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun


def notify(blocks: Sequence[str], subject: str, body: str) -> list[str]:
    """Send a message through every block; what came of it, a line each.

    A message that does not get through is told and changes nothing: what it was about has happened.

    Args:
        blocks: each as ``type/name``, saved on the Prefect server.
        subject: in a few words.
        body: what happened, why, and the command to run next.
    """
    lines = [_send(block, subject, body) for block in blocks]
    for line in lines:
        print(line, file=sys.stderr)
    return lines


def failure(own: Params, what: str, why: object, again: str) -> None:
    """Tell the people whom a model's settings name of a run that ended badly: what, why, the command to run next."""
    notify(own.retrain.notify, f"Assay: {own.base.name}: {what}", f"{why}\nnext:   {again}")


def on_crash(what: str, again: Callable[[Mapping[str, Any]], str]) -> Callable[..., None]:
    """A flow's hook: tells of a run that was ended from outside (killed, its lease expired), where one can.

    Args:
        what: became of it, in a word or two.
        again: from the flow's parameters, the command to run next.
    """

    def stopped(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 (Prefect's names)
        own = load(Path(flow_run.parameters.get("params", "params.yaml")))
        failure(own, what, state.message, again(flow_run.parameters))

    return stopped


def _send(name: str, subject: str, body: str) -> str:
    from prefect.blocks.core import Block

    try:
        block: Any = Block.load(name)
        with block.raise_on_failure():
            block.notify(body, subject)
    except Exception as error:  # noqa: BLE001 (whatever a messenger raises is told to whoever reads the log)
        # Not in its own words: they may hold the address, which is the secret of many a webhook.
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"notification through {name}: not sent: {type(error).__name__}" + (f" {status}" if status else "")
    return f"notification through {name}: sent"
