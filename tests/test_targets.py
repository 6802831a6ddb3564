"""Several targets: one search, a choice for each, all of them judged, and one bundle that knows which one serves."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import worlds
from fault_world import answer, rewrite

from deploy import bundle
from deploy.errors import IntegrityError, MachineError, UsageError
from deploy.predictor import Predictor
from deploy.runtime import open_session, provider
from deploy.variants import Variant, Variants
from flows import cli
from tasks.compress import contest
from tasks.compress.choose import Budget
from tasks.compress.problem import Problem
from tasks.compress.search import Search
from tasks.compress.targets import TARGETS, together
from tasks.compress.workshop import Built, Workshop
from tasks.core import files, manifest, scoring
from tasks.core.errors import NotProven, SettingsError
from tasks.core.original import load_encoder
from tasks.core.settings import Latency, parse
from tasks.core.stage import StageSettings, run_stage
from tasks.promote import champion, serving
from tasks.promote.evidence import Evidence

#: By size, int4 is the choice of ``cpu``; ``edge`` refuses it, and so chooses int8.
TWO: dict[str, Any] = {"targets": ["cpu", "edge"], "methods": ["int8", "int4_weights"], "pick": "smallest"}
EDGE = "variants/edge/model.onnx"


def run(root: Path, *stages: str, **own: Any) -> None:
    params = worlds.write_params(root, {"compress": TWO | own})
    for stage in stages:
        run_stage(stage, params, root)


@pytest.fixture(scope="module")
def two(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world for two targets, after export. Read only."""
    root = shutil.copytree(tiny, tmp_path_factory.mktemp("two") / "world")
    shutil.rmtree(root / "dist")
    run(root, "compress", "verify", "export")
    return root


@pytest.fixture
def world(two: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return shutil.copytree(two, tmp_path / "world")


def bundle_of(root: Path) -> Path:
    (version,) = (path for path in (root / "dist" / "tiny").iterdir() if path.is_dir())
    return version


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def candidate_in(model: Path) -> str:
    """Name of the candidate that a file says it is."""
    return next(item.value for item in onnx.load(model).metadata_props if item.key == "assay.candidate")


@pytest.mark.parametrize("targets", [[], ["cpu", "edge", "cpu"], ["gpu"], "cpu"])
def test_targets_are_known_and_distinct_and_at_least_one(targets: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(worlds.params({"compress": {"targets": targets}}))
    assert {mistake.key.removesuffix(".0") for mistake in caught.value.mistakes} == {"compress.targets"}


# The search.


def test_one_search_serves_all_targets() -> None:
    assert together(["cpu"]).refused == together(["edge", "cpu"]).refused == {}
    assert set(together(["edge", "cuda"]).refused) == {"int4_weights", "int4_weights_128"}
    first = together(["edge", "tensorrt"])
    assert (first.device, first.threads, first.batch_sizes) == ("cpu", 1, (1,))


def test_a_target_has_limits_of_its_own_where_params_name_none() -> None:
    def limits(names: list[str], **own: float) -> tuple[float | None, float | None]:
        budget = Budget.of(parse(worlds.params({"compress": own})).compress, 0.01, together(names))
        return budget.max_size_kib, budget.max_memory_mib

    assert limits(["edge"]) == (32 * 1024, 256)
    assert limits(["edge"], max_size_kib=10.0) == (10.0, 256)
    assert limits(["edge"], max_memory_mib=1000.0) == (32 * 1024, 1000.0)
    assert limits(["cpu"]) == limits(["cpu", "edge"]) == (None, None), "what is too large for one may be of use"


def test_what_is_too_large_for_a_target_is_not_its_choice(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "edge", replace(TARGETS["edge"], max_size_kib=1.0))  # type: ignore[misc]
    with pytest.raises(NotProven, match=r"INFEASIBLE for edge: .* KiB, more than 1"):
        run(world, "compress", **TWO)


def test_a_way_of_int8_is_looked_for_that_each_target_takes() -> None:
    ways = ["int8", "int8_percentile", "int8_s8s8"]
    assert together(["cpu"]).served(["int8"], ways)
    assert not together(["cpu", "tensorrt"]).served(["int8"], ways)
    assert together(["cpu", "tensorrt"]).served(["int8", "int8_s8s8"], ways)
    assert together(["cpu", "cuda"]).served(["int8"], ways), "cuda takes none of them"


def test_layers_left_in_float_do_not_make_a_method_another_one() -> None:
    assert TARGETS["cuda"].refusal("int8_2_float") == TARGETS["cuda"].refusal("int8") != ""
    assert TARGETS["cpu"].refusal("int8_2_float") == TARGETS["cuda"].refusal("") == ""


def test_each_target_has_its_own_choice(two: Path) -> None:
    compressed = two / "artifacts" / "compress"
    assert candidate_in(compressed / "model.onnx") == "int4_weights"
    assert candidate_in(compressed / EDGE) == "int8"
    assert (compressed / EDGE).read_bytes() == (compressed / "int8.onnx").read_bytes()
    found = files.read_json(compressed / "variants.json")
    assert found["targets"] == {
        "cpu": {"candidate": "int4_weights", "device": "cpu", "folder": ".", "threads": None},
        "edge": {"candidate": "int8", "device": "cpu", "folder": "variants/edge", "threads": 1},
    }
    assert (found["rule"]["order"], found["rule"]["otherwise"]) == (["cpu", "edge"], "cpu")
    metrics = manifest.read(compressed).metrics
    assert metrics["compress.chosen_kib"] < metrics["compress.edge.chosen_kib"] < metrics["compress.fp32_kib"]


def test_the_table_says_what_each_target_made_of_a_candidate(two: Path) -> None:
    rows = {row["name"]: row for row in files.read_json(two / "artifacts" / "compress" / "candidates.json")}
    assert [name for name, row in rows.items() if row["chosen"]] == ["int4_weights"]
    edge = {name: row["targets"]["edge"] for name, row in rows.items()}
    assert [name for name, row in edge.items() if row["chosen"]] == ["int8"]
    assert edge["int4_weights"]["reason"].startswith("not for edge: its operators")
    measured = {row["name"]: row for row in files.read_json(two / "artifacts" / "runs" / "candidates.json")}
    assert measured["int4_weights"]["measured"]["edge"]["time"] is None
    assert measured["int8"]["measured"]["edge"]["time"] > 0
    assert set(measured["int8"]["latency"]) == {"1", "64"}


def test_each_target_is_raced_as_it_runs(two: Path) -> None:
    measured = files.read_json(two / "artifacts" / "runs" / "compress.json")["measured"]
    assert {name: set(laps) for name, laps in measured["race_edge"].items()} == {"fp32": {"1"}, "int8": {"1"}}
    assert {name: set(laps) for name, laps in measured["race"].items()} == {
        name: {"1", "64"} for name in ("fp32", "int8", "int4_weights")
    }
    assert set(measured["providers_edge"].values()) == {"CPUExecutionProvider"}


def test_what_did_not_run_on_the_first_device_is_looked_at_again_on_another(world: Path) -> None:
    params = worlds.write_params(world, {"compress": TWO | {"targets": ["cuda", "cpu"]}})
    artifacts = world / "artifacts"
    inputs = {stage: artifacts / stage for stage in ("validate", "tune")}
    read = Problem.read(StageSettings(params.base, params.compress, world), inputs, 64)
    shop = Workshop(read, world / "shop", "cuda", together(params.compress.targets), 1)
    shop.path("int8").parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(artifacts / "compress" / "int8.onnx", shop.path("int8"))
    rows = {row["name"]: row for row in files.read_json(artifacts / "compress" / "candidates.json")}
    crashed = Built("int8", "", "int8", bytes=1, problem="it does not run: no kernel")
    found = contest._entry(crashed, "cpu", shop, params.compress, Budget(0.1, 0.1))
    assert (found.problem, found.bytes) == ("", 1)
    assert found.score == pytest.approx(rows["int8"]["value"], abs=1e-6)
    assert found.peak_mib > 0
    assert contest._entry(crashed, "cuda", shop, params.compress, Budget(0.1, 0.1)).problem.startswith("not for cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workshop, "judged", lambda *_: {"score": 0.9, "bound": None, "problem": "it has no bound"})
        assert contest._entry(crashed, "cpu", shop, params.compress, Budget(0.1, 0.1)).problem == "it has no bound"
    never_made = Built("int8", "", "int8", problem="int8 failed")
    assert contest._entry(never_made, "cpu", shop, params.compress, Budget(0.1, 0.1)) is never_made
    broken = Built("broken", "", "int8", bytes=1, score=0.9)
    shop.path("broken").write_bytes(b"no model")
    entered = contest._entry(broken, "cpu", shop, params.compress, Budget(0.1, 0.1))
    assert entered.problem.startswith("it does not run: a model file must load")
    assert np.isnan(entered.score)


def test_without_a_limit_the_loss_must_be_shown_to_keep_to_the_margin_where_rows_can_show_it(world: Path) -> None:
    inputs = {stage: world / "artifacts" / stage for stage in ("validate", "tune")}
    params = worlds.write_params(world, {"compress": {"max_metric_drop": None}})
    few = Problem.read(StageSettings(params.base, params.compress, world), inputs, 1)
    assert few.bound(few.original) is None
    many = replace(few, validation=pa.concat_tables([few.validation] * 20))
    assert (few.must_show, many.must_show) == (False, True)
    assert few.most == many.most / 2
    twin, noisy = many.original, np.random.default_rng(0).permutation(many.original)
    bounds = [many.bound(answers) for answers in (twin, noisy)]
    assert bounds[0] <= many.most < bounds[1]
    grouped = replace(many, validation=many.validation.append_column("of", pa.nulls(len(twin), pa.int8())), group="of")
    assert not grouped.must_show, "rows of a single group show nothing"
    given = worlds.write_params(world, {"compress": {"max_metric_drop": 0.5}})
    read = Problem.read(StageSettings(given.base, given.compress, world), inputs, 1)
    assert (replace(read, validation=many.validation).must_show, read.most) == (False, 0.5)


def test_a_target_that_no_candidate_suits_is_named_and_nothing_is_shipped(world: Path) -> None:
    rows = {row["name"]: row["size_kib"] for row in files.read_json(world / "artifacts/compress/candidates.json")}
    before = manifest.identity(world / "artifacts" / "compress")
    limit = (rows["int4_weights"] + rows["int8"]) / 2
    with pytest.raises(NotProven, match=r"INFEASIBLE for edge: nearest are .*int8: .* KiB, more than") as caught:
        run(world, "compress", max_size_kib=limit)
    assert "for cpu" not in str(caught.value)
    assert manifest.identity(world / "artifacts" / "compress") == before
    rejected = world / "artifacts" / "rejected" / "compress"
    assert names(rejected) == {"candidates.json", "shapes.json", "sensitivity.json"}


def test_targets_that_agree_share_a_file_which_is_judged_once(world: Path) -> None:
    shutil.rmtree(world / "dist")
    run(world, "compress", "verify", "export", targets=["edge", "cpu"], methods=["int8"], max_memory_mib=10_000.0)
    folder = bundle_of(world)
    variants = Variants.read(folder)
    assert {one.target: one.folder for one in variants.order} == {"edge": ".", "cpu": "."}
    assert variants.first.target == "edge"
    (line,) = files.read_json(folder / "verdict.json")["lines"]
    assert line["variant"] == "edge"
    assert not (folder / "variants").exists()
    rows = files.read_json(world / "artifacts" / "runs" / "candidates.json")
    assert set(rows[0]["latency"]) == {"1"}, "the first target's own batch sizes"


def test_one_target_is_told_in_a_small_file_and_leaves_the_bundle_as_it_was(tiny: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    assert [one.target for one in Variants.read(compressed).order] == ["cpu"]
    assert names(compressed) == {
        "manifest.json", "variants.json", "candidates.json", "sensitivity.json", "signature.json",
        "model.onnx", "fp32.onnx", "int8.onnx",
    }  # fmt: skip
    assert all("targets" not in row for row in files.read_json(compressed / "candidates.json"))
    assert "variants.json" not in names(bundle_of(tiny))
    assert "## Targets" not in (bundle_of(tiny) / "README.md").read_text()
    predictions = pq.read_table(tiny / "artifacts" / "verify" / "predictions.parquet")
    assert predictions.column_names == ["row", "label", "original", "shipped"]


def test_a_device_that_is_not_there_is_told_before_the_search(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_cuda(world / "artifacts" / "compress" / "model.onnx")
    monkeypatch.setattr(Search, "run", lambda _: pytest.fail("it has searched"))
    with pytest.raises(MachineError, match="device cuda must really be used"):
        run(world, "compress", targets=["cpu", "cuda"])


# The gate.


def test_each_variant_is_judged_on_its_own_answers(two: Path) -> None:
    verified = two / "artifacts" / "verify"
    verdict = files.read_json(verified / "verdict.json")
    lines = {line["variant"]: line for line in verdict["lines"]}
    assert list(lines) == ["cpu", "edge"]
    assert {line["verdict"] for line in lines.values()} == {verdict["verdict"]} == {"ACCEPT"}
    hashes = manifest.read(two / "artifacts" / "compress").files
    assert verdict["model_sha256"] == lines["cpu"]["model_sha256"] == hashes["model.onnx"].sha256
    assert lines["edge"]["model_sha256"] == hashes[EDGE].sha256
    assert lines["cpu"]["original"] == lines["edge"]["original"]
    assert lines["cpu"]["shipped"] != lines["edge"]["shipped"]
    predictions = pq.read_table(verified / "predictions.parquet")
    assert not predictions["shipped"].equals(predictions["shipped_edge"])
    assert manifest.read(verified).metrics["verify.edge.shipped_auc"] == lines["edge"]["shipped"]


@pytest.mark.parametrize(("file", "said"), [(EDGE, "REGRESSION: edge: the loss"), ("model.onnx", "REGRESSION: the")])
def test_a_variant_that_fails_the_gate_stops_all(world: Path, file: str, said: str) -> None:
    rewrite(world, answer("Round(raw)"), file)
    before = manifest.identity(world / "artifacts" / "verify")
    with pytest.raises(NotProven, match=said):
        run(world, "verify")
    assert manifest.identity(world / "artifacts" / "verify") == before
    told = files.read_json(world / "artifacts" / "rejected" / "verify" / "verdict.json")
    assert sorted(line["verdict"] for line in told["lines"]) == ["ACCEPT", "REGRESSION"]


def test_the_gravest_of_several_verdicts_is_told(world: Path) -> None:
    rewrite(world, answer("Round(raw)"))
    rewrite(world, answer("Sub(raw, raw) -> z; Div(z, z)"), EDGE)
    with pytest.raises(NotProven, match=r"ANOMALOUS: edge: .* not finite"):
        run(world, "verify")


# The bundle.


def test_the_bundle_holds_every_variant_hashed(two: Path) -> None:
    folder = bundle_of(two)
    assert {EDGE, "variants/edge/signature.json", "variants.json"} <= names(folder)
    bundle.verify(folder, None)
    for name in (EDGE, "variants.json"):
        assert f"{files.sha256(folder / name)}  {name}\n" in (folder / bundle.MANIFEST).read_text()
        assert files.sha256(folder / name) == files.sha256(two / "artifacts" / "compress" / name)
    card = (folder / "README.md").read_text()
    assert "| edge | `variants/edge` | int8 | cpu | 1 |" in card
    edge = files.read_json(folder / "verdict.json")["lines"][1]
    assert f"| edge | {edge['shipped']:.4f} | {edge['bound']:.5f} | 0.02 | ACCEPT |" in card


def test_a_variant_that_was_not_judged_is_not_exported(world: Path) -> None:
    folder = world / "artifacts" / "verify"
    before = files.read_json(folder / "manifest.json")
    verdict = files.read_json(folder / "verdict.json")
    files.write_json(folder / "verdict.json", verdict | {"lines": verdict["lines"][:1]})
    (folder / "manifest.json").unlink()
    upstream = {name: world / "artifacts" / name for name in before["upstream"]}
    roles = {name: entry["role"] for name, entry in before["files"].items()}
    manifest.write(manifest.build("verify", before["settings"], upstream, folder, roles, {}, before["facts"]), folder)
    with pytest.raises(NotProven, match="edge"):
        run(world, "export")


def test_a_variant_that_answers_otherwise_in_the_bundle_is_not_published(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scoring.score_exported

    def score(folder: Path, *rest: Any) -> scoring.Exported:
        found = real(folder, *rest)
        return scoring.Exported(found.answers + np.float32(1e-4 * (folder.name == "edge")), found.provider)

    shutil.rmtree(world / "dist")
    monkeypatch.setattr(scoring, "score_exported", score)
    with pytest.raises(IntegrityError, match="largest difference"):
        run(world, "export")
    assert not [path for path in (world / "dist" / "tiny").iterdir() if path.is_dir()]


# Serving.


@pytest.fixture
def served(two: Path) -> Callable[[Predictor], str]:
    """Says by its answers to test which target's variant a predictor holds."""
    encoder = load_encoder(two / "artifacts" / "tune")
    raw = encoder.raw_inputs(pq.read_table(two / "artifacts" / "validate" / "test.parquet"))
    verified = pq.read_table(two / "artifacts" / "verify" / "predictions.parquet")

    def which(predictor: Predictor) -> str:
        answers = predictor.predict(raw)["probability"][:, 0]
        columns = {"cpu": "shipped", "edge": "shipped_edge"}
        (found,) = [
            target for target, column in columns.items() if np.allclose(answers, verified[column].to_numpy(), atol=1e-6)
        ]
        return found

    return which


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ({}, "cpu"),
        ({"device": "cpu"}, "cpu"),
        ({"target": "edge"}, "edge"),
        ({"target": "cpu", "device": "cpu", "threads": 2}, "cpu"),
    ],
)
def test_a_predictor_takes_the_variant_that_the_rule_says(
    two: Path, served: Callable[[Predictor], str], given: dict[str, Any], target: str
) -> None:
    assert served(Predictor.load(bundle_of(two), **given)) == target


def test_a_target_that_the_bundle_was_not_made_for_is_a_usage_error(two: Path, tiny: Path) -> None:
    with pytest.raises(UsageError, match="choose one of cpu, edge"):
        Predictor.load(bundle_of(two), target="cuda")
    with pytest.raises(UsageError, match="leave the target out"):
        Predictor.load(bundle_of(tiny), target="cpu")


def without_cuda(model: Path) -> None:
    if provider(open_session(model)) == "CUDAExecutionProvider":
        pytest.skip("CUDA works here")


def with_cuda(folder: Path) -> None:
    """Let the bundle have been made for ``cuda``, too, which leads."""
    raw = files.read_json(folder / "variants.json")
    raw["targets"]["cuda"] = raw["targets"]["edge"] | {"device": "cuda"}
    raw["rule"] |= {"order": ["cuda", "cpu", "edge"], "otherwise": "cuda"}
    files.write_json(folder / "variants.json", raw)
    bundle.write_manifest(folder)


def test_a_variant_whose_device_does_not_load_is_passed_over_unless_it_is_asked_for(
    world: Path, served: Callable[[Predictor], str]
) -> None:
    folder = bundle_of(world)
    without_cuda(folder / "model.onnx")
    with_cuda(folder)
    assert served(Predictor.load(folder)) == "cpu"
    for asked in ({"target": "cuda"}, {"device": "cuda"}):
        with pytest.raises(MachineError, match="device cuda must really be used"):
            Predictor.load(folder, **asked)
    assert served(Predictor.load(folder, "cpu", target="cuda")) == "edge", "the device that is named is taken"


def test_a_variant_that_cannot_load_without_its_device_is_passed_over(
    world: Path, served: Callable[[Predictor], str]
) -> None:
    """A cuda file in a number format that no other device has: here it does not load at all."""
    folder = bundle_of(world)
    without_cuda(folder / "model.onnx")
    (folder / EDGE).write_bytes((folder / EDGE).read_bytes()[:-100])
    with_cuda(folder)
    assert served(Predictor.load(folder)) == "cpu"
    with pytest.raises(IntegrityError, match="must load"):
        Predictor.load(folder, target="edge")


def test_variants_are_tried_from_the_most_special_device_on() -> None:
    made = [Variant(name, name, "int8", TARGETS[name].device, None) for name in ("edge", "cpu", "cuda", "tensorrt")]
    found = Variants.of(made)
    assert found.first.target == "edge"

    def tried(device: str) -> list[str]:
        return [one.target for one in found.suited(device, None)]

    assert tried("auto") == ["tensorrt", "cuda", "edge", "cpu"]
    assert tried("cpu") == ["edge", "cpu"]
    assert tried("cuda") == ["cuda"]
    assert [one.target for one in Variants.of(made[2:3]).suited("cpu", None)] == ["cuda"], "else the first"


def test_the_same_file_on_another_device_is_judged_apart() -> None:
    made = [Variant(name, ".", "fp16", TARGETS[name].device, None) for name in ("cuda", "edge", "cpu")]
    assert [one.target for one in Variants.of(made).distinct()] == ["cuda", "edge"]


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.pop("rule"),
        lambda raw: raw["rule"].update(order=["cpu"]),
        lambda raw: raw["rule"].update(otherwise="cuda"),
        lambda raw: raw["targets"]["edge"].pop("device"),
        lambda raw: raw["targets"]["edge"].update(folder="../elsewhere"),
        lambda raw: raw["targets"]["edge"].update(folder="/etc"),
    ],
)
def test_a_rule_that_is_not_whole_is_refused(world: Path, change: Callable[[Any], object]) -> None:
    folder = bundle_of(world)
    raw = files.read_json(folder / "variants.json")
    change(raw)
    files.write_json(folder / "variants.json", raw)
    bundle.write_manifest(folder)
    with pytest.raises(IntegrityError, match=r"variants\.json must name a folder for each target"):
        Predictor.load(folder)


def test_the_command_line_takes_a_target(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("distance,pressure,seats,route,carrier,holiday\n900,1000,50,3,AA,true\n1200,,80,2,DL,false\n")

    def predicted(*options: str) -> list[str]:
        monkeypatch.setattr("sys.argv", ["assay", "predict", str(bundle_of(two)), str(rows), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        return capsys.readouterr().out.splitlines()

    assert len(predicted()) == 3
    assert predicted() == predicted("--target", "cpu") != predicted("--target", "edge")


# Promotion.


def test_the_gates_of_a_promotion_ask_the_variant_that_is_served(two: Path, tmp_path: Path) -> None:
    folder = bundle_of(two)
    serve = [sys.executable, "-P", "-m", "deploy.server", str(folder), "--host", "127.0.0.1", "--port", "0"]
    said = serving.ask([*serve, "--unsigned", "--target", "edge"], folder, Latency(p99_ms=2e3, requests=100))
    assert (said.word, said.figures["target"]) == ("PASS", "edge"), said.reason
    assert "the variant edge: " in said.reason

    validated = shutil.copytree(two / "artifacts" / "validate", tmp_path / "validate")
    bundled = Evidence.read(folder)
    for target, served in (("edge", "edge"), (None, "cpu")):
        rules = champion.Rules(0.2, 0.95, 200, 1, target)
        said = champion.ask(dataclasses.replace(bundled, digest="e" * 64), bundled, validated, rules)
        assert said.reason.startswith(f"variant {served} against variant {served} of {folder.name} on 100 fresh rows")
        assert said.figures["targets"] == {"champion": served, "challenger": served}
    verified = pq.read_table(two / "artifacts" / "verify" / "predictions.parquet")["shipped_edge"].to_numpy()
    rows, facts = pq.read_table(validated / "test.parquet"), manifest.read(validated).facts
    answers = scoring.score_served(folder, champion._columns(rows, bundled, facts), "edge").answers
    np.testing.assert_allclose(answers[:, 0], verified, atol=1e-6)
