"""What the room says in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Word = Literal["STEADY", "WATCH", "DRIFT", "CANNOT TELL"]


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        word: in a word.
        reason: in a sentence.
        asks: what drifted so that a retraining is asked for now; empty if none is.
        key: of the newest window that was judged; empty before the first one.
        told: content of ``monitor.json``.
        folder: where it and the page lie.
    """

    word: Word
    reason: str
    asks: tuple[str, ...]
    key: str
    told: Mapping[str, Any]
    folder: Path
