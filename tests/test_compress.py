"""Candidates are built, measured alike, and one is chosen by rules that a person can follow."""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import worlds
from onnx import helper, numpy_helper

from deploy.predictor import Predictor
from tasks.compress import contest, probe, problem, treatments, workshop
from tasks.compress import graph as methods
from tasks.compress import race as racing
from tasks.compress.graph import sensitivity, static
from tasks.compress.isolated import Crashed
from tasks.compress.race import race
from tasks.core import contracts, files, manifest, plugins
from tasks.core.errors import MachineError, NotProven, SettingsError
from tasks.core.original import Network
from tasks.core.settings import Features, parse
from tasks.core.stage import run_stage
from tasks.core.workloads.onnx_export import finish
from tasks.core.workloads.tabular.encoder import fit
from tasks.core.workloads.tabular.network import Architecture, Head, TabularNetwork


def test_the_race_is_interleaved_in_a_rotating_order(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Session:
        def __init__(self, path: Path, *_: Any) -> None:
            self.name = path.stem

        def run(self, _: None, rows: Mapping[str, np.ndarray]) -> None:
            assert {len(array) for array in rows.values()} == {4}
            order.append(self.name)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(racing, "open_session", Session)
    models = {name: Path(f"{name}.onnx") for name in ("fp32", "int8", "other")}
    found = race(models, "fp32", {"a": np.zeros((3, 1))}, (4,), 30, 1, "cpu")
    assert order[::2] == order[1::2], "each is warm when it is timed"
    rounds = [order[start : start + 6 : 2] for start in range(0, len(order), 6)]
    assert all(set(names) == set(models) for names in rounds)
    assert {names[0] for names in rounds} == set(models)
    assert len(rounds) > 30, "some rounds warm up"
    assert found.laps["fp32"][4].ratio == 1
    assert found.providers == dict.fromkeys(models, "CPUExecutionProvider")


@pytest.mark.parametrize(("cold", "slower"), [(False, False), (True, True)])
def test_a_models_time_does_not_depend_on_who_ran_before(
    monkeypatch: pytest.MonkeyPatch, cold: bool, slower: bool
) -> None:
    before: list[Path] = []

    class Session:
        """Waits for caches that another model has emptied."""

        def __init__(self, path: Path, *_: Any) -> None:
            self.path = path

        def run(self, *_: Any) -> None:
            if before[-1:] != [self.path]:
                time.sleep(0.005)
            before[:] = [self.path]

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(racing, "open_session", Session)
    models = {name: Path(f"{name}.onnx") for name in ("fp32", "int8")}
    found = race(models, "fp32", {"a": np.zeros((1, 1))}, (1,), 20, 1, "cpu", cold)
    assert (found.laps["int8"][1].p50_ms >= 2.5) == slower


def test_a_race_is_cut_short_where_time_is_over(tmp_path: Path) -> None:
    paths = {name: reshaping(tmp_path / f"{name}.onnx", 2) for name in ("fp32", "int8")}
    started = time.monotonic()
    found = race(paths, "fp32", {"x": np.zeros((1, 2), np.float32)}, (1, 64), 10_000_000, 1, "cpu", seconds=1.0)
    assert time.monotonic() - started < 60
    assert set(found.laps["int8"]) == {1, 64}
    assert found.laps["int8"][64].ratio > 0


def test_a_model_that_breaks_the_race_is_told_and_the_others_race(tmp_path: Path) -> None:
    paths = {"fp32": reshaping(tmp_path / "fp32.onnx", 2), "int8": reshaping(tmp_path / "int8.onnx", 2)}
    paths["even"] = reshaping(tmp_path / "even.onnx", 4)  # two rows make one: an odd row is left over
    rows = {"x": np.zeros((2, 2), np.float32)}
    found, broken = racing.isolated_race(paths, "fp32", rows, (2, 1), 20, 1, "cpu", 30.0)
    assert {name: set(laps) for name, laps in found.laps.items()} == {"fp32": {1, 2}, "int8": {1, 2}}
    assert set(found.providers) == {"fp32", "int8"}
    assert set(broken) == {"even"}
    assert broken["even"].startswith("it cannot be raced: ")
    with pytest.raises(Crashed):
        racing.isolated_race(paths, "even", rows, (2, 1), 20, 1, "cpu", 30.0)


def reshaping(path: Path, width: int) -> Path:
    """A model that makes rows of another width of its rows of two."""
    shape = numpy_helper.from_array(np.array([-1, width]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        "reshaping",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [shape],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_an_original_that_cannot_be_raced_is_refused_and_nothing_is_lost(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashed(*_: Any, **__: Any) -> None:
        raise Crashed("the runtime was ended by SIGSEGV")

    before = (world / "artifacts" / "compress" / "model.onnx").read_bytes()
    with (
        monkeypatch.context() as patched,
        pytest.raises(NotProven, match="the original as float ONNX must run"),
    ):
        patched.setattr(contest, "isolated_race", crashed)
        run(world, rounds=20)
    with (
        monkeypatch.context() as patched,
        pytest.raises(NotProven, match="the original as float ONNX must run"),
    ):
        patched.setattr(contest, "call", crashed)
        contest.require_devices(
            SimpleNamespace(
                device="cuda",
                problem=SimpleNamespace(
                    packaged=lambda *_: onnx.load(world / "artifacts" / "compress" / "fp32.onnx"), core=None
                ),
            ),
            ("cpu",),
        )
    assert (world / "artifacts" / "compress" / "model.onnx").read_bytes() == before


# The room itself.


def run(root: Path, **own: Any) -> manifest.Manifest:
    return run_stage("compress", worlds.write_params(root, {"compress": own}), root)


def test_int8_is_smaller_and_as_good(tiny: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    fp32, int8 = files.read_json(compressed / "candidates.json")
    assert (fp32["name"], int8["name"]) == ("fp32", "int8")
    assert int8["size_kib"] < 0.6 * fp32["size_kib"]
    assert abs(int8["value"] - fp32["value"]) < 0.02
    assert int8["chosen"]
    assert not fp32["chosen"]
    assert (compressed / "model.onnx").read_bytes() == (compressed / "int8.onnx").read_bytes()
    found = manifest.read(compressed)
    assert found.facts["chosen"] == "int8"
    assert found.metrics["compress.size_ratio"] == pytest.approx(fp32["size_kib"] / int8["size_kib"], rel=0.01)


def test_int8_really_holds_8_bit_weights(tiny: Path) -> None:
    model = onnx.load(tiny / "artifacts" / "compress" / "int8.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    weights = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2}
    assert sum(math.prod(tensor.dims) for tensor in weights.values()) > 4000
    scales = {
        node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    sizes = [math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name in scales]
    assert max(sizes) > 1, "per channel"


@pytest.mark.parametrize("columns", [("distance", "seats"), ("carrier",)])
def test_a_network_of_one_kind_of_columns_can_be_quantized(tmp_path: Path, columns: tuple[str, ...]) -> None:
    table = worlds.rows(300).select([*columns, worlds.TARGET])
    kinds = {name: worlds.COLUMNS[name] for name in table.column_names}
    facts = {"target": worlds.TARGET, "task": "binary", "classes": [0, 1], "split": {}, "time_column": None}
    encoder = fit(table, facts | {"columns": kinds}, Features(min_count=5, bins=6))
    torch.manual_seed(0)
    model = Network(encoder, TabularNetwork(encoder, Architecture(64, 2, 0.0, 0.0, 8, 8)).eval(), Head(encoder))
    numbers, codes = encoder.encode(table)
    calibration = {"numbers": numbers} if encoder.numbers else {"codes": codes}
    onnx.save(
        finish(encoder.wrap(methods.find("int8")(model.core(table), calibration).model), {}), tmp_path / "model.onnx"
    )
    files.write_json(tmp_path / "signature.json", encoder.signature().as_dict())
    found = Predictor.open(tmp_path, "cpu").predict(encoder.raw_inputs(table))["probability"]
    np.testing.assert_allclose(found, model.predict(table), atol=0.05)


def test_fp32_has_the_figure_of_the_original(tiny: Path) -> None:
    fp32 = files.read_json(tiny / "artifacts" / "compress" / "candidates.json")[0]
    original = files.read_json(tiny / "artifacts" / "tune" / "models.json")[0]
    assert fp32["value"] == pytest.approx(original["score"], abs=1e-4)


def test_every_candidate_answers_raw_rows_by_the_same_signature(tiny: Path, tmp_path: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    scores = {}
    for name in ("fp32", "int8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes((compressed / f"{name}.onnx").read_bytes())
        (tmp_path / name / "signature.json").write_bytes((compressed / "signature.json").read_bytes())
        columns = {
            "distance": [1000.0, None, 300.0], "pressure": [1013.0, 990.0, None], "seats": [30, 100, 200],
            "route": [1, 2, None], "carrier": ["AA", "DL", None], "holiday": [True, False, None],
        }  # fmt: skip
        arrays = {key: np.array(values, dtype=object) for key, values in columns.items()}
        scores[name] = Predictor.open(tmp_path / name, "cpu").predict(arrays)["probability"]
    assert scores["fp32"].shape == (3, 1)
    np.testing.assert_allclose(scores["int8"], scores["fp32"], atol=0.1)
    assert not np.array_equal(scores["int8"], scores["fp32"])


def test_every_candidate_is_described_by_what_was_measured(tiny: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    fp32, int8 = files.read_json(tiny / "artifacts" / "runs" / "candidates.json")
    core = (fp32["parameters"], fp32["macs"])
    assert core == (int8["parameters"], int8["macs"])
    assert 5_000 < core[0] < core[1] * 2
    for row in (fp32, int8):
        assert row["size_kib"] == round((compressed / f"{row['name']}.onnx").stat().st_size / 1024, 1)
        assert 0 < row["compressed_kib"] < row["size_kib"]
        assert row["peak_mib"] > 0
        assert set(row["providers"]) == {"CPUExecutionProvider"}
        assert row["providers"]["CPUExecutionProvider"] > 5
        assert row["time"] == pytest.approx(math.prod(lap["ratio"] for lap in row["latency"].values()) ** 0.5, abs=1e-4)
    assert int8["report"]["quantized"]
    assert fp32["network"] == {"method": "original"}


def test_times_are_measured_for_every_batch_size(tiny: Path) -> None:
    for row in files.read_json(tiny / "artifacts" / "runs" / "candidates.json"):
        assert set(row["latency"]) == {"1", "64"}
        for found in row["latency"].values():
            assert 0 < found["p50_ms"] <= found["p99_ms"]
            assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    for row in files.read_json(tiny / "artifacts" / "compress" / "candidates.json"):
        assert row.keys().isdisjoint({"time", "latency", "peak_mib", "front"}), "an output differs from run to run"
    measured = files.read_json(tiny / "artifacts" / "runs" / "compress.json")["measured"]
    assert measured["providers"] == {"fp32": "CPUExecutionProvider", "int8": "CPUExecutionProvider"}


class Crippled:
    """A plug-in whose product is what a test wants."""

    def __init__(self, change: Callable[[onnx.ModelProto], None]) -> None:
        self.change = change

    def __call__(self, core: onnx.ModelProto, calibration: Mapping[str, np.ndarray]) -> onnx.ModelProto:
        self.change(core)
        return core


def forget(core: onnx.ModelProto) -> None:
    """Zero the largest layer's weights."""
    tensor = max(core.graph.initializer, key=lambda t: math.prod(t.dims))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))


def fail(core: onnx.ModelProto) -> None:
    raise ValueError("no such luck")


def rename(core: onnx.ModelProto) -> None:
    core.graph.output[0].name = core.graph.node[-1].output[0] = "other"


def poison(core: onnx.ModelProto) -> None:
    """NaN into every float weight."""
    for tensor in core.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[onnx.ModelProto], None]], None]:
    """Makes a compressor of the name ``mine`` out of a change."""

    def install(change: Callable[[onnx.ModelProto], None]) -> None:
        monkeypatch.setattr(plugins, "names", lambda group: ["mine"] if group == plugins.COMPRESSORS else [])
        monkeypatch.setattr(plugins, "load", lambda group, name: Crippled(change))

    return install


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (forget, "auc on validation gets worse by"),
        (fail, "mine failed: ValueError: no such luck"),
        (rename, "mine must keep the inputs and outputs"),
        (poison, "its answers on validation are not finite"),
    ],
)
def test_a_bad_candidate_is_recorded_and_the_search_goes_on(
    world: Path, plugin: Any, change: Callable[[onnx.ModelProto], None], reason: str
) -> None:
    plugin(change)
    root_level = logging.getLogger().level
    found = run(world, methods=["mine", "int8"], max_metric_drop=0.001 if change is forget else 0.02)
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert reason in rows["mine"]["reason"]
    assert not rows["mine"]["chosen"]
    assert found.facts["chosen"] == "int8"
    assert logging.getLogger().level == root_level


def test_a_candidate_that_kills_the_runtime_is_recorded_and_the_search_goes_on(
    world: Path, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop, "probe", killed_by_the_plugin)
    plugin(lambda core: None)
    found = run(world, methods=["mine", "int8"])
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert rows["mine"]["reason"] == "it does not run: the runtime was ended by SIGSEGV"
    assert found.facts["chosen"] == "int8"


def test_a_treatment_that_kills_the_runtime_is_recorded_and_the_search_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(treatments, "apply", killed_by_its_treatment)
    found = run(world, methods=["int8_weights", "int8"])
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert rows["int8_weights"]["reason"] == "int8_weights: the runtime was ended by SIGSEGV"
    assert found.facts["chosen"] == "int8"


def killed_by_its_treatment(name: str, *rest: Any) -> methods.Treated:
    """In the treatment's own process, as a kernel that fails on a quantized model would end it."""
    if name == "int8_weights":
        os.kill(os.getpid(), signal.SIGSEGV)
    return methods.apply(name, *rest)


def test_figures_that_are_not_finite_are_told_as_none_and_never_as_a_limit_that_was_kept(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report with an infinite error, a layer of infinite damage, a bound without a value: a model can cause each."""
    monkeypatch.setattr(treatments, "call", lambda function, *arguments, seconds: function(*arguments))
    monkeypatch.setattr(treatments, "apply", with_an_infinite_error)
    monkeypatch.setattr(static, "_LEAST_WEIGHTS", 1024)
    monkeypatch.setattr(sensitivity.feeding, "error", lambda *_: math.inf)
    run(world, methods=["int8"], max_metric_drop=1e-6)
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert rows["int8"]["report"]["before"] is None
    layers = files.read_json(world / "artifacts" / "compress" / "sensitivity.json")
    assert {line["damage"] for line in layers} == {None}
    assert layers[0]["kept_in_float"], "what damages most is left in float first"
    monkeypatch.setattr(problem.Problem, "must_show", True)
    monkeypatch.setattr(problem, "greatest_loss", lambda *_: math.nan)
    found = run(world, methods=["int8_weights"])
    assert found.facts["chosen"] == "fp32"
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    assert rows["int8_weights"]["reason"] == "what it may lose on validation has no bound"


def with_an_infinite_error(*given: Any) -> methods.Treated:
    made = methods.apply(*given)
    return methods.Treated(made.model, made.report | {"before": math.inf})


def test_an_original_that_failed_in_a_bad_moment_is_tried_again(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workshop, "probe", killed)
    with pytest.raises(NotProven, match="ended by SIGKILL"):
        run(world, methods=["int8"])
    monkeypatch.undo()
    assert run(world, methods=["int8"]).facts["chosen"] == "int8"


def killed(*_: Any) -> probe.Probe:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it lives")


def killed_by_the_plugin(model: Path, *rest: Any) -> probe.Probe:
    """In the candidate's own process: a real signal, as a faulty kernel would raise it."""
    if model.stem == "mine":
        os.kill(os.getpid(), signal.SIGSEGV)
    return probe.probe(model, *rest)


def test_limits_that_nothing_keeps_to_are_infeasible(world: Path) -> None:
    before = (world / "artifacts" / "compress" / "model.onnx").read_bytes()
    with pytest.raises(NotProven, match=r"INFEASIBLE: nearest are .*fp32: .* KiB, more than 1") as caught:
        run(world, max_size_kib=1.0)
    assert caught.value.exit_code == 4
    rejected = world / "artifacts" / "rejected" / "compress"
    assert {row["name"] for row in files.read_json(rejected / "candidates.json")} == {"fp32", "int8"}
    assert (world / "artifacts" / "compress" / "model.onnx").read_bytes() == before
    assert run(world).facts["chosen"]
    assert not rejected.exists()


def test_an_unknown_method_and_a_share_of_everything_are_told_together() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(worlds.params({"compress": {"methods": ["int9"], "pruning": {"shares": [0.5, 1.0]}, "targets": ["gpu"]}}))
    assert {mistake.key for mistake in caught.value.mistakes} == {
        "compress.methods.0", "compress.pruning.shares.1", "compress.targets.0",
    }  # fmt: skip


def test_cuda_that_is_not_there_is_an_error(world: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.InferenceSession(world / "artifacts/compress/fp32.onnx").get_providers():
        pytest.skip("there is a CUDA device")
    with pytest.raises(MachineError, match="device cuda must really be used"):
        run(world, targets=["cuda"], methods=["fuse"])


def test_a_full_disk_is_told_and_nothing_is_lost(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path.name: path.read_bytes() for path in (world / "artifacts" / "compress").iterdir()}
    monkeypatch.setattr(workshop.onnx, "save", full)
    with pytest.raises(MachineError, match="needs room on the disk"):
        run(world, rounds=41)
    assert {path.name: path.read_bytes() for path in (world / "artifacts" / "compress").iterdir()} == before


def test_calibration_rows_outside_of_train_are_named(
    world: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(world / "artifacts" / "validate" / "calibration.parquet")
    train = world / "artifacts" / "validate" / "train.parquet"
    assert problem.outside(rows, train) == []
    far = pa.array([1e6] * rows.num_rows)
    index = rows.column_names.index("distance")
    assert problem.outside(rows.set_column(index, "distance", far), train) == ["distance"]
    monkeypatch.setattr(problem, "outside", lambda *_: ["distance"])
    with caplog.at_level(logging.WARNING):
        run(world, methods=["int8"])
    assert "calibration rows lie outside of train's range in distance" in caplog.text


def test_arrays_that_lie_outside_of_train_are_named(tmp_path: Path) -> None:
    train = pa.table({"row": [0, 1], "image": pa.array([[0, 9], [1, 2]], pa.list_(pa.uint8()))})
    pq.write_table(train, tmp_path / "train.parquet")
    assert problem.outside(train, tmp_path / "train.parquet") == []
    brighter = pa.table({"row": [0], "image": pa.array([[0, 10]], pa.list_(pa.uint8()))})
    assert problem.outside(brighter, tmp_path / "train.parquet") == ["image"]


def test_the_layers_that_int8_hurts_stay_in_float_one_by_one(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that int8 of this network's large layers does not keep to: every step is made, recorded, and judged."""
    monkeypatch.setattr(static, "_LEAST_WEIGHTS", 1024)
    monkeypatch.setattr(treatments, "call", lambda function, *arguments, seconds: function(*arguments))  # sees 1024
    run(world, methods=["int8"], max_metric_drop=1e-6)
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    layers = files.read_json(world / "artifacts" / "compress" / "sensitivity.json")
    steps = [row for name, row in rows.items() if name.endswith("_float")]
    damages = [line["damage"] for line in layers]
    assert damages == sorted(damages, reverse=True)
    assert steps[0]["report"]["kept_in_float_for_quality"] == [layers[0]["name"]]
    assert steps[0]["size_kib"] > rows["int8"]["size_kib"]
    assert {line["network"] for line in layers} == {"fp32"}
    assert [line["kept_in_float"] for line in layers[: len(steps)]] == [True] * len(steps)


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        ({"share": 0.6}, (0.55, 0.65)),
        ({"share": 0.6, "scope": "layer"}, (0.55, 0.65)),
        ({"threshold": 100.0}, (1.0, 1.0)),
        ({"pattern": "2:4"}, (0.4, 0.5)),
    ],
)
def test_params_name_the_rule_by_which_small_weights_go(world: Path, rule: Any, shares: tuple[float, float]) -> None:
    run(world, methods=["magnitude"], magnitude=rule, max_metric_drop=1.0)
    rows = {row["name"]: row for row in files.read_json(world / "artifacts" / "compress" / "candidates.json")}
    report = rows["magnitude"]["report"]
    assert shares[0] <= report["sparsity_overall"] <= shares[1]
    alike = max(report["sparsity"].values()) - min(report["sparsity"].values()) < 0.02
    assert alike == (rule.get("scope") == "layer" or "threshold" in rule)
    assert rows["magnitude"]["compressed_kib"] < 0.95 * rows["fp32"]["compressed_kib"]
    assert rows["magnitude"]["size_kib"] == pytest.approx(rows["fp32"]["size_kib"], rel=0.05), "zeros are stored"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"threshold": 0.1, "pattern": "2:4"}, "two rules"),
        ({"pattern": "4:2"}, "N must be smaller than M"),
        ({"pattern": "2/4"}, "pattern"),
        ({"share": 1.0}, "less than 1"),
    ],
)
def test_rules_that_cannot_be_are_refused_at_the_door(rule: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse(worlds.params({"compress": {"magnitude": rule}}))


def test_the_methods_of_params_are_those_that_exist() -> None:
    assert set(contracts.GRAPH_METHODS) == set(methods.METHODS)
    page = (Path(__file__).parents[1] / "docs" / "compression.md").read_text(encoding="utf-8")
    table = page[page.index("| `compress.methods` |") : page.index("## How it searches")]
    assert set(re.findall(r"`(\w+)`", table)) == set(contracts.METHODS)
