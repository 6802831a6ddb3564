"""The gates of a promotion, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from deploy import bundle
from tasks.core import manifest
from tasks.core.errors import IntegrityError
from tasks.promote import approval, champion, graph, origin, quality, serving, stages, supply
from tasks.promote.asked import Asked, Record
from tasks.promote.audit import Entry
from tasks.promote.evidence import Evidence
from tasks.promote.moves import State
from tasks.promote.store import Store
from tasks.promote.words import Gate, Said


def all_of(asked: Asked, store: Store, state: State, folder: Path, record: Record) -> Iterator[Gate]:
    """The gates in order. What a later one needs is read when it is asked, after the first one has passed."""
    own, base = asked.params.promote, asked.params.base
    yield bundle_gate(asked, folder, record)
    known: list[Evidence] = []

    def evidence() -> Evidence:
        if not known:
            known.append(Evidence.read(folder))
        return known[0]

    def approved() -> Said:
        wanted = approval.Approval(asked.name, record.version, asked.stage, record.digest, "", "")
        said, record.approver = approval.ask(wanted, evidence(), own.approval, asked.root, lambda: asked.obtain(wanted))
        return said

    yield Gate("origin", lambda: origin.ask(evidence(), asked.root, base.artifacts_dir))
    yield Gate("graph", lambda: graph.ask(folder, own.max_opset, own.max_ir_version))
    yield server_gate(asked, folder)
    yield Gate("quality", lambda: quality.ask(evidence(), _task(asked), own.floors, own.slice_floor))
    yield Gate("champion", lambda: compared(asked, store, state.serves(asked.stage), evidence()))
    yield Gate("supply", lambda: supply.ask(supply.Bill.read(folder), own, asked.audit_report))
    yield Gate("stage", lambda: stages.ask(state, asked.stage, record.version, record.digest))
    if asked.stage == "prod":
        yield Gate("approval", approved, forcible=False)


def compared(asked: Asked, store: Store, serves: Entry | None, challenger: Evidence) -> Said:
    """The gate `champion` against what serves, if anything does."""
    own, verify = asked.params.promote, asked.params.verify
    margin = verify.margin if own.margin is None else own.margin
    rules = champion.Rules(
        margin, verify.confidence, verify.resamples, asked.params.base.seed, own.target,
        verify.warn_after_uses, verify.refuse_after_uses,
    )  # fmt: skip
    validated = asked.artifacts / "validate"
    if serves is None:
        return champion.ask(challenger, None, validated, rules)
    with store.fetched(asked.name, serves.version) as theirs:
        same(asked.public_key, serves.digest)(theirs)
        return champion.ask(challenger, Evidence.read(theirs), validated, rules)


def bundle_gate(asked: Asked, folder: Path, record: Record, expected: str | None = None) -> Gate:
    """The first gate: signature, manifest, types of files, no links; and, of a known bundle, the digest."""

    def ask() -> Said:
        bundle.verify(folder, asked.public_key)
        record.digest = bundle.manifest_digest(folder)
        if expected is not None and record.digest != expected:
            return Said("FAIL", f"the log names the digest {expected[:12]}, the bundle has {record.digest[:12]}")
        return Said("PASS", f"signed and whole, digest {record.digest[:12]}", {"digest": record.digest})

    return Gate("bundle", ask, forcible=False)


def server_gate(asked: Asked, folder: Path) -> Gate:
    """The real server, started and questioned."""
    own, command = asked.params.promote, [*asked.server(folder, asked.public_key)]
    command += [] if own.target is None else ["--target", own.target]
    return Gate("server", lambda: serving.ask(command, folder, own.latency))


def _task(asked: Asked) -> str:
    return str(manifest.read(asked.artifacts / "validate").facts["task"])


def same(public_key: Path, expected: str) -> Callable[[Path], None]:
    """A check that a folder is the signed bundle of a digest."""

    def check(folder: Path) -> None:
        bundle.verify(folder, public_key)
        if (found := bundle.manifest_digest(folder)) != expected:
            rule = "a bundle in the store is the one that the gates saw"
            raise IntegrityError(rule, f"{folder} has digest {found[:12]}, not {expected[:12]}", "promote it again")

    return check
