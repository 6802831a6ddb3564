"""Promotion from end to end in the room: what passes, what is refused and why, what is left behind."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import fake_pipeline
import promote_world
import pytest
from promote_world import APPROVER, NAME, bundle_of, stand_in

from deploy.store import current, read_pointer
from tasks import promote as room
from tasks.core import files
from tasks.core.errors import IntegrityError, PromotionRefused, UsageError
from tasks.core.settings import Latency, load
from tasks.promote import serving
from tasks.promote.words import Gate, answer

GATES = ["bundle", "origin", "graph", "server", "quality", "champion", "supply", "stage", "approval"]


def asked(root: Path, stage: str = "staging", version: str | None = "", **changes: Any) -> room.Asked:
    """A promotion of the project's first bundle, with an audit report made elsewhere and the small server."""
    own = bundle_of(root).name if version == "" else version
    report = root / "report.json"
    if not report.exists():
        promote_world.report(root, bundle_of(root), report)
    given = {"who": "tester@example.org", "why": "", "audit_report": report, "server": stand_in()} | changes
    return room.Asked(load(root / "params.yaml"), root, NAME, stage, version=own, **given)


def approving(root: Path, key: str = "ann", **changes: Any) -> Any:
    """Gives the approval of whoever has that key."""

    def obtain(wanted: room.Approval) -> room.Approval:
        given = room.approve(asked(root, wanted.stage, wanted.version), root / "keys" / f"{key}.key")
        return dataclasses.replace(given, **changes)

    return obtain


def records(root: Path) -> list[dict[str, Any]]:
    return [files.read_json(path) for path in sorted((root / "artifacts" / "promotions").glob("*.json"))]


def refused(root: Path, gate: str, match: str, wanted: room.Asked | None = None) -> dict[str, Any]:
    """The record of a promotion that one gate refuses, and which leaves nothing else behind."""
    before = {path for path in root.rglob("*") if path.is_file()}
    with pytest.raises(PromotionRefused, match=rf"gate {gate}: .*{match}"):
        room.promote(wanted or asked(root))
    (path,) = {path for path in root.rglob("*") if path.is_file()} - before - {root / "report.json"}
    assert path.parent == root / "artifacts" / "promotions"
    told: dict[str, Any] = files.read_json(path)
    assert told["word"] == "REFUSED"
    last = told["gates"][-1]
    assert last["gate"] == gate
    assert last["word"] in ("FAIL", "INCONCLUSIVE")
    assert all(one["word"] == "PASS" for one in told["gates"][:-1])
    return told


# All the way.


def test_a_bundle_goes_to_staging_then_to_production_and_back(promotable: Path) -> None:
    root, first = promotable, bundle_of(promotable)
    done, new = room.promote(asked(root, why="first release"))
    assert new
    assert (done.stage, done.version, done.revision, done.forced) == ("staging", first.name, 1, False)
    assert list(done.gates) == GATES[:-1]
    assert "the first release: there is no champion to compare with" in done.notes
    done, _ = room.promote(asked(root, "prod", obtain=approving(root)))
    assert done.approver == f"{APPROVER} (by key)"
    assert list(done.gates) == GATES
    store = root / "store"
    assert current(store, NAME, "prod") == store / NAME / first.name
    told = records(root)[-1]
    assert [one["gate"] for one in told["gates"]] == GATES
    assert {one["word"] for one in told["gates"]} == {"PASS"}
    figures = told["gates"][3]["figures"]
    assert figures["requests"] == 100
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
    assert figures["refused"] > 35

    second = promote_world.another(root)
    promote_world.export_of(root, second)
    for stage in room.STAGES:
        room.promote(asked(root, stage, second.name, obtain=approving(root)))
    assert read_pointer(store, NAME, "prod").version == second.name
    back = room.rollback(asked(root, "prod", None, why="it was slow"))
    assert (back.version, back.revision, list(back.gates)) == (first.name, 3, ["bundle", "server"])
    assert current(store, NAME, "prod").name == first.name
    with pytest.raises(UsageError, match="must have served another version before"):
        room.rollback(asked(root, "prod", None))
    again = room.rollback(asked(root, "prod", second.name))
    assert again.version == second.name

    moves, notes = room.history(load(root / "params.yaml"), root, NAME)
    assert [(one.stage, one.action, one.version) for one in moves] == [
        ("staging", "promote", first.name), ("prod", "promote", first.name), ("staging", "promote", second.name),
        ("prod", "promote", second.name), ("prod", "rollback", first.name), ("prod", "rollback", second.name),
    ]  # fmt: skip
    assert notes == []


def test_what_is_done_already_is_only_completed(promotable: Path) -> None:
    done, _ = room.promote(asked(promotable))
    log = promotable / "store" / NAME / "audit.jsonl"
    before = log.read_bytes()
    assert room.promote(asked(promotable)) == (done, False)
    assert log.read_bytes() == before
    # As if it had been killed between the log and the pointer.
    pointer = promotable / "store" / NAME / "stages" / "staging.json"
    pointer.unlink()
    _, notes = room.history(load(promotable / "params.yaml"), promotable, NAME)
    assert "was cut off" in notes[0]
    assert room.promote(asked(promotable)) == (done, False)
    assert read_pointer(promotable / "store", NAME, "staging") == done.pointer


def test_force_overrules_what_it_may_and_the_log_says_so(promotable: Path) -> None:
    fake = asked(promotable, audit_report=promote_world.report(
        promotable, bundle_of(promotable), promotable / "old.json", days_ago=30), force=True)  # fmt: skip
    with pytest.raises(UsageError, match="--force needs a --reason"):
        room.promote(fake)
    done, _ = room.promote(dataclasses.replace(fake, why="the registry is down"))
    assert done.forced
    assert done.gates["supply"] == "INCONCLUSIVE"
    assert done.gates["bundle"] == "PASS"
    assert "sha256" in done.notes[0]


def test_force_skips_neither_the_bundle_nor_the_approval(promotable: Path) -> None:
    force = {"force": True, "why": "now"}
    (bundle_of(promotable) / "golden" / "extra.txt").write_text("x")
    refused(promotable, "bundle", "extra.txt", asked(promotable, **force))
    (bundle_of(promotable) / "golden" / "extra.txt").unlink()
    with pytest.raises(PromotionRefused, match="gate approval: INCONCLUSIVE: nobody has said yes"):
        room.promote(asked(promotable, "prod", **force))
    assert not (promotable / "store").exists()


def test_every_mistake_of_the_command_is_told_at_once(promotable: Path) -> None:
    (promotable / "keys" / "assay.pub").unlink()
    wrong = dataclasses.replace(asked(promotable), name="other", stage="moon", audit_report=Path("none.json"))
    with pytest.raises(UsageError) as caught:
        room.promote(wrong)
    for part in ("about tiny, not other", "moon is no stage", "assay.pub does not exist", "none.json does not exist"):
        assert part in str(caught.value)


def test_a_version_that_is_not_there_is_told_with_those_that_are(promotable: Path) -> None:
    with pytest.raises(UsageError, match=f"there are {bundle_of(promotable).name}"):
        room.promote(asked(promotable, version="9-none"))


# Tampering.


def change_byte(folder: Path, name: str) -> None:
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


TAMPERINGS = {
    "one byte of the model": lambda folder: change_byte(folder, "model.onnx"),
    "one byte of a golden answer": lambda folder: change_byte(folder, "golden/typical.response.json"),
    "one byte of the signature": lambda folder: change_byte(folder.parent, f"{folder.name}.sig"),
    "no signature": lambda folder: folder.with_name(f"{folder.name}.sig").unlink(),
    "a file more": lambda folder: (folder / "more.json").write_text("{}"),
    "a file less": lambda folder: (folder / "metrics.json").unlink(),
    "a link": lambda folder: ((folder / "README.md").unlink(), (folder / "README.md").symlink_to("/etc/hostname")),
    "another key": lambda folder: shutil.copy(
        folder.parents[2] / "keys" / "bob.pub", folder.parents[2] / "keys" / "assay.pub"
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_bundle_that_was_tampered_with_is_refused(promotable: Path, what: str) -> None:
    wanted = asked(promotable)
    TAMPERINGS[what](bundle_of(promotable))
    refused(promotable, "bundle", "", wanted)


def test_a_renamed_version_is_refused(promotable: Path) -> None:
    first, wanted = bundle_of(promotable), asked(promotable)
    other = first.rename(first.with_name(first.name.replace("1-", "3-")))
    first.with_name(f"{first.name}.sig").rename(other.with_name(f"{other.name}.sig"))
    refused(promotable, "bundle", "", dataclasses.replace(wanted, version=other.name))


def test_a_store_that_was_tampered_with_serves_nothing_more(promotable: Path) -> None:
    second = promote_world.another(promotable)
    for one in (bundle_of(promotable), second):
        promote_world.export_of(promotable, one)
        room.promote(asked(promotable, version=one.name))
    change_byte(promotable / "store" / NAME / bundle_of(promotable).name, "model.onnx")
    with pytest.raises(PromotionRefused, match="gate bundle: FAIL"):
        room.rollback(asked(promotable, "staging", None))
    assert current(promotable / "store", NAME, "staging").name == second.name
    change_byte(promotable / "store" / NAME, "audit.jsonl")
    for what in (lambda: room.rollback(asked(promotable, "staging", None)), lambda: room.promote(asked(promotable))):
        with pytest.raises(IntegrityError) as caught:
            what()
        assert caught.value.exit_code == 5


# The gate `server`, with servers that have a vice.


@pytest.mark.parametrize(
    ("vice", "found"),
    [
        ("is wrong", "golden case typical, output probability: off by 0.5"),
        ("crashes on bad input", "no JSON: status 500"),
        ("dies", "no answer"),
        ("ends badly", "it ended with 3"),
        ("is slow", "the 99th percentile of one row is"),
    ],
)
def test_a_server_with_a_vice_is_found_out(_promotable: Path, vice: str, found: str) -> None:
    folder = bundle_of(_promotable)
    said = serving.ask(
        stand_in(vice)(folder, folder), folder, Latency(p99_ms=20.0 if vice == "is slow" else 2e3, requests=100)
    )
    assert said.word == "FAIL"
    assert found in said.reason


def test_a_server_that_does_not_start_gives_no_pass(_promotable: Path) -> None:
    folder, budget = bundle_of(_promotable), Latency(start_seconds=0.5)
    broken = Gate("server", lambda: serving.ask(stand_in("refuses")(folder, folder), folder, Latency()))
    assert answer(broken).word == "FAIL"
    assert "exit code 5: the bundle is broken" in answer(broken).reason
    late = answer(Gate("server", lambda: serving.ask(stand_in("is never ready")(folder, folder), folder, budget)))
    assert late.word == "INCONCLUSIVE"
    assert "ready within 0.5 s" in late.reason


def test_a_record_says_who_what_why_and_the_figures(promotable: Path) -> None:
    fake_pipeline.git(promotable, "rm", "-q", "dvc.yaml", "--cached")
    told = refused(promotable, "origin", "uncommitted changes now: D  dvc.yaml", asked(promotable, why="a try"))
    assert (told["name"], told["stage"], told["who"], told["why"]) == (NAME, "staging", "tester@example.org", "a try")
    assert told["digest"] == told["gates"][0]["figures"]["digest"]
    assert json.dumps(told)
