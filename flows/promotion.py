"""Promotion, rollback and approval: the room `promote`, and the tags in Git. The flow is in :mod:`flows.promote`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from flows import registry
from flows.pipeline import Pipeline, inspect
from tasks import promote as room
from tasks.core import repository
from tasks.core.errors import UsageError
from tasks.core.settings import Approval as Rules
from tasks.core.settings import load
from tasks.export.key import password
from tasks.promote import approval
from tasks.promote.approval import Approval

Obtain = Callable[[Approval], Approval | None]
#: Asks a person; the rules say for how long.
AskPerson = Callable[[Approval, Rules], Approval | None]


@dataclass(frozen=True)
class Wanted:
    """A promotion as it is written on the command line: see :func:`flows.cli.promote`."""

    name: str
    version: str
    stage: str
    params: Path = Path("params.yaml")
    reason: str = ""
    force: bool = False
    approve_with: Path | None = None
    approval: Path | None = None
    audit_report: Path | None = None


def carry_out(wanted: Wanted, conduct: room.Conduct, ask_person: AskPerson) -> str:
    """Promote, and tag it in Git.

    Args:
        wanted: what.
        conduct: asks one gate.
        ask_person: gets an approval where neither a key nor a file gives one.

    Returns:
        What became of it, in a sentence.

    Raises:
        PromotionRefused: if a gate says no.
        AssayError: see :func:`tasks.promote.promote`.
    """
    if wanted.approve_with is not None and wanted.approval is not None:
        raise UsageError("an approval comes from a key or from a file", "both are given", "leave one of them out")
    pipeline = inspect(wanted.params)
    artifact = registry.artifact(pipeline)
    asked = _asked(pipeline, wanted.name, wanted.stage, wanted.version, wanted.reason)
    rules = pipeline.settings.promote.approval
    obtain = _given(wanted, asked) or (lambda wished: ask_person(wished, rules))
    asked = replace(asked, force=wanted.force, audit_report=wanted.audit_report, obtain=obtain)

    def with_registry(gate: room.Gate, answer: Callable[[room.Gate], room.Said]) -> room.Said:
        checked = replace(gate, ask=lambda: _taggable(pipeline, artifact, wanted.version, gate.name, gate.ask()))
        return conduct(checked, answer)

    entry, new = room.promote(asked, with_registry)
    now = "now serves" if new else "serves already"
    said = f"{entry.name}: {entry.stage} {now} {entry.version} (revision {entry.revision})"
    return f"{said}; {_tagged(pipeline, artifact, entry)}"


def plain(wanted: Wanted) -> str:
    """:func:`carry_out` without Prefect: nobody is there to be asked."""
    return carry_out(wanted, tell, lambda _, __: None)


def rollback(name: str, stage: str, version: str | None, params: Path, reason: str) -> str:
    """Go back to an earlier version; see :func:`tasks.promote.rollback`."""
    pipeline = inspect(params)
    artifact = registry.artifact(pipeline)
    entry = room.rollback(_asked(pipeline, name, stage, version, reason), tell)
    said = f"{entry.name}: {entry.stage} serves {entry.version} again (revision {entry.revision})"
    return f"{said}; {_tagged(pipeline, artifact, entry)}"


def approve(name: str, version: str, stage: str, params: Path, key: Path, out: Path) -> str:
    """Write an approval that its approver signs."""
    asked = _asked(inspect(params), name, stage, version, "")
    given = room.approve(asked, key, password())
    approval.write(given, out)
    return f"{out}: {given.approver} approves {name} {version} for {stage} until {given.expires}"


def history(name: str, params: Path) -> Iterator[str]:
    """A line for each move of a model, oldest first, and one for what else there is to know."""
    settings = load(params)
    moves, notes = room.history(settings, params.parent, name)
    for one in moves:
        gates = " ".join(f"{gate}={word}" for gate, word in one.gates.items() if word != "PASS") or "all gates PASS"
        about = [f"{one.when}  {one.stage:8} {one.action:8} {one.version} (revision {one.revision})", f"by {one.who}"]
        about += [f"approved by {one.approver}"] if one.approver else []
        about += [f"why: {one.why}"] if one.why else []
        yield "; ".join([*about, f"FORCED: {gates}" if one.forced else gates])
    yield from notes
    yield f"{len(moves)} moves; the chain holds"


def _taggable(pipeline: Pipeline, artifact: str, version: str, gate: str, said: room.Said) -> room.Said:
    """What a gate said; no PASS of `origin` where the commit cannot be tagged as this version, while nothing moved."""
    if gate != "origin" or said.word != "PASS":
        return said
    commit = str(repository.git_state(pipeline.root)["commit"])
    if registry.is_registered(pipeline, artifact, version):
        return said
    if (other := registry.other_at_commit(pipeline, artifact, version, commit)) is None:
        return said
    reason = (
        f"commit {commit[:12]} is {artifact}@{other} already, and a commit stands for one version: "
        "make a commit for this one (`git commit --allow-empty`), and promote again"
    )
    return replace(said, word="FAIL", reason=reason)


def _tagged(pipeline: Pipeline, artifact: str, entry: room.Entry) -> str:
    """Tag what a stage serves now, unless nothing shows that the repository's commit is the bundle's."""
    if entry.gates.get("origin") != "PASS" and not registry.is_registered(pipeline, artifact, entry.version):
        return "not tagged in Git, as nothing shows which commit is the bundle's"
    return f"tagged {artifact}@{registry.tag(pipeline, artifact, entry.version, entry.stage, entry.commit or 'HEAD')}"


def _asked(pipeline: Pipeline, name: str, stage: str, version: str | None, reason: str) -> room.Asked:
    return room.Asked(pipeline.settings, pipeline.root, name, stage, repository.user(pipeline.root), reason, version)


def _given(wanted: Wanted, asked: room.Asked) -> Obtain | None:
    """Where the command line has the approval from."""
    if wanted.approval is not None:
        read = approval.read(wanted.approval)
        return lambda _: read
    if wanted.approve_with is not None:
        key = wanted.approve_with
        return lambda _: room.approve(asked, key, password())
    return None


def tell(gate: room.Gate, answer: Callable[[room.Gate], room.Said]) -> room.Said:
    """Ask a gate, and print what it says."""
    said = answer(gate)
    print(f"{gate.name}: {said.word}: {said.reason}", file=sys.stderr)
    return said
