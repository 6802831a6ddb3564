"""What a gate of a promotion says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tasks.core.errors import AssayError, IntegrityError

Word = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True)
class Said:
    """A gate's word, the reason for it, and the figures that it rests on (JSON values)."""

    word: Word
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gate:
    """One question that is asked of a bundle.

    Attributes:
        name: one word; the record and the log call it by this.
        ask: gives the answer. An error of its own is an answer, too: see :func:`answer`.
        forcible: whether ``--force`` goes on without a PASS.
    """

    name: str
    ask: Callable[[], Said]
    forcible: bool = True


def answer(gate: Gate) -> Said:
    """What a gate says. A broken artifact is a FAIL; what kept it from an answer makes it INCONCLUSIVE."""
    try:
        return gate.ask()
    except AssayError as error:
        word: Word = "FAIL" if isinstance(error, IntegrityError) else "INCONCLUSIVE"
        return Said(word, f"{error.rule}: {error.found} ({error.way_out})")


def judged(problems: list[str], fine: str, figures: Mapping[str, Any] | None = None) -> Said:
    """A FAIL that names all problems, or a PASS."""
    return Said("FAIL" if problems else "PASS", "; ".join(problems) or fine, figures or {})
