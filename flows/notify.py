"""Tells people, through notification blocks of Prefect (Slack, mail, any webhook: whatever Apprise speaks)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


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
