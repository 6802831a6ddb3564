"""What each gate of a promotion says: a table of cases for each."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_pipeline
import numpy as np
import promote_world
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from promote_world import APPROVER, AUTHOR, NAME, bundle_of

from deploy import bundle
from tasks.core import files, manifest, uses
from tasks.core.errors import IntegrityError, MachineError, UsageError
from tasks.core.settings import Approval as Rules
from tasks.core.settings import Promote
from tasks.promote import approval, champion, graph, origin, quality, stages, supply
from tasks.promote.approval import Approval
from tasks.promote.audit import Entry, Log
from tasks.promote.evidence import Evidence
from tasks.promote.moves import State
from tasks.promote.words import Gate, Said, answer


@pytest.fixture(scope="module")
def evidence(_promotable: Path) -> Evidence:
    return Evidence.read(bundle_of(_promotable))


def provenance(evidence: Evidence, **changes: Any) -> Evidence:
    return dataclasses.replace(evidence, provenance=evidence.provenance.model_copy(update=changes))


def test_evidence_that_does_not_follow_its_schemas_is_told_at_once(promotable: Path) -> None:
    folder = bundle_of(promotable)
    for name, change in (("verdict", {"lines": []}), ("metrics", {"metrics": {"a": "b"}}), ("provenance", {"git": 1})):
        path = folder / f"{name}.json"
        files.write_json(path, files.read_json(path) | change)
    with pytest.raises(IntegrityError) as caught:
        Evidence.read(folder)
    for part in ("verdict.json: lines", "metrics.json: metrics.a", "provenance.json: git"):
        assert part in str(caught.value)


# Gate `origin`.

ORIGIN: dict[str, tuple[Callable[[Path, Evidence], Evidence | None], str]] = {
    "no commit": (lambda _, one: provenance(one, git={"commit": None, "dirty": None}), "names no commit"),
    "made dirty": (
        lambda _, one: provenance(one, git={"commit": "a" * 40, "dirty": True}), "uncommitted changes: commit"
    ),
    "no DVC": (lambda _, one: provenance(one, dvc=None), "no DVC hashes"),
    "dirty now": (lambda root, _: (root / "params.yaml").write_text("x") and None, "uncommitted changes now: M"),
    "other data": (
        lambda root, _: (promote_world.lock(root, validate="new.dir"), fake_pipeline.commit(root))[1],
        "artifacts/validate is new.dir in dvc.lock, the bundle was made from validate.dir",
    ),
    "no lock": (
        lambda root, _: ((root / "dvc.lock").unlink(), fake_pipeline.commit(root))[1],
        "artifacts/tune is absent in dvc.lock",
    ),
    "another export": (
        lambda root, _: promote_world.export_of(root, promote_world.another(root)), "is another bundle"
    ),
    "no export": (lambda root, _: shutil.rmtree(root / "artifacts" / "export"), "run `dvc checkout`"),
    "no git": (lambda root, _: shutil.rmtree(root / ".git"), "git: "),
}  # fmt: skip


@pytest.mark.parametrize("case", ORIGIN)
def test_another_origin_is_refused(promotable: Path, evidence: Evidence, case: str) -> None:
    change, found = ORIGIN[case]
    changed = change(promotable, evidence)
    one = changed if isinstance(changed, Evidence) else evidence
    if isinstance(changed, Evidence):  # what the reader of a bundle makes of it
        parsed = type(one.provenance).model_validate_json(one.provenance.model_dump_json(warnings=False))
        one = dataclasses.replace(one, provenance=parsed)
    said = origin.ask(one, promotable, "artifacts")
    assert said.word == "FAIL"
    assert found in said.reason


def test_the_lock_file_that_a_run_writes_does_not_make_its_bundle_dirty(promotable: Path) -> None:
    from tasks.core.repository import git_state

    promote_world.lock(promotable, tune="new.dir")
    assert git_state(promotable)["dirty"] is False
    (promotable / "params.yaml").write_text("x")
    assert git_state(promotable)["dirty"] is True


# Gate `graph`.


def test_a_graph_is_one_that_the_serving_runtimes_read(_promotable: Path, tmp_path: Path) -> None:
    folder = bundle_of(_promotable)
    assert graph.ask(folder, 18, 10).word == "PASS"
    for limits, found in (((17, 10), "opset 18 is newer than 17"), ((18, 9), "IR version 10 is newer than 9")):
        said = graph.ask(folder, *limits)
        assert said.word == "FAIL"
        assert found in said.reason
    (tmp_path / "variants" / "edge").mkdir(parents=True)
    (tmp_path / "variants" / "edge" / "model.onnx").write_bytes(b"no model")
    assert "variants/edge/model.onnx" in graph.ask(tmp_path, 18, 10).reason
    assert graph.ask(tmp_path / "variants" / "none", 18, 10).word == "FAIL"


# Gate `quality`.


def verdict(evidence: Evidence, **changes: Any) -> Evidence:
    raw = evidence.verdict.model_dump() | changes
    return dataclasses.replace(evidence, verdict=type(evidence.verdict).model_validate(raw))


def test_floors(evidence: Evidence) -> None:
    (line,) = evidence.verdict.lines
    low, high = line.shipped_interval
    assert low is not None
    assert high is not None
    cases: list[tuple[dict[str, float], str, str]] = [
        ({}, "PASS", "no floors are set"),
        ({"auc": low - 0.01}, "PASS", "1 floors hold"),
        ({"auc": (low + line.shipped) / 2}, "INCONCLUSIVE", "more test rows must show"),
        ({"auc": line.shipped + 1e-6}, "FAIL", "auc is"),
        ({"logloss": 0.01}, "FAIL", "logloss is"),  # less is better
        ({"logloss": 10.0, "recall of 1": 0.1}, "PASS", "2 floors hold"),
        ({"recall of 1": 0.9999}, "FAIL", "recall of 1 is"),
        ({"f2": 0.5}, "INCONCLUSIVE", "no figure 'f2'"),
    ]
    for floors, word, found in cases:
        said = quality.ask(evidence, "binary", floors, None)
        assert (said.word, found in said.reason) == (word, True), (floors, said)


def test_floors_of_slices(evidence: Evidence) -> None:
    assert quality.ask(evidence, "binary", {}, 0.5).word == "INCONCLUSIVE"
    check = {"kind": "slice", "name": "carrier AA", "shipped": 0.7, "verdict": "ACCEPT"}
    small = "1 with fewer than 50 rows, or of a class without any: auc where carrier is DL"
    untested = check | {"name": "not tested", "shipped": None, "note": small}
    sliced = verdict(evidence, checks=[check, untested])
    said = quality.ask(sliced, "binary", {}, 0.6)
    assert (said.word, said.reason.endswith(f"those that were not tested: {small}")) == ("PASS", True)
    assert small not in quality.ask(sliced, "binary", {}, None).reason
    said = quality.ask(sliced, "binary", {}, 0.71)
    assert (said.word, said.reason) == ("FAIL", "carrier AA is 0.7, the floor of slices is 0.71")


def test_a_verdict_that_is_none_of_this_file_is_refused(evidence: Evidence) -> None:
    for changes, found in (
        ({"verdict": "REGRESSION", "reason": "worse"}, "the verdict is REGRESSION: worse"),
        ({"model_sha256": "0" * 64}, "another model.onnx"),
    ):
        said = quality.ask(verdict(evidence, **changes), "binary", {}, None)
        assert said.word == "FAIL"
        assert found in said.reason
    polished = evidence.metrics.model_copy(update={"intervals": ({"shipped": 0.99, "n": 600},)})
    said = quality.ask(dataclasses.replace(evidence, metrics=polished), "binary", {}, None)
    assert "metrics.json and verdict.json disagree about auc" in said.reason


# Gate `champion`.

RULES = champion.Rules(margin=0.02, confidence=0.95, resamples=500, seed=1, target=None)


def against(challenger: Evidence, rules: champion.Rules, folder: Path, **changes: Any) -> Said:
    """The bundle against one that answers the same but counts as another."""
    other = dataclasses.replace(challenger, digest="f" * 64, **changes)
    return champion.ask(challenger, other, folder, rules)


def test_the_first_release_has_no_champion(evidence: Evidence, _promotable: Path) -> None:
    validated = _promotable / "artifacts" / "validate"
    said = champion.ask(evidence, None, validated, RULES)
    assert (said.word, "no champion" in said.reason) == ("PASS", True)
    assert champion.ask(evidence, evidence, validated, RULES).word == "PASS"


def test_too_few_fresh_rows_say_how_many_would_decide(evidence: Evidence, _promotable: Path) -> None:
    said = against(evidence, RULES, _promotable / "artifacts" / "validate")
    assert said.word == "INCONCLUSIVE"
    assert "100 fresh rows" in said.reason
    assert "at least 149 are needed" in said.reason
    assert (
        against(evidence, dataclasses.replace(RULES, margin=0.2), _promotable / "artifacts" / "validate").word == "PASS"
    )


def test_a_challenger_that_is_worse_is_refused(evidence: Evidence, promotable: Path, tmp_path: Path) -> None:
    """One that answers the opposite of the champion."""
    import onnx

    worse = shutil.copytree(evidence.folder, tmp_path / "2-worse")
    model = onnx.load(worse / "model.onnx")
    (output,) = (one.name for one in model.graph.output)
    for node in model.graph.node:
        node.output[:] = [f"{name}_right" if name == output else name for name in node.output]
    one = onnx.helper.make_tensor("one_", onnx.TensorProto.FLOAT, [], [1.0])
    model.graph.initializer.append(one)
    model.graph.node.append(onnx.helper.make_node("Sub", ["one_", f"{output}_right"], [output]))
    onnx.save(model, worse / "model.onnx")
    bundle.write_manifest(worse)
    challenger = dataclasses.replace(evidence, folder=worse, digest="e" * 64)
    said = champion.ask(challenger, evidence, promotable / "artifacts" / "validate", RULES)
    assert said.word == "FAIL"
    assert f"against {evidence.folder.name} on 100 fresh rows: the loss of auc is at least" in said.reason
    assert said.figures["original"] > 0.6
    assert said.figures["shipped"] < 0.4


def test_fresh_rows_that_have_judged_often_are_no_longer_fresh(evidence: Evidence, promotable: Path) -> None:
    validated = promotable / "artifacts" / "validate"
    (promotable / "artifacts" / uses.LEDGER).unlink(missing_ok=True)
    rules = dataclasses.replace(RULES, margin=0.2, resamples=200, warn_after=1, refuse_after=2)
    found = [
        champion.ask(dataclasses.replace(evidence, digest=name * 64), evidence, validated, rules) for name in "eefd"
    ]
    assert [(said.word, said.figures["uses"]) for said in found] == [
        ("PASS", 1), ("PASS", 1), ("PASS", 2), ("INCONCLUSIVE", 3)
    ]  # fmt: skip
    assert found[1].reason.endswith("; judgement 1 on this set of fresh rows")
    assert "plan another set of fresh rows" in found[2].reason
    assert "used for 3 judgements, 2 are allowed: wait for newer ones" in found[3].reason


def test_fresh_rows_are_answered_as_the_gate_verify_had_them_answered(evidence: Evidence, _promotable: Path) -> None:
    """Rows reach the bundle by its signature alone, without the workload's encoder: same rows, same answers."""
    artifacts = _promotable / "artifacts"
    rows = pq.read_table(artifacts / "validate" / "test.parquet")
    facts = manifest.read(artifacts / "validate").facts
    columns = champion._columns(rows, evidence, facts)
    answers = champion.score_served(evidence.folder, columns, None).answers.ravel()
    verified = pq.read_table(artifacts / "verify" / "predictions.parquet")
    np.testing.assert_allclose(answers, verified["shipped"].to_numpy(), atol=1e-6)
    np.testing.assert_array_equal(champion._labels(rows, facts), verified["label"].to_numpy())


def test_rows_that_are_not_fresh_decide_nothing(evidence: Evidence, promotable: Path) -> None:
    validated, splits = promotable / "artifacts" / "validate", dict(evidence.provenance.splits)
    assert set(splits) == {f"{name}.parquet" for name in ("train", "validation", "test", "fresh", "calibration")}
    other = evidence.provenance.model_copy(update={"splits": splits | {"train.parquet": "0" * 64}})
    said = against(evidence, RULES, validated, provenance=other)
    assert (said.word, "nothing shows that" in said.reason) == ("INCONCLUSIVE", True)
    mine = provenance(evidence, splits=splits | {"fresh.parquet": "0" * 64})
    assert "is not the one that was set aside" in champion.ask(
        mine, dataclasses.replace(evidence, digest="f" * 64), validated, RULES).reason  # fmt: skip
    seen = pq.read_table(validated / "test.parquet").slice(0, 100)
    pq.write_table(seen, validated / "fresh.parquet")
    made = files.read_json(validated / "manifest.json")
    path = validated / "fresh.parquet"
    made["files"]["fresh.parquet"] |= {"sha256": files.sha256(path), "bytes": path.stat().st_size}
    files.write_json(validated / "manifest.json", made)
    mine = provenance(evidence, splits=splits | {"fresh.parquet": files.sha256(path)})
    assert "test holds 100 of the fresh rows" in against(mine, RULES, validated).reason
    del made["files"]["fresh.parquet"]
    files.write_json(validated / "manifest.json", made)
    assert "there are no fresh rows" in against(evidence, RULES, validated).reason


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({"by": "time", "column": "when", "validation_from": "2013-01-01", "test_from": "2013-02-01",
          "fresh_from": "2013-03-01"}, ""),
        ({"by": "time", "column": "when", "validation_from": "2013-01-01", "test_from": "2013-02-01",
          "fresh_from": "2030-03-01T00:00:00Z"}, "has seen rows up to 2030-03-01"),
        ({"by": "time", "column": "when", "validation_from": "2013-01-01", "test_from": "2013-02-01"},
         "its test had no end"),
        ({"by": "time", "column": "other", "validation_from": "2013-01-01", "test_from": "2013-02-01"},
         "not by the same time"),
        ({"by": "random"}, "not by the same time"),
    ],
)  # fmt: skip
def test_a_champion_of_other_splits_has_not_seen_what_came_after_its_own(
    evidence: Evidence, _promotable: Path, theirs: dict[str, Any], found: str
) -> None:
    own = {"by": "time", "column": "when"}
    other = provenance(evidence, params={"validate": {"split": theirs}})
    said = champion._seen_later(other, own, _promotable / "artifacts" / "validate" / "fresh.parquet")
    assert (found in said) if found else said == ""


def test_two_that_mean_different_things_are_not_compared(evidence: Evidence, _promotable: Path) -> None:
    output = dataclasses.replace(evidence.signature.outputs[0], labels=("no", "yes"))
    signature = dataclasses.replace(evidence.signature, outputs=(output,))
    said = against(evidence, RULES, _promotable / "artifacts" / "validate", signature=signature)
    assert (said.word, "mean different things" in said.reason) == ("INCONCLUSIVE", True)


def test_values_of_every_kind_of_column() -> None:
    whole = champion._values(pa.chunked_array([pa.array([True, None, False])]))
    np.testing.assert_array_equal(whole, [1.0, np.nan, 0.0])


# Gate `supply`.

BILL = supply.Bill(
    {"assay": "0.1.0", "torch": "2.13.0+cpu", "Some_Package": "1.0", "grandalf": "0.8"},
    {"torch": "BSD-3-Clause AND MIT", "Some_Package": "MIT License; BSD License", "grandalf": "GPL-2.0-only"},
    "CC0-1.0 (from here; and there)",
)


def report(tmp_path: Path, **changes: Any) -> Path:
    components = [{"bom-ref": "1", "name": "torch", "version": "2.13.0"},
                  {"bom-ref": "2", "name": "some-package", "version": "1.0"},
                  {"bom-ref": "3", "name": "grandalf", "version": "0.8"}]  # fmt: skip
    made = {"timestamp": datetime.now(UTC).isoformat()}
    raw = {"bomFormat": "CycloneDX", "metadata": made, "components": components, "vulnerabilities": []}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(raw | changes))
    return path


def aged(**difference: float) -> dict[str, str]:
    return {"timestamp": (datetime.now(UTC) - timedelta(**difference)).isoformat()}


SUPPLY: dict[str, tuple[dict[str, Any], str, str]] = {
    "fine": ({}, "PASS", "3 packages without a known vulnerability"),
    "not audited": ({"components": []}, "INCONCLUSIVE", "not audited: grandalf 0.8, some-package 1.0, torch 2.13.0"),
    "another version": (
        {"components": [{"bom-ref": "1", "name": "torch", "version": "2.12.0"}]}, "INCONCLUSIVE", "not audited"
    ),
    "old": ({"metadata": aged(days=8)}, "INCONCLUSIVE", "at most 7 days"),
    "of tomorrow": ({"metadata": aged(days=-1)}, "INCONCLUSIVE", "at most 7 days"),
    "vulnerable": (
        {"vulnerabilities": [{"id": "PYSEC-1", "affects": [{"ref": "1"}]}]}, "FAIL", "torch 2.13.0: PYSEC-1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SUPPLY)
def test_a_report_made_elsewhere(tmp_path: Path, case: str) -> None:
    changes, word, found = SUPPLY[case]
    said = supply.ask(BILL, Promote(), report(tmp_path, **changes))
    assert (said.word, found in said.reason) == (word, True), said


def test_a_report_that_is_none_is_told(tmp_path: Path) -> None:
    path = report(tmp_path, bomFormat="SPDX")
    with pytest.raises(UsageError, match="cyclonedx-json"):
        supply.ask(BILL, Promote(), path)


def test_an_audit_without_a_network_is_no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="--audit-report"):
        supply.run({"torch": "2.13.0"})


def test_licences_without_the_extra_are_inconclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supply._spdx.cache_clear()
    monkeypatch.setitem(sys.modules, "license_expression", None)
    said = answer(Gate("supply", lambda: supply.ask(BILL, Promote(), report(tmp_path))))
    assert (said.word, 'pip install ".[audit]"' in said.reason) == ("INCONCLUSIVE", True), said


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [("MIT", True), ("mit", True), ("MIT OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False), ("", False),
     ("GPL-3.0-only OR (MIT AND Apache-2.0)", True), ("unknown", False), ("MIT AND (", False),
     ("Apache-2.0 WITH LLVM-exception", False), ("MIT; Apache-2.0", True),
     ("MIT; other", False), ("My Own Words", True)],
)  # fmt: skip
def test_licences(expression: str, allowed: bool) -> None:
    assert supply.is_allowed(expression, ("MIT", "Apache-2.0", "My own words")) is allowed


def test_a_licence_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    bill = dataclasses.replace(BILL, data="unknown", licences=BILL.licences | {"torch": ""})
    said = supply.ask(bill, Promote(any_licence=()), report(tmp_path))
    assert said.word == "FAIL"
    assert (
        said.reason
        == "licence of grandalf: GPL-2.0-only; licence of the training data: unknown; licence of torch: none"
    )


def test_a_bill_is_read_of_the_bundle(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"licences.json: FileNotFoundError"):
        supply.Bill.read(tmp_path)
    one = {"name": "torch", "version": "2.13.0", "licence": "MIT"}
    files.write_json(tmp_path / "licences.json", {"data": {"licence": "CC0-1.0"}, "dependencies": [one]})
    assert supply.Bill.read(tmp_path) == supply.Bill({"torch": "2.13.0"}, {"torch": "MIT"}, "CC0-1.0")


# Gate `stage`.


def test_production_takes_what_serves_at_staging() -> None:
    def state(*served: tuple[str, str]) -> State:
        given = ("when", "who", "promote", NAME, "staging")
        entries = [Entry(1, *given, version, digest, 1, "", False, {}) for version, digest in served]  # type: ignore[arg-type]
        return State(Log(tuple(entries), 0), None, {})

    assert stages.ask(state(), "staging", "1", "d").word == "PASS"
    assert stages.ask(state(("1", "d")), "prod", "1", "d").word == "PASS"
    for served in ((), (("1", "e"),), (("1", "d"), ("2", "d"))):
        assert stages.ask(state(*served), "prod", "1", "d").word == "FAIL"


# Gate `approval`.

WANTED = Approval(NAME, "1-abc", "prod", "d" * 64, "", "")
APPROVAL: dict[str, tuple[dict[str, Any], str, str]] = {
    "fine": ({}, "PASS", f"{APPROVER} (by key) said yes"),
    "another model": ({"name": "other"}, "FAIL", "is for name other, not tiny"),
    "another version": ({"version": "2-abc"}, "FAIL", "is for version 2-abc, not 1-abc"),
    "another stage": ({"stage": "staging"}, "FAIL", "is for stage staging, not prod"),
    "another digest": ({"digest": "e" * 64}, "FAIL", "is for digest"),
    "expired": ({"expires": "2020-01-01T00:00:00+00:00"}, "FAIL", "the approval expired at 2020-01-01"),
    "for ever": ({"expires": "2999-01-01T00:00:00+00:00"}, "FAIL", "longer than 7 days"),
    "no expiry": ({"expires": "soon"}, "FAIL", "it has no time of expiry"),
    "no zone": ({"expires": "2999-01-01T00:00:00"}, "FAIL", "it has no time of expiry"),
    "the author": ({"approver": AUTHOR}, "FAIL", "somebody else must approve"),
    "a stranger": ({"approver": "eve@example.org"}, "FAIL", "is none of promote.approval.approvers"),
    "another's name": ({"approver": "bob@example.org"}, "FAIL", "the signature is not one of bob@example.org"),
}  # fmt: skip


def approval_rules() -> Rules:
    return Rules.model_validate_json(json.dumps(promote_world.PROMOTE["approval"]))


@pytest.mark.parametrize("case", APPROVAL)
def test_an_approval(_promotable: Path, evidence: Evidence, case: str) -> None:
    changes, word, found = APPROVAL[case]
    given = dataclasses.replace(WANTED, **({"approver": APPROVER, "expires": approval.until(1)} | changes))
    signed = approval.sign(given, _promotable / "keys" / "ann.key")
    said, who = approval.ask(WANTED, evidence, approval_rules(), _promotable, lambda: signed)
    assert (said.word, found in said.reason) == (word, True), said
    assert who == signed.how


@pytest.mark.parametrize("field", ["digest", "expires", "approver", "signature"])
def test_an_approval_that_was_edited_after_it_was_signed(_promotable: Path, evidence: Evidence, field: str) -> None:
    given = dataclasses.replace(WANTED, approver=APPROVER, expires=approval.until(1), digest="a" * 64)
    signed = approval.sign(given, _promotable / "keys" / "ann.key")
    edits = {"digest": WANTED.digest, "expires": approval.until(2), "approver": "bob@example.org", "signature": "AAAA"}
    edited = dataclasses.replace(signed, **{field: edits[field]})
    wanted = dataclasses.replace(WANTED, digest=edited.digest)
    said, _ = approval.ask(wanted, evidence, approval_rules(), _promotable, lambda: edited)
    assert said.word == "FAIL"
    assert "the signature is not one of" in said.reason


def test_a_file_without_a_signature_is_no_approval(tmp_path: Path) -> None:
    path = tmp_path / "approval.json"
    approval.write(dataclasses.replace(WANTED, approver=APPROVER, expires=approval.until(1)), path)
    with pytest.raises(UsageError, match="it is not signed"):
        approval.read(path)


def test_nobody_who_could_or_would_say_yes(_promotable: Path, evidence: Evidence) -> None:
    assert approval.ask(WANTED, evidence, Rules(), _promotable, lambda: None)[0].word == "FAIL"
    said, who = approval.ask(WANTED, evidence, approval_rules(), _promotable, lambda: None)
    assert (said.word, who) == ("INCONCLUSIVE", None)
    unknown = provenance(evidence, git=evidence.provenance.git.model_copy(update={"commit": "b" * 40}))
    assert (
        "nobody can tell who made"
        in approval.ask(WANTED, unknown, approval_rules(), _promotable, lambda: None)[0].reason
    )


def test_an_approval_by_an_ed25519_key_and_its_way_through_a_file(promotable: Path, evidence: Evidence) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        PublicFormat,
    )

    key = Ed25519PrivateKey.generate()
    private, public = promotable / "keys" / "ed.key", promotable / "keys" / "ann.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    rules = approval_rules()
    assert approval.approver_of(private, rules, promotable, b"secret") == APPROVER
    with pytest.raises(UsageError, match="ASSAY_SIGNING_PASSWORD"):
        approval.approver_of(private, rules, promotable)
    with pytest.raises(UsageError, match="is none of theirs"):
        approval.approver_of(promotable / "keys" / "assay.key", rules, promotable)
    given = dataclasses.replace(WANTED, approver=APPROVER, expires=approval.until(1))
    approval.write(approval.sign(given, private, b"secret"), promotable / "yes.json")
    found = approval.read(promotable / "yes.json")
    assert approval.ask(WANTED, evidence, rules, promotable, lambda: found)[0].word == "PASS"
    (promotable / "yes.json").write_text("{}")
    with pytest.raises(UsageError, match="`assay approve` wrote"):
        approval.read(promotable / "yes.json")
