"""A bundle is published whole, once, with its evidence, and only after an ACCEPT of the very file in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import worlds

from deploy import bundle, golden, signing
from deploy.predictor import Predictor
from deploy.runtime import open_session
from deploy.signature import MISSING, Signature
from tasks.core import files, manifest, scoring
from tasks.core.errors import IntegrityError, NotProven, UsageError
from tasks.core.stage import run_stage
from tasks.export.provenance import dvc_hashes, git_state
from tasks.export.publish import publish, sign

CASES = ("typical", "single", "odd")
GOLDEN = {f"golden/{case}.{side}.json" for case in CASES for side in ("request", "response")}


def run(root: Path, base: dict[str, Any] | None = None, **own: Any) -> manifest.Manifest:
    return run_stage("export", worlds.write_params(root, {"export": own, "base": base or {}}), root)


def versions(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "dist" / "tiny").glob("[0-9]*-*") if path.is_dir())


def bundle_of(root: Path) -> Path:
    (version,) = versions(root)
    return root / "dist" / "tiny" / version


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What is in a bundle.


def test_a_bundle_is_complete_and_whole(tiny: Path) -> None:
    folder = bundle_of(tiny)
    bundle.check(folder)
    assert set(tree(folder)) == bundle.REQUIRED | GOLDEN | {bundle.MANIFEST}
    bundle.verify(folder, None)
    assert re.fullmatch(r"1-[0-9a-f]{12}", folder.name)
    check = subprocess.run(["sha256sum", "--quiet", "-c", "MANIFEST.sha256"], cwd=folder, check=False)
    assert check.returncode == 0, "the manifest is in the format of sha256sum"


def test_the_bundled_model_is_the_verified_one(tiny: Path) -> None:
    folder = bundle_of(tiny)
    verdict = files.read_json(folder / "verdict.json")
    assert verdict["verdict"] == "ACCEPT"
    assert files.sha256(folder / "model.onnx") == verdict["model_sha256"]
    model = onnx.load(folder / "model.onnx")
    assert model.ir_version == 10
    assert {item.key for item in model.metadata_props} >= {"assay.name", "assay.target"}


def test_everything_but_the_records_is_the_stages_output(tiny: Path) -> None:
    published, staged = tree(bundle_of(tiny)), tree(tiny / "artifacts" / "export")
    for name in (*bundle.RECORDS, bundle.MANIFEST):
        del published[name]
    del staged["manifest.json"]
    assert published == staged


def test_every_json_file_is_strict_json(tiny: Path) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    for path in bundle_of(tiny).rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)


def numbers(text: str) -> list[float]:
    return [float(word) for word in re.findall(r"-?\d+\.\d+", text)]


def test_the_card_states_the_figures_of_the_evidence(tiny: Path) -> None:
    folder = bundle_of(tiny)
    card = (folder / "README.md").read_text()
    (line,) = files.read_json(folder / "verdict.json")["lines"]
    auc = next(row for row in card.splitlines() if row.startswith("| auc |"))
    assert numbers(auc) == [round(line["original"], 4), round(line["shipped"], 4)]
    interval = next(row for row in card.splitlines() if " % interval" in row)
    assert numbers(interval) == [round(x, 4) for x in (*line["original_interval"], *line["shipped_interval"])]
    verdict = next(row for row in card.splitlines() if row.startswith("Verdict: **ACCEPT**"))
    stated = re.search(r"Loss (-?[\d.]+), one-sided 95 % bound (-?[\d.]+), margin ([\d.]+) ", verdict)
    assert stated is not None
    assert [float(x) for x in stated.groups()] == [round(line["drop"], 5), round(line["bound"], 5), line["margin"]]
    assert f"Measured on {line['n']} test rows" in card
    for candidate in files.read_json(tiny / "artifacts" / "compress" / "candidates.json"):
        row = next(row for row in card.splitlines() if row.startswith(f"| {candidate['name']} |"))
        assert numbers(row)[:2] == [candidate["size_kib"], round(candidate["value"], 4)]
    for split, count in manifest.read(tiny / "artifacts" / "validate").facts["rows"].items():
        assert f"| {split} | {count} |" in card
    for text in ("A tiny world.", "CC0-1.0", "c0ffee", "`carrier`", "`late`"):
        assert text in card


def test_a_card_cannot_be_broken_by_a_columns_name(world: Path) -> None:
    signature = world / "artifacts" / "compress" / "signature.json"
    text = signature.read_text().replace('"name": "seats"', '"name": "a|b`c\\n<d>"')
    out = world / "out"
    out.mkdir()
    (out / "signature.json").write_text(text)
    for name in ("verdict.json", "metrics.json"):
        shutil.copyfile(world / "artifacts" / "export" / name, out / name)
    from tasks.core.settings import load
    from tasks.export import card

    params = load(world / "params.yaml")
    stages = {name: manifest.read(world / "artifacts" / name) for name in ("validate", "tune", "compress")}
    card.write(out, params.base, params.export, stages)
    (row,) = [row for row in (out / "README.md").read_text().splitlines() if "a\\|b'c &lt;d>" in row]
    assert row.count("|") - row.count("\\|") == 5


def test_the_metrics_are_those_of_the_stages(tiny: Path) -> None:
    found = files.read_json(bundle_of(tiny) / "metrics.json")
    assert found["metrics"] == files.read_json(tiny / "artifacts" / "metrics.json") | {
        "ingest.rows": sum(worlds.SIZES.values())
    }
    assert found["intervals"] == files.read_json(tiny / "artifacts" / "verify" / "verdict.json")["lines"]


def test_golden_cases_are_normal_rows_one_row_and_odd_rows(tiny: Path) -> None:
    cases = {case.name: case for case in golden.read(bundle_of(tiny))}
    assert set(cases) == set(CASES)
    rows = {name: len(case.columns["distance"]) for name, case in cases.items()}
    assert rows["typical"] == worlds.PARAMS["export"]["golden_rows"]
    assert rows["single"] == 1
    odd = cases["odd"].columns
    assert np.isnan(odd["distance"]).any()
    assert (np.abs(odd["pressure"]) > 1e38).any()
    assert {"", "no such value \N{SNOWMAN}"} < set(odd["carrier"][:, 0])
    assert (odd["route"] == MISSING["INT64"]).any()
    assert all(len(set(case.answers["probability"].expected[:, 0])) > rows[name] / 2 for name, case in cases.items())


def test_the_verified_answers_are_the_golden_ones(tiny: Path) -> None:
    verified = pq.read_table(tiny / "artifacts" / "verify" / "predictions.parquet")["shipped"].to_numpy()
    (typical,) = (case for case in golden.read(bundle_of(tiny)) if case.name == "typical")
    expected = typical.answers["probability"].expected[:, 0]
    np.testing.assert_allclose(expected, verified[: len(expected)], rtol=0, atol=1e-6)


def test_a_tolerance_is_more_than_other_kernels_differ_and_less_than_answers_do(tiny: Path) -> None:
    folder = bundle_of(tiny)
    plain = Predictor(
        open_session(folder / "model.onnx", "cpu", optimized=False), Signature.read(folder / "signature.json")
    )
    for case in golden.read(folder):
        answer = case.answers["probability"]
        assert case.differences(plain.predict(case.columns), "CPUExecutionProvider") == []
        spread = np.ptp(answer.expected) or 1.0
        assert 0 < answer.tolerance["CPUExecutionProvider"] < spread / 20
        assert answer.tolerance["CPUExecutionProvider"] <= answer.tolerance["CUDAExecutionProvider"]
        assert answer.tolerated("NobodysExecutionProvider") == max(answer.tolerance.values())


@pytest.mark.parametrize(("value", "rounded"), [(0.0011, 0.002), (0.001, 0.001), (0.0, 1e-9), (7, 10), (3e-7, 5e-7)])
def test_a_tolerance_is_rounded_up_to_one_digit(value: float, rounded: float) -> None:
    from tasks.export.golden import _round_up

    assert _round_up(value) == rounded


def test_a_bundle_that_misses_its_golden_answers_is_not_published(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.export import golden as made

    honest = made._tensor
    monkeypatch.setattr(
        made, "_tensor", lambda tensor, array: honest(tensor, array + 0.3 if tensor.name == "probability" else array)
    )
    before = tree(world / "dist")
    with pytest.raises(IntegrityError, match=r"golden case odd, output probability: off by 0\.3"):
        run(world, description="new")
    assert tree(world / "dist") == before


# Where it comes from.


def test_provenance_names_code_data_settings_versions_and_hardware(tiny: Path) -> None:
    found = files.read_json(bundle_of(tiny) / "provenance.json")
    assert found["seed"] == 5
    assert found["digest"] == manifest.read(tiny / "artifacts" / "export").facts["digest"]
    assert found["content_hash"] == "c0ffee"
    assert found["source"] == {"kind": "csv", "files": ["rows.csv"]}
    assert set(found["params"]) == {"base", "tune", "compress", "verify", "export"}
    assert found["params"]["tune"]["trials"] == 3
    assert found["versions"]["torch"].startswith("2.")
    assert found["hardware"]["cores"] >= 1
    assert set(found["latency"]) == {"fp32", "int8"}
    assert (found["git"]["commit"], found["git"]["dirty"]) == (None, None)
    assert "not a git repository" in found["git"]["reason"]
    assert found["dvc"] is None
    assert str(tiny) not in json.dumps(found)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_provenance_has_the_commit_and_whether_tracked_files_differ(world: Path) -> None:
    (world / ".gitignore").write_text("artifacts\ndist\n")
    git(world, "init", "-q")
    assert git_state(world)["reason"]
    git(world, "add", "-A")
    git(world, "commit", "-q", "-m", "first")
    clean = git_state(world)
    assert re.fullmatch(r"[0-9a-f]{40}", clean["commit"])
    assert clean["dirty"] is False
    (world / "params.yaml").write_text((world / "params.yaml").read_text() + "# changed\n")
    assert git_state(world) == {"commit": clean["commit"], "dirty": True}
    shutil.rmtree(world / "dist")
    run(world, golden_rows=6)
    assert files.read_json(bundle_of(world) / "provenance.json")["git"]["commit"] == clean["commit"]


def test_provenance_without_git_installed_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path)["commit"] is None


def test_provenance_has_the_hashes_of_dvc(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(
        """
schema: '2.0'
stages:
  tune:
    cmd: x
    outs:
    - {path: artifacts/tune, hash: md5, md5: abc.dir, size: 1}
    - {path: old, md5: abd}
    - {path: far, hash: etag, etag: abe}
    - {path: none}
    - {path: of another pipeline, md5: abf}
  verify: {cmd: y}
"""
    )
    wanted = ["artifacts/tune", "old", "far", "none", "small/tune"]
    assert dvc_hashes(tmp_path, wanted) == {"artifacts/tune": "abc.dir", "old": "abd", "far": "abe"}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "dvc.lock").write_text("stages: {tune: {outs: [{path: small/tune, md5: abg}]}}")
    assert dvc_hashes(tmp_path, ["small/tune"]) == {"small/tune": "abg"}
    assert dvc_hashes(tmp_path, ["nowhere"]) is None


def test_a_stage_that_ran_elsewhere_is_named_as_such(world: Path) -> None:
    (world / "artifacts" / "runs" / "compress.json").unlink()
    shutil.rmtree(world / "dist")
    run(world)
    found = files.read_json(bundle_of(world) / "provenance.json")
    assert found["runs"]["compress"] == "not run on this machine"
    assert found["latency"] == "not measured on this machine"


# When it is published, and when not.


def test_the_same_content_is_published_once(world: Path) -> None:
    before = tree(bundle_of(world))
    run(world)
    run(world)
    assert tree(bundle_of(world)) == before


def test_other_content_is_another_version_and_leaves_the_first_alone(world: Path) -> None:
    first = bundle_of(world)
    before = tree(first)
    run(world, description="Another description.")
    assert [name.partition("-")[0] for name in versions(world)] == ["1", "2"]
    assert tree(first) == before


def test_going_back_finds_the_version_that_was_there(world: Path) -> None:
    run(world, description="Another description.")
    run(world)
    assert len(versions(world)) == 2


def test_a_number_is_not_used_again_after_its_version_was_deleted(world: Path) -> None:
    run(world, description="second")
    second = next(name for name in versions(world) if name.startswith("2-"))
    shutil.rmtree(world / "dist" / "tiny" / second)
    run(world, description="third")
    assert [name.partition("-")[0] for name in versions(world)] == ["1", "3"]
    (world / "dist" / "tiny" / ".last").unlink()
    run(world, description="fourth")
    assert [name.partition("-")[0] for name in versions(world)] == ["1", "3", "4"]


def test_two_folders_give_the_same_bundle(tiny: Path, world: Path) -> None:
    """Another folder, another run of the stage: the same name, and the same bytes apart from the provenance."""
    shutil.rmtree(world / "dist")
    run(world)
    assert bundle_of(world).name == bundle_of(tiny).name
    ours, theirs = tree(bundle_of(world)), tree(bundle_of(tiny))
    assert {name for name in ours if ours[name] != theirs[name]} <= bundle.RECORDS | {bundle.MANIFEST}
    assert manifest.identity(world / "artifacts" / "export") == manifest.identity(tiny / "artifacts" / "export")


def test_bundles_may_lie_outside_the_project(world: Path, tmp_path: Path) -> None:
    run(world, base={"dist_dir": str(tmp_path / "far")})
    (version,) = (path for path in (tmp_path / "far" / "tiny").iterdir() if not path.name.startswith("."))
    bundle.check(version)


def edit_verdict(root: Path, **changes: Any) -> None:
    folder = root / "artifacts" / "verify"
    before = files.read_json(folder / "manifest.json")
    files.write_json(folder / "verdict.json", files.read_json(folder / "verdict.json") | changes)
    (folder / "manifest.json").unlink()
    upstream = {name: root / "artifacts" / name for name in before["upstream"]}
    roles = {name: entry["role"] for name, entry in before["files"].items()}
    manifest.write(manifest.build("verify", before["settings"], upstream, folder, roles, {}, before["facts"]), folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "REGRESSION"}, "REGRESSION for model"),
        ({"verdict": "INCONCLUSIVE"}, "INCONCLUSIVE for model"),
        ({"verdict": "accept"}, "accept for model"),
        ({"model_sha256": "0" * 64}, "ACCEPT for model 000000000000; the chosen file is"),
    ],
)
def test_nothing_is_exported_without_an_accept_of_this_very_file(
    world: Path, changes: dict[str, str], said: str
) -> None:
    edit_verdict(world, **changes)
    before = tree(world / "dist")
    with pytest.raises(NotProven, match=said) as caught:
        run(world, description="new")
    assert caught.value.exit_code == 4
    assert tree(world / "dist") == before


def test_a_bundle_that_answers_otherwise_is_not_published(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scoring.score_exported

    def score(*given: Any) -> scoring.Exported:
        answer = real(*given)
        return scoring.Exported(answer.answers + np.float32(1e-4), answer.provider)

    monkeypatch.setattr(scoring, "score_exported", score)
    before = tree(world / "dist")
    with pytest.raises(IntegrityError, match="600 answers to 600 test rows") as caught:
        run(world, description="new")
    assert caught.value.exit_code == 5
    assert tree(world / "dist") == before
    assert not list((world / "dist" / "tiny").glob(".partial*"))


def test_a_published_bundle_that_was_changed_is_not_taken_for_the_same(world: Path) -> None:
    path = bundle_of(world) / "README.md"
    path.write_text(path.read_text() + "better than ever\n")
    with pytest.raises(IntegrityError, match=r"README\.md: changed"):
        run(world)


# Signing.


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return signing.new_keys(tmp_path / "keys")[0]


def public_of(private: Path) -> Path:
    return private.with_name(signing.PUBLIC)


def test_a_named_key_signs_and_leaves_no_trace(world: Path, private: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = manifest.identity(world / "artifacts" / "export")
    run(world, signing_key=str(private))
    bundle.verify(bundle_of(world), public_of(private))
    assert manifest.identity(world / "artifacts" / "export") == before, "the path is part of nothing that is hashed"
    secret = private.read_text().splitlines()[1]
    everything = {path: path.read_text(errors="replace") for path in world.rglob("*") if path.is_file()}
    assert not [path for path, text in everything.items() if secret in text]
    assert [path.name for path, text in everything.items() if str(private) in text] == ["params.yaml"]


def test_the_environment_names_a_key_and_opens_it(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = signing.new_keys(tmp_path / "keys", b"open sesame")
    monkeypatch.setenv("ASSAY_SIGNING_KEY", str(private))
    with pytest.raises(UsageError, match="Password was not given"):
        run(world)
    monkeypatch.setenv("ASSAY_SIGNING_PASSWORD", "open sesame")
    run(world)
    bundle.verify(bundle_of(world), public)
    assert "open sesame" not in (bundle_of(world) / "provenance.json").read_text()


def test_without_a_key_a_bundle_is_not_signed_and_said_so(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run(world)
    assert not signing.signature_path(bundle_of(world)).exists()
    assert "not signed: no key is named" in caplog.text


def test_the_next_export_makes_good_what_a_kill_before_the_signature_left(world: Path, private: Path) -> None:
    before = tree(bundle_of(world))
    signature = signing.signature_path(bundle_of(world))
    assert not signature.exists(), "as if killed between the bundle and its signature"
    run(world, signing_key=str(private))
    bundle.verify(bundle_of(world), public_of(private))
    good = signature.read_bytes()
    run(world, signing_key=str(private))
    assert signature.read_bytes() == good, "what is good is left alone"
    signature.write_bytes(good[:-100])
    run(world, signing_key=str(private))
    bundle.verify(bundle_of(world), public_of(private))
    assert tree(bundle_of(world)) == before


def test_a_damaged_bundle_is_not_signed(world: Path, private: Path) -> None:
    (bundle_of(world) / "README.md").write_text("better than ever")
    with pytest.raises(IntegrityError, match=r"README\.md: changed"):
        run(world, signing_key=str(private))
    assert not signing.signature_path(bundle_of(world)).exists()


@pytest.mark.parametrize("place", ["artifacts/assay.key", "dist/assay.key", "nowhere.key"])
def test_a_key_that_would_be_published_or_is_none_is_refused_first(world: Path, private: Path, place: str) -> None:
    if place != "nowhere.key":
        shutil.copyfile(private, world / place)
    with pytest.raises(UsageError, match=r"a private key lies apart|an elliptic-curve key"):
        run(world, signing_key=place, description="new")
    assert len(versions(world)) == 1


def test_a_signature_keeps_its_number_from_being_used_again(source: Path, tmp_path: Path, private: Path) -> None:
    version = publish(tmp_path / "dist", source, "a" * 64, {}, accept)
    sign(version, private, None)
    shutil.rmtree(version)
    (tmp_path / "dist" / ".last").unlink()
    assert publish(tmp_path / "dist", source, "b" * 64, {}, accept).name == "2-bbbbbbbbbbbb"


# Publishing alone.


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The reproducible files of a bundle."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    return folder


def accept(_: Path) -> None:
    """A proof that succeeds."""


def test_the_proof_sees_the_whole_bundle_before_it_has_its_name(source: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def prove(folder: Path) -> None:
        bundle.check(folder)
        seen.append(folder.name)
        assert not [path for path in (tmp_path / "dist").iterdir() if not path.name.startswith(".")]

    version = publish(tmp_path / "dist", source, "a" * 64, {"provenance.json": {"by": "test"}}, prove)
    assert seen == ["1-aaaaaaaaaaaa"]
    assert set(tree(version)) == {"model.onnx", "provenance.json", "MANIFEST.sha256"}
    assert files.read_json(version / "provenance.json") == {"by": "test", "version": "1-aaaaaaaaaaaa"}


@pytest.mark.parametrize("error", [IntegrityError("rule", "found", "way out"), KeyboardInterrupt(), OSError("full")])
def test_a_failed_proof_leaves_nothing(source: Path, tmp_path: Path, error: BaseException) -> None:
    def refuse(_: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        publish(tmp_path / "dist", source, "a" * 64, {}, refuse)
    assert not [path for path in (tmp_path / "dist").iterdir() if path.is_dir()]
    assert publish(tmp_path / "dist", source, "a" * 64, {}, accept).name == "1-aaaaaaaaaaaa"


def test_what_a_kill_left_half_written_is_cleared_away(source: Path, tmp_path: Path) -> None:
    half = tmp_path / "dist" / ".partial" / "1-bbbbbbbbbbbb"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"mo")
    publish(tmp_path / "dist", source, "a" * 64, {}, accept)
    assert not half.exists()


def test_a_published_version_is_proven_again(source: Path, tmp_path: Path) -> None:
    calls: list[Path] = []
    for _ in range(2):
        publish(tmp_path / "dist", source, bundle.digest(bundle.hashes(source)), {}, calls.append)
    assert len(calls) == 2


def test_a_published_version_edited_with_its_manifest_is_found_out(source: Path, tmp_path: Path) -> None:
    version = publish(tmp_path / "dist", source, bundle.digest(bundle.hashes(source)), {}, accept)
    (version / "a").write_text("edited")
    bundle.write_manifest(version)
    with pytest.raises(IntegrityError, match="named for"):
        publish(tmp_path / "dist", source, bundle.digest(bundle.hashes(source)), {}, accept)


def test_two_versions_of_one_content_are_an_error(source: Path, tmp_path: Path) -> None:
    publish(tmp_path / "dist", source, "a" * 64, {}, accept)
    shutil.copytree(tmp_path / "dist" / "1-aaaaaaaaaaaa", tmp_path / "dist" / "7-aaaaaaaaaaaa")
    with pytest.raises(IntegrityError, match="7-aaaaaaaaaaaa"):
        publish(tmp_path / "dist", source, "a" * 64, {}, accept)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "a").write_text("other"),
        lambda folder: (folder / "a").rename(folder / "c"),
        lambda folder: (folder / "sub" / "b").unlink(),
        lambda folder: (folder / "new").touch(),
    ],
)
def test_the_digest_knows_names_and_contents(tmp_path: Path, change: Callable[[Path], object]) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "sub" / "b").write_text("b")
    before = bundle.digest(bundle.hashes(tmp_path))
    assert bundle.digest(bundle.hashes(tmp_path)) == before
    change(tmp_path)
    assert bundle.digest(bundle.hashes(tmp_path)) != before


def test_the_verified_scores_are_of_the_whole_test_split(tiny: Path) -> None:
    predictions = pq.read_table(tiny / "artifacts" / "verify" / "predictions.parquet")
    assert predictions.num_rows == worlds.SIZES["test"]
