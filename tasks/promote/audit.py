"""The audit log: a line for each move of a stage, each with the hash of the one before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deploy.store import Pointer
from tasks.core.errors import IntegrityError

#: What stands for the line before the first one.
START = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One move of a stage.

    Attributes:
        number: from 1, one more than that of the line before.
        when: time in UTC, ISO 8601.
        who: whoever ran the command.
        action: what was done.
        name: of the model.
        stage: that was moved.
        version: it serves now.
        digest: SHA-256 of that bundle's manifest.
        revision: of the stage's pointer, from 1.
        why: in words.
        forced: whether gates were overruled.
        gates: name -> word.
        commit: of the repository at that moment; None outside one.
        approver: who said yes, and how; None where nobody was asked.
        notes: what else a reader must know, such as an audit report that was made elsewhere.
        previous: hash of the line before.
    """

    number: int
    when: str
    who: str
    action: Literal["promote", "rollback"]
    name: str
    stage: str
    version: str
    digest: str
    revision: int
    why: str
    forced: bool
    gates: Mapping[str, str]
    commit: str | None = None
    approver: str | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    previous: str = START

    @property
    def hash(self) -> str:
        """SHA-256 of everything above."""
        return hashlib.sha256(_canonical(asdict(self)).encode()).hexdigest()

    @property
    def pointer(self) -> Pointer:
        """What the stage's pointer holds after the move."""
        return Pointer(self.version, self.digest, self.revision)

    def line(self) -> bytes:
        """The entry and its hash, as a line of the log."""
        return (_canonical(asdict(self) | {"hash": self.hash}) + "\n").encode()


@dataclass(frozen=True)
class Log:
    """All whole lines of a log, and how many bytes they take: a torn line behind them was never finished."""

    entries: tuple[Entry, ...]
    length: int

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self.entries[-1].hash if self.entries else START

    def last(self, stage: str) -> Entry | None:
        """The newest move of a stage."""
        return next((entry for entry in reversed(self.entries) if entry.stage == stage), None)

    def served(self, stage: str) -> list[Entry]:
        """Versions that a stage can go back through, the present one last: a rollback takes off what came after."""
        stack: list[Entry] = []
        for entry in (one for one in self.entries if one.stage == stage):
            versions = [one.version for one in stack]
            if entry.action == "rollback" and entry.version in versions:
                del stack[versions.index(entry.version) :]
            stack.append(entry)
        return stack


def parse(data: bytes, where: str) -> Log:
    """Read a log and check its chain. What follows the last line's end is a torn line: its write was cut off.

    Raises:
        IntegrityError: naming the first line that is not what was written.
    """
    length = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    previous = START
    for number, line in enumerate(data[:length].splitlines(), 1):
        entry, problem = _entry(line, number, previous)
        if entry is None:
            raise IntegrityError(
                "each line of an audit log holds the hash of the line before it, and its own",
                f"{where} line {number}: {problem}",
                "find out who changed it, and restore the log from a copy",
            )
        entries.append(entry)
        previous = entry.hash
    return Log(tuple(entries), length)


def _entry(line: bytes, number: int, previous: str) -> tuple[Entry | None, str]:
    try:
        raw: dict[str, Any] = json.loads(line)
        said = raw.pop("hash")
        entry = Entry(**raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"it is no entry ({type(error).__name__}: {error})"
    if said != entry.hash:
        return None, f"its content has the hash {entry.hash[:12]}, it says {str(said)[:12]}"
    if entry.previous != previous:
        return None, f"the line before has the hash {previous[:12]}, it says {str(entry.previous)[:12]}"
    return (entry, "") if entry.number == number else (None, f"it is numbered {entry.number}")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
