"""Moves a stage to a version: first the line in the log, then the pointer.

A kill in between leaves the old pointer and a line that is ahead of it. Whoever publishes next carries that move out
(the gates had said yes), so the log is always right, and the pointer is always whole and at most one move behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.store import Pointer, pointer_path
from tasks.core import files
from tasks.core.errors import IntegrityError, PromotionRefused
from tasks.promote import audit
from tasks.promote.audit import Entry, Log
from tasks.promote.store import Blob, Moved, Store

#: In the order in which a bundle passes through them.
STAGES = ("staging", "prod")

_READS = 3


@dataclass(frozen=True)
class State:
    """A model in the store, as read at one moment.

    Attributes:
        log: its moves.
        log_blob: the log as it lies there; None before the first move.
        pointers: stage -> pointer as it lies there.
    """

    log: Log
    log_blob: Blob | None
    pointers: Mapping[str, Blob | None]

    def serves(self, stage: str) -> Entry | None:
        """The move that made a stage what it is, or will be as soon as a cut-off move is carried out."""
        return self.log.last(stage)

    def revision(self, stage: str) -> int:
        """Revision of a stage's pointer by the log; 0 before the first move."""
        last = self.log.last(stage)
        return last.revision if last else 0

    def behind(self) -> list[Entry]:
        """Moves whose pointer was not moved: their process was killed."""
        lasts = (self.log.last(stage) for stage in STAGES)
        return [last for last in lasts if last and _parsed(self.pointers[last.stage]) != last.pointer]


def read(store: Store, name: str) -> State:
    """Read and check log and pointers; change nothing.

    Raises:
        IntegrityError: if the log's chain is broken, or a pointer is not what the log says.
    """
    problem = None
    for _ in range(_READS):  # without the lock, a move may come between two reads
        pointers = {stage: store.read(_pointer_key(name, stage)) for stage in STAGES}
        blob = store.read(_log_key(name))  # after the pointers: they are never ahead of it
        state = State(audit.parse(blob.data if blob else b"", _log_key(name)), blob, pointers)
        problem = next((said for stage in STAGES if (said := _strange(state, name, stage))), None)
        if problem is None:
            return state
    way_out = "find out who changed it or the log, and restore both from a copy"
    raise IntegrityError("a stage points where the log says", str(problem), way_out)


def move(store: Store, name: str, entry: Entry, expected: int, bring: Callable[[], None]) -> Entry:
    """Carry out a move.

    Args:
        store: where.
        name: of the model.
        entry: the move; its number, revision and previous hash are filled in here.
        expected: revision of the stage's pointer when the gates looked at it.
        bring: sees to it that the bundle is in the store.

    Raises:
        PromotionRefused: if another one moved the stage meanwhile.
        IntegrityError: if log or pointer are not whole.
    """
    with store.locked(name):
        state = recover(store, name)
        if state.revision(entry.stage) != expected:
            raise _lost(name, entry.stage, state)
        bring()
        entry = dataclasses.replace(
            entry, number=len(state.log.entries) + 1, revision=expected + 1, previous=state.log.head
        )
        try:
            store.append(_log_key(name), entry.line(), state.log_blob, state.log.length)
        except Moved:
            raise _lost(name, entry.stage, read(store, name)) from None
        _point(store, name, entry, state.pointers[entry.stage])
    return entry


def recover(store: Store, name: str) -> State:
    """Carry out moves that were cut off between log and pointer; to be called under the lock."""
    state = read(store, name)
    behind = state.behind()
    for entry in behind:
        _point(store, name, entry, state.pointers[entry.stage])
    return read(store, name) if behind else state


def _point(store: Store, name: str, entry: Entry, before: Blob | None) -> None:
    pointer = files.canonical_json(dataclasses.asdict(entry.pointer)).encode()
    try:
        store.swap(_pointer_key(name, entry.stage), pointer, before)
    except Moved:  # without a lock: somebody who came next has carried this move out, and maybe one of their own
        found = _parsed(store.read(_pointer_key(name, entry.stage)))
        if found is None or found.revision < entry.revision:
            raise


def _strange(state: State, name: str, stage: str) -> str | None:
    """What is wrong with a pointer that is not the last line's of its stage, nor (cut off) that of the one before."""
    lines = [entry.pointer for entry in state.log.entries if entry.stage == stage]
    allowed = [lines[-1], lines[-2] if len(lines) > 1 else None] if lines else [None]
    blob = state.pointers[stage]
    if _parsed(blob) in allowed:
        return None
    return f"{_pointer_key(name, stage)} holds {blob.data.decode(errors='replace') if blob else 'nothing'}"


def _parsed(blob: Blob | None) -> Pointer | None:
    """The pointer, None if there is none, and one of revision -1 for what is none."""
    import json

    if blob is None:
        return None
    try:
        return Pointer(**json.loads(blob.data))
    except (ValueError, TypeError):
        return Pointer("", "", -1)


def _lost(name: str, stage: str, state: State) -> PromotionRefused:
    last = state.serves(stage)
    found = f"{last.who} moved it to {last.version} at {last.when}" if last else "the log was written to meanwhile"
    rule = f"{stage} of {name} must be what it was when the gates looked"
    return PromotionRefused(rule, found, f"look at `assay history {name}`, and promote again if it is still wanted")


def _log_key(name: str) -> str:
    return f"{name}/audit.jsonl"


def _pointer_key(name: str, stage: str) -> str:
    return pointer_path(Path(), name, stage).as_posix()
