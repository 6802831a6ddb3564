"""Room `promote`: whether a finished bundle may serve, from evidence only, and the way back.

It lies beyond the DAG: nothing here is trained or judged anew, and its output is a store, not a folder of artifacts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deploy import bundle
from tasks.core import files, repository
from tasks.core.errors import PromotionRefused, UsageError
from tasks.core.settings import Params
from tasks.promote import approval, gates, moves
from tasks.promote.approval import Approval
from tasks.promote.asked import RECORDS, Asked, Record, check, check_name, now
from tasks.promote.audit import Entry
from tasks.promote.moves import STAGES, State
from tasks.promote.store import Store, find
from tasks.promote.words import Gate, Said, answer

__all__ = ["RECORDS", "STAGES", "Approval", "Asked", "Conduct", "Entry", "Gate", "Said", "approve", "compare",
           "history", "promote", "rollback"]  # fmt: skip

#: Asks one gate: plainly, or as a Prefect task.
Conduct = Callable[[Gate, Callable[[Gate], Said]], Said]


def _plainly(gate: Gate, answer: Callable[[Gate], Said]) -> Said:
    return answer(gate)


def promote(asked: Asked, conduct: Conduct = _plainly) -> tuple[Entry, bool]:
    """Put a bundle through the gates, and let its stage point to it.

    Args:
        asked: what is wanted; ``version`` is given.
        conduct: runs one gate, as a Prefect task for example.

    Returns:
        The move in the log, and whether it is a new one: a promotion that is done already is only completed.

    Raises:
        PromotionRefused: if a gate gives no PASS, or another promotion was quicker. The record lies in
            ``<artifacts>/promotions``.
        UsageError: if there is no such bundle or key.
        IntegrityError: if the store's log or pointers are not whole.
    """
    version = str(asked.version)
    check(asked)
    store = asked.store
    state = moves.read(store, asked.name)
    serves = state.serves(asked.stage)
    with _candidate(asked, store, version) as folder:
        record = Record(asked, version)
        if serves is not None and serves.version == version and store.holds(asked.name, version):
            return _completed(asked, store, serves, folder), False
        _ask(gates.all_of(asked, store, state, folder, record), record, conduct)

        def bring() -> None:
            if not store.holds(asked.name, version):
                store.put(asked.name, version, folder, gates.same(asked.public_key, record.digest))

        entry = _move(asked, store, record, "promote", state.revision(asked.stage), bring)
    return entry, True


def compare(asked: Asked, folder: Path) -> Said:
    """What the gate `champion` says of a bundle that nobody has promoted yet, against what serves.

    The champion is what serves at ``prod`` or, as long as that serves nothing, at ``staging``.

    Raises:
        IntegrityError: if the store, the bundle or the champion's is not whole.
    """
    from tasks.promote.evidence import Evidence

    store = asked.store
    state = moves.read(store, asked.name)
    serves = state.serves("prod") or state.serves("staging")
    if serves is None:
        return Said("PASS", "nothing serves yet: there is no champion to compare with", {"champion": None})
    return gates.compared(asked, store, serves, Evidence.read(folder))


def rollback(asked: Asked, conduct: Conduct = _plainly) -> Entry:
    """Let a stage point to a version that it pointed to before, after the gates `bundle` and `server`.

    Raises:
        PromotionRefused, IntegrityError: see :func:`promote`.
        UsageError: if the stage has not served such a version.
    """
    check(asked)
    store = asked.store
    state = moves.read(store, asked.name)
    target = _earlier(asked, state)
    record = Record(asked, target.version)
    with store.fetched(asked.name, target.version) as folder:
        needed = (gates.bundle_gate(asked, folder, record, target.digest), gates.server_gate(asked, folder))
        _ask(needed, record, conduct)
    return _move(asked, store, record, "rollback", state.revision(asked.stage), lambda: None)


def history(params: Params, root: Path, name: str) -> tuple[tuple[Entry, ...], list[str]]:
    """All moves of a model, and what else there is to know, after the chain has been verified.

    Raises:
        IntegrityError: if the chain is broken, or a pointer is not what the log says.
    """

    check_name(params, name)
    state = moves.read(find(params.promote.store, root), name)
    notes = [
        f"the move of {one.stage} to {one.version} was cut off: the next promotion or rollback carries it out"
        for one in state.behind()
    ]
    torn = state.log_blob is not None and len(state.log_blob.data) > state.log.length
    return state.log.entries, [*notes, *(["the last line is torn: the next one takes its place"] if torn else [])]


def approve(asked: Asked, key: Path, password: bytes | None = None) -> Approval:
    """The approval of a bundle, signed by the approver whose key it is.

    Raises:
        UsageError: if there is no such bundle, or the key is no approver's.
        IntegrityError: if the bundle is not whole.
    """
    version = str(asked.version)
    check(asked)
    rules = asked.params.promote.approval
    with _candidate(asked, asked.store, version) as folder:
        bundle.verify(folder, asked.public_key)
        approver = approval.approver_of(key, rules, asked.root, password)
        expires = approval.until(rules.valid_days)
        wanted = approval.Approval(asked.name, version, asked.stage, bundle.manifest_digest(folder), approver, expires)
    return approval.sign(wanted, key, password)


def _ask(questions: Iterable[Gate], record: Record, conduct: Conduct) -> None:
    """Ask until a gate gives no PASS and may not be overruled.

    Raises:
        PromotionRefused: then; the record is written first.
    """

    for gate in questions:
        said = record.said[gate.name] = conduct(gate, answer)
        if said.word != "PASS" and not (record.asked.force and gate.forcible):
            raise _refused(record, f"gate {gate.name}: {said.word}: {said.reason}")


def _refused(record: Record, found: str) -> PromotionRefused:
    path = record.write("REFUSED")
    asked = record.asked
    rule = f"{asked.name} {record.version} may go to {asked.stage} when every gate says PASS"
    return PromotionRefused(rule, found, f"read {path}")


def _move(
    asked: Asked,
    store: Store,
    record: Record,
    action: Literal["promote", "rollback"],
    expected: int,
    bring: Callable[[], None],
) -> Entry:

    words = {name: one.word for name, one in record.said.items()}
    report = asked.audit_report
    notes = [f"audit report made elsewhere: {report.name}, sha256 {files.sha256(report)}"] if report else []
    if (compared := record.said.get("champion")) is not None:
        notes.append(compared.reason)
    entry = Entry(
        0, now(), asked.who, action, asked.name, asked.stage, record.version, record.digest, 0, asked.why,
        record.forced, words, repository.git_state(asked.root)["commit"], record.approver, notes,
    )  # fmt: skip
    try:
        done = moves.move(store, asked.name, entry, expected, bring)
    except PromotionRefused as error:
        record_path = record.write("REFUSED")
        raise PromotionRefused(error.rule, error.found, f"{error.way_out} (the record: {record_path})") from None
    record.write("DONE")
    return done


def _completed(asked: Asked, store: Store, serves: Entry, folder: Path) -> Entry:
    """What a promotion that has been done already leaves to do: the pointer, if it was cut off before that."""

    gates.same(asked.public_key, serves.digest)(folder)
    with store.locked(asked.name):
        moves.recover(store, asked.name)
    return serves


@contextmanager
def _candidate(asked: Asked, store: Store, version: str) -> Iterator[Path]:
    """The bundle: the copy in the store if there is one, else the one that `export` left."""
    if store.holds(asked.name, version):
        with store.fetched(asked.name, version) as folder:
            yield folder
        return
    folder = asked.root / asked.params.base.dist_dir / asked.name / version
    if not folder.is_dir():
        known = sorted(path.name for path in folder.parent.glob("[0-9]*-*") if path.is_dir())
        found = f"{folder} does not exist"
        raise UsageError("VERSION names a finished bundle", found, f"there are {', '.join(known) or 'none'}")
    yield folder


def _earlier(asked: Asked, state: State) -> Entry:
    served = state.log.served(asked.stage)
    if not served:
        rule = f"{asked.stage} of {asked.name} must serve something before it can go back"
        raise UsageError(rule, "nothing was promoted to it", "assay promote")
    if asked.version is None:
        if len(served) < 2:
            rule = f"{asked.stage} of {asked.name} must have served another version before"
            raise UsageError(rule, f"{served[-1].version} is the first", "promote another version")
        return served[-2]
    moved = [one for one in state.log.entries if one.stage == asked.stage]
    found = next((one for one in reversed(moved) if one.version == asked.version), None)
    if found is None or asked.version == served[-1].version:
        others = dict.fromkeys(one.version for one in moved if one.version != served[-1].version)
        why = "it serves now" if found else "it never served there"
        rule = f"a rollback goes to an earlier version of {asked.stage}"
        raise UsageError(rule, f"{asked.version}: {why}", f"choose one of {', '.join(others) or 'none'}")
    return found
