"""Methods of compression that keep every layer's shape: quantization, half precision, folding, zeros."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graph_world as worlds
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_world import FLOAT, node

from tasks.compress import graph
from tasks.compress.graph import Treated, dynamic, fuse, halves, magnitude, sensitivity, smooth, static, weights
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import Wiring
from tasks.core import devices
from tasks.core.errors import DataRejected, UsageError

MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": worlds.mlp, "cnn": worlds.cnn, "recommender": worlds.recommender, "outlying": worlds.outlying,
}  # fmt: skip
#: The error that a method may add to the answers of random networks.
MOST = {"fuse": 1e-9, "fp16": 1e-4, "fp16_weights": 1e-4, "int4_weights": 0.1, "magnitude": 3.0, "neurons": 0.5}


def error(core: onnx.ModelProto, treated: Treated, count: int = 50) -> float:
    """Error of the answers on rows that no method has seen."""
    fresh = worlds.rows(core, count, seed=77)
    before, after = (feeding.observe(model, fresh, feeding.judged(model)) for model in (core, treated.model))
    return feeding.error(before, after)


def operators(model: onnx.ModelProto) -> set[str]:
    return {item.op_type for item in model.graph.node}


def interface(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(item.name, item.type.tensor_type.elem_type) for item in (*model.graph.input, *model.graph.output)]


# Every method


@pytest.mark.parametrize("name", [name for name in graph.METHODS if name != "bf16"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_method_keeps_the_interface_the_given_model_and_most_of_the_answers(kind: str, name: str) -> None:
    core = MODELS[kind]()
    before = core.SerializeToString(deterministic=True)
    treated = graph.find(name)(core, worlds.rows(core))
    assert core.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(treated.model, full_check=True)
    assert interface(treated.model) == interface(core)
    assert error(core, treated) <= MOST.get(name, 0.2 if kind == "outlying" else 0.05)
    if "nothing" in treated.report:
        assert treated.model == core or name == "fuse"
    elif name not in ("magnitude", "neurons", "fuse"):
        assert treated.model.ByteSize() < core.ByteSize()


def test_methods_are_found_by_name() -> None:
    with pytest.raises(UsageError, match="choose from fuse, int8"):
        graph.find("int7")


@pytest.mark.parametrize("name", ["int8", "int8_entropy", "int4_weights", "neurons"])
def test_a_method_gives_the_same_bytes_twice(name: str) -> None:
    core = worlds.mlp()
    first, second = (graph.find(name)(core, worlds.rows(core)).model for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["int8", "int8_dynamic", "int8_weights", "fp16", "magnitude", "neurons", "fuse"])
def test_nan_among_the_weights_is_told_by_name(name: str) -> None:
    core = worlds.mlp()
    Wiring(core.graph).put("w2", np.full((64, 64), np.nan, np.float32))
    with pytest.raises(UsageError, match="`w2` of MatMul `second` holds NaN"):
        graph.find(name)(core, worlds.rows(core))


@pytest.mark.parametrize("name", ["int8", "int8_smooth", "neurons"])
def test_calibration_rows_too_few_or_not_those_of_the_model(name: str, caplog: pytest.LogCaptureFixture) -> None:
    core = worlds.mlp()
    method = graph.find(name)
    with pytest.raises(DataRejected, match="at least 2 rows"):
        method(core, worlds.rows(core, 1))
    with pytest.raises(UsageError, match="none for x"):
        method(core, {"z": worlds.rows(core)["x"]})
    with caplog.at_level(logging.WARNING):
        method(core, worlds.rows(core, 5))
    assert "5 calibration rows are few" in caplog.text


@pytest.mark.parametrize("name", ["int8", "int8_dynamic", "int8_weights", "int4_weights", "fp16_weights", "neurons"])
def test_an_old_opset_is_raised(name: str) -> None:
    core = worlds.mlp(opset=11)
    treated = graph.find(name)(core, worlds.rows(core))
    assert "nothing" not in treated.report
    assert error(core, treated) < MOST.get(name, 0.05)


def test_an_opset_that_cannot_be_raised() -> None:
    core = worlds.model(
        [node("MatMul", "x w", "a"), node("Foreign", "a", "y", domain="their.own"), node("Upsample", "a s", "z")],
        {"x": (FLOAT, ["N", 8])},
        {"y": (FLOAT, ["N", 8]), "z": (FLOAT, ["N", 8])},
        {"w": worlds.normal(8, 8), "s": np.ones(2, np.float32)},
        opset=9,
    )
    del core.opset_import[:]
    core.opset_import.extend([onnx.helper.make_opsetid("", 9), onnx.helper.make_opsetid("their.own", 1)])
    core.graph.node[2].attribute.append(onnx.helper.make_attribute("mode", "unknown"))
    core.graph.node[2].op_type = "NoSuchOperator"
    with pytest.raises(UsageError, match="opset 9"):
        weights.quantize(core)


def test_a_fixed_batch_is_fed_as_it_wants() -> None:
    core = worlds.mlp(batch=4)
    calibration = worlds.rows(core, 10)
    treated = static.quantize(core, calibration)
    assert len(treated.report["quantized"]) == 3
    (found,) = feeding.observe(treated.model, calibration, ["y"])
    assert found.shape == (10, 4)


def test_nothing_is_printed_or_logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    core = worlds.mlp()
    level = logging.getLogger().level
    for name in ("int8", "int8_entropy", "int8_dynamic", "fuse"):
        graph.find(name)(core, worlds.rows(core))
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert logging.getLogger().level == level


# int8


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("method", ["int8", "int8_dynamic"])
def test_int8_without_instructions_for_it_keeps_to_seven_bits_and_says_so(
    monkeypatch: pytest.MonkeyPatch, method: str, fast: bool
) -> None:
    """Without them two products of eight bits may not fit into a sum of sixteen."""
    monkeypatch.setattr(devices, "has_vnni", lambda: fast)
    core = worlds.mlp()
    made = graph.find(method)(core, worlds.rows(core))
    assert made.report["reduced_range"] is not fast
    arrays = [onnx.numpy_helper.to_array(one) for one in made.model.graph.initializer]
    stored = [array.astype(int) for array in arrays if array.ndim == 2 and array.dtype.itemsize == 1]
    assert stored
    assert any(np.ptp(array) > 128 for array in stored) is fast


def test_int8_weights_have_a_scale_for_each_channel() -> None:
    core = worlds.cnn()
    treated = static.quantize(core, worlds.rows(core))
    assert treated.report["quantized"] == ["inner", "outer"]
    assert "slower than float ones on 3 channels" in treated.report["kept"]["stem"]
    assert any("80 weights are too few" in reason for reason in treated.report["kept"].values())
    wiring = Wiring(treated.model.graph)
    stored = [
        item for item in treated.model.graph.node
        if item.op_type == "DequantizeLinear" and len(getattr(wiring.constants.get(item.input[0]), "dims", ())) == 4
    ]  # fmt: skip
    assert [wiring.array(item.input[1]).shape for item in stored] == [(24,), (16,)]
    assert {wiring.array(item.input[0]).dtype for item in stored} == {np.dtype(np.int8)}


def test_between_quantized_layers_everything_stays_in_bytes(tmp_path: Path) -> None:
    core = worlds.cnn()
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    model = static.quantize(core, worlds.rows(core, 64)).model
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    run = [item.op_type for item in onnx.load(tmp_path / "run.onnx").graph.node if item.op_type != "Transpose"]
    first = run.index("QuantizeLinear")  # after the stem
    last = len(run) - run[::-1].index("DequantizeLinear")  # before the head, which is small
    assert run[first + 1 : last - 1] == [
        "QLinearConv",
        "QLinearConv",
        "QLinearAdd",
        "QLinearGlobalAveragePool",
        "Squeeze",
    ]


def test_averages_of_floats_stay_in_float() -> None:
    core = worlds.cnn()
    treated = static.quantize(core, worlds.rows(core), exclude=["outer"])
    wiring = Wiring(treated.model.graph)
    (pool,) = (item for item in treated.model.graph.node if item.op_type == "GlobalAveragePool")
    assert wiring.writer[pool.input[0]].op_type == "Relu"


def test_excluded_layers_stay_in_float_and_unknown_ones_are_told() -> None:
    core = worlds.mlp()
    treated = static.quantize(core, worlds.rows(core), exclude=["first"])
    assert treated.report["kept"]["first"] == "excluded"
    assert "first" not in treated.report["quantized"]
    with pytest.raises(UsageError, match="strange"):
        static.quantize(core, worlds.rows(core), exclude=["strange"])


def test_s8s8_has_no_zero_points() -> None:
    core = worlds.mlp()
    treated = static.quantize(core, worlds.rows(core), activations="s8", correct_bias=False)
    wiring = Wiring(treated.model.graph)
    zeros = [item.input[2] for item in treated.model.graph.node if item.op_type.endswith("quantizeLinear")]
    zeros += [item.input[2] for item in treated.model.graph.node if item.op_type == "QuantizeLinear"]
    assert zeros
    assert all(not wiring.array(name).any() for name in zeros)


def test_entropy_cuts_off_the_stray_value_that_minmax_makes_room_for() -> None:
    core = worlds.mlp()
    calibration = worlds.rows(core, 256)
    calibration["x"][0, 0] = 500
    minmax, entropy = (static.quantize(core, calibration, calibrate=way) for way in ("minmax", "entropy"))
    assert error(core, entropy) < 0.5 * error(core, minmax)


def test_percentile_cuts_off_a_share_of_the_values() -> None:
    core = worlds.outlying()
    calibration = worlds.rows(core, 256)  # 128 values a row: 1.6 of them lie beyond 99.99 % on each side

    def widest(way: static.Calibrate) -> float:
        model = static.quantize(core, calibration, calibrate=way, correct_bias=False).model
        wiring = Wiring(model.graph)
        return max(float(wiring.array(item.input[1])) for item in model.graph.node if item.op_type == "QuantizeLinear")

    assert 0.5 < widest("percentile") / widest("minmax") < 1


def test_scores_that_are_ranked_stay_float() -> None:
    core = worlds.recommender()
    treated = static.quantize(core, worlds.rows(core))
    assert treated.report["quantized"] == ["rows", "scores"]
    ranks = next(item for item in treated.model.graph.node if item.op_type == "TopK")
    assert Wiring(treated.model.graph).writer[ranks.input[0]].op_type == "MatMul"


def test_what_cannot_be_quantized_is_kept_and_named() -> None:
    core = worlds.model(
        [
            node("ConvTranspose", "x w", "a", pads=[1, 1, 1, 1]),
            node("MatMul", "a batched", "b"),
            node("MatMul", "b b", "c"),
            node("MatMul", "c v", "y"),
        ],
        {"x": (FLOAT, ["N", 8, 32, 32])},
        {"y": (FLOAT, ["N", 16, 32, 64])},
        {"w": worlds.normal(8, 16, 3, 3), "batched": worlds.normal(16, 32, 32), "v": worlds.normal(32, 64)},
    )
    report = static.quantize(core, worlds.rows(core, 4), correct_bias=False).report
    assert report["quantized"] == ["y"]
    assert report["kept"] == {
        "a": "ConvTranspose is not quantized",
        "b": "batched weights lack a per-channel kernel",
    }


def test_a_network_without_weights_is_left_as_it_is() -> None:
    core = worlds.model([node("Relu", "x", "y")], {"x": (FLOAT, ["N", 3])}, {"y": (FLOAT, ["N", 3])}, {})
    for name in ("int8", "int8_dynamic", "int8_weights", "int4_weights", "fp16_weights", "magnitude", "neurons"):
        treated = graph.find(name)(core, worlds.rows(core))
        assert treated.model == core
        assert treated.report["nothing"]


def test_bias_correction_lowers_the_error_where_it_says_so() -> None:
    core = worlds.cnn()
    calibration = worlds.rows(core, 256)
    plain = static.quantize(core, calibration, correct_bias=False)
    corrected = static.quantize(core, calibration)
    told = corrected.report["bias"]
    assert told["corrected"] == ["inner", "outer"]
    assert told["after"] < told["before"]
    assert error(core, corrected, 500) < 0.8 * error(core, plain, 500)


def test_bias_correction_that_helps_nothing_changes_nothing() -> None:
    core = worlds.recommender()
    calibration = worlds.rows(core)
    plain, corrected = (static.quantize(core, calibration, correct_bias=way) for way in (False, True))
    assert corrected.report["bias"] == {"corrected": [], "nothing": "no quantized layer has a bias of its own"}
    assert corrected.model == plain.model


def test_smoothing_saves_a_layer_with_outlying_channels() -> None:
    core = worlds.outlying()
    calibration = worlds.rows(core)
    smoothed = smooth.quantize(core, calibration)
    assert smoothed.report["smoothed"] == {"first": "folding"}
    assert error(core, smoothed) < 0.3 * error(core, static.quantize(core, calibration))
    assert "nothing" in smooth.quantize(worlds.cnn(), worlds.rows(worlds.cnn())).report


def test_smoothing_an_activation_that_others_read_takes_an_operator() -> None:
    core = worlds.outlying()
    core.graph.output.append(onnx.helper.make_tensor_value_info("normed", FLOAT, ["N", 32]))
    smoothed = smooth.quantize(core, worlds.rows(core))
    assert smoothed.report["smoothed"] == {"first": "Mul"}
    assert "Mul" in operators(smoothed.model)
    assert error(core, smoothed) < 1e-3


def test_the_layer_that_suffers_most_comes_first() -> None:
    core = worlds.outlying()
    found = sensitivity.damage(core, worlds.rows(core))
    assert [layer.name for layer in found] == ["first", "y"]
    assert found[0].damage > 5 * found[1].damage > 0
    assert [(layer.op, layer.weights) for layer in found] == [("MatMul", 4096), ("Gemm", 1024)]


def test_damage_to_a_ranking_is_measured_at_its_scores() -> None:
    core = worlds.recommender()
    found = sensitivity.damage(core, worlds.rows(core))
    assert {layer.name for layer in found} == {"rows", "scores"}
    assert all(0 < layer.damage < 0.01 for layer in found)


def test_dynamic_quantizes_gemms_too() -> None:
    core = worlds.mlp()
    treated = dynamic.quantize(core)
    assert len(treated.report["quantized"]) == 2
    assert "256 weights are too few" in next(iter(treated.report["kept"].values()))
    assert [item.op_type for item in treated.model.graph.node].count("MatMulInteger") == 2


def test_the_error_is_a_share_of_the_variance() -> None:
    wanted = np.array([0.0, 2, 0, 2])
    assert feeding.error([wanted], [wanted + 0.5]) == 0.25
    assert feeding.error([np.append(wanted, -np.inf)], [np.append(wanted, 7)]) == 0  # a mask
    assert feeding.error([wanted], [np.array([0, 2, 0, np.nan])]) == np.inf
    assert np.isnan(feeding.error([], []))


# Weights only


def test_weights_take_a_quarter_or_an_eighth() -> None:
    core = worlds.mlp(hidden=512)
    sizes = {bits: weights.quantize(core, bits=bits).model.ByteSize() / core.ByteSize() for bits in (4, 8)}
    assert sizes[8] < 0.28
    assert sizes[4] < 0.18
    assert operators(weights.quantize(core, bits=8).model) <= {
        "MatMul", "Sub", "DequantizeLinear", "Relu", "Sigmoid", "Gemm",
    }  # fmt: skip


def test_int8_weights_are_off_by_half_a_step_at_most() -> None:
    values, scale = weights._columns(worlds.normal(50, 20) * np.r_[np.zeros(1), np.arange(19)].astype(np.float32))
    wanted = worlds.normal(50, 20) * np.r_[np.zeros(1), np.arange(19)].astype(np.float32)
    assert (np.abs(values * scale - wanted) <= scale / 2 + 1e-6).all()
    assert values.dtype == np.int8


def test_int4_blocks_of_a_width_that_does_not_divide() -> None:
    wanted = worlds.normal(6, 40)
    values, scale = weights._blocks(wanted, 16)
    assert (values.shape, scale.shape) == ((6, 48), (6, 3))
    found = ((values.astype(np.float32) - 8) * np.repeat(scale, 16, axis=1))[:, :40]
    assert np.mean((found - wanted) ** 2) < 0.01


def test_what_operators_outside_onnx_write_has_a_type() -> None:
    model = weights.quantize(worlds.mlp(), bits=4).model
    typed = {item.name for item in model.graph.value_info if item.type.tensor_type.elem_type == FLOAT}
    assert typed == {name for item in model.graph.node if item.domain for name in item.output} - {"y"}
    assert len(typed) == 2


def test_tables_are_gathered_as_integers() -> None:
    core = worlds.recommender()
    for bits, kind in ((8, "DequantizeLinear"), (4, "GatherBlockQuantized")):
        treated = weights.quantize(core, bits=bits)
        assert treated.report["quantized"] == ["rows", "scores"]
        assert kind in operators(treated.model)


@pytest.mark.parametrize(
    ("nodes", "layer", "reason"),
    [
        ([node("Gather", "w i", "a", axis=1), node("MatMul", "x a", "y")], "a", "gathers columns"),
        ([node("MatMul", "w x", "y")], "y", "on the left"),
        ([node("Gemm", "x w", "y", alpha=2.0)], "y", "transposed or scaled"),
        ([node("MatMul", "x w", "a"), node("Mul", "a w", "y")], "a", "others read its weight"),
        ([node("MatMul", "x odd", "a"), node("MatMul", "a back", "y")], "a", None),
        ([node("Gather", "tall i", "a"), node("MatMul", "x a", "y")], "a", "an odd length"),
    ],
)
def test_what_weight_only_leaves_alone(nodes: list[onnx.NodeProto], layer: str, reason: str | None) -> None:
    core = worlds.model(
        nodes,
        {"x": (FLOAT, [40, 40]), "i": (worlds.INT64, [40])},
        {"y": (FLOAT, [40, "M"])},
        {
            "w": worlds.normal(40, 40), "odd": worlds.normal(40, 33), "back": worlds.normal(33, 40),
            "tall": worlds.normal(100, 33),
        },
    )  # fmt: skip
    treated = weights.quantize(core, bits=4)
    assert reason is None or reason in treated.report["kept"][layer]
    assert (reason is None) == (layer in treated.report["quantized"])
    assert reason is not None or error(core, treated, 40) < 0.1


# Half precision


def test_fp16_computes_in_half_between_float_borders() -> None:
    core = worlds.cnn()
    treated = halves.convert(core, kind="fp16")
    assert {item.data_type for item in treated.model.graph.initializer} <= {onnx.TensorProto.FLOAT16, worlds.INT64}
    assert [item.op_type for item in treated.model.graph.node].count("Cast") == 2
    assert treated.model.ByteSize() < 0.52 * core.ByteSize()


def test_fp16_leaves_operators_without_a_half_form_in_float() -> None:
    core = worlds.model(
        [
            node("MatMul", "x w", "a"),
            node("QuantizeLinear", "a s z", "q"),
            node("DequantizeLinear", "q s z", "b"),
            node("Mul", "a b", "y"),
        ],
        {"x": (FLOAT, ["N", 40])},
        {"y": (FLOAT, ["N", 40])},
        {"w": worlds.normal(40, 40), "s": np.float32([0.3])[0], "z": np.uint8([128])[0]},
    )
    treated = halves.convert(core, kind="fp16")
    assert treated.report["converted"] == ["a", "y"]
    assert treated.report["kept"] == {"b": "DequantizeLinear does not take tensor(float16)"}
    assert error(core, treated) < 1e-3


def test_fp16_leaves_what_makes_its_own_type_in_float() -> None:
    core = worlds.model(
        [node("Shape", "x", "s"), node("ConstantOfShape", "s", "zeros"), node("Add", "x zeros", "y")],
        {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {},
    )  # fmt: skip
    treated = halves.convert(core, kind="fp16")
    assert treated.report["kept"] == {"zeros": "its result has a type of its own"}
    assert error(core, treated) < 1e-4


def test_fp16_clips_what_is_beyond_it() -> None:
    core = worlds.mlp()
    Wiring(core.graph).put("b3", np.array([1e9, 0, 0, 0], np.float32))
    (found,) = feeding.observe(halves.convert(core, kind="fp16").model, worlds.rows(core), ["y"])
    assert np.isfinite(found).all() or np.isinf(found[:, 0]).any()
    stored = halves.store(core)
    assert error(core, stored) < 1e-4


def test_bf16_without_kernels_is_told() -> None:
    try:
        treated = halves.convert(worlds.mlp(), kind="bf16")
    except UsageError as told:
        assert "fp16_weights" in told.way_out
    else:
        assert treated.report["converted"]


def test_stored_halves_are_computed_in_float() -> None:
    core = worlds.mlp(hidden=256)
    treated = halves.store(core)
    assert treated.model.ByteSize() < 0.52 * core.ByteSize()
    assert set(treated.report["stored"]) == {"w1", "b1", "w2", "b2", "w3"}
    Wiring(core.graph).put("w3", np.full((256, 4), 1e6, np.float32))
    assert halves.store(core).report["kept"] == {"w3": "beyond the range of fp16"}


# Folding and names


def test_fusing_folds_batch_norms_and_changes_no_answer() -> None:
    core = worlds.cnn()
    treated = fuse.fuse(core)
    assert "BatchNormalization" not in operators(treated.model)
    assert {item.domain for item in treated.model.opset_import} <= {"", "ai.onnx"}
    assert treated.model.ByteSize() < core.ByteSize()
    assert error(core, treated) < 1e-9


def test_equal_constants_are_stored_once_and_unused_ones_not_at_all() -> None:
    core = worlds.model(
        [node("Add", "x first", "a"), node("Add", "a second", "y")],
        {"x": (FLOAT, ["N", 999])},
        {"y": (FLOAT, ["N", 999])},
        {name: worlds.normal(999) for name in ("first", "second", "unused")},
    )
    small = compact(core)
    assert len(small.graph.initializer) == 1
    assert error(core, Treated(small, {})) == 0


def test_compact_names_are_short_and_the_interface_keeps_its_own() -> None:
    core = worlds.cnn()
    for item in core.graph.node:
        item.doc_string = "a note"
    small = compact(core)
    assert interface(small) == interface(core)
    assert all(not item.name and not item.doc_string for item in small.graph.node)
    assert max(len(name) for item in small.graph.node for name in (*item.input, *item.output)) == 1
    assert core.graph.node[0].name == "stem"
    assert error(core, Treated(small, {})) == 0


def branching() -> onnx.ModelProto:
    """A condition whose branches read a tensor and a constant of the graph around them, and a local function."""
    branches = {}
    for name, kind in (("then_branch", "Add"), ("else_branch", "Sub")):
        inner = onnx.helper.make_graph(
            [node(kind, "doubled two", "inner")], name, [], [onnx.helper.make_tensor_value_info("inner", FLOAT, ["N"])]
        )
        branches[name] = inner
    core = worlds.model(
        [
            node("ReduceSum", "x", "total", keepdims=0),
            node("Twice", "x", "doubled", domain="local"),
            node("Greater", "total zero", "positive"),
            node("If", "positive", "y", **branches),
        ],
        {"x": (FLOAT, ["N"])},
        {"y": (FLOAT, ["N"])},
        {"two": np.float32([2.0]), "same": np.float32([2.0]), "zero": np.float32([0.0])[0]},
    )
    core.functions.append(
        onnx.helper.make_function(
            "local",
            "Twice",
            ["given"],
            ["result"],
            [node("Identity", "given", "between"), node("Add", "between given", "result")],
            [onnx.helper.make_opsetid("", 18)],
        )
    )
    return core


def test_compact_reaches_into_branches_and_functions() -> None:
    core = branching()
    small = compact(core)
    function = small.functions[0]
    assert (list(function.input), list(function.output)) == (["given"], ["result"])
    assert [list(item.output) for item in function.node] == [["a"], ["result"]]
    for sign in (1, -1):
        answers = [
            ort.InferenceSession(model.SerializeToString()).run(None, {"x": np.full(3, sign, np.float32)})[0]
            for model in (core, small)
        ]
        np.testing.assert_array_equal(*answers)
    assert answers[0].tolist() == [-4, -4, -4]


def test_a_model_of_the_ir_before_4_names_its_weights_among_the_inputs() -> None:
    core = worlds.mlp()
    core.ir_version = 3
    core.graph.input.extend(
        onnx.helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in core.graph.initializer
    )
    for name in ("int8", "int8_weights", "fuse", "neurons"):
        treated = graph.find(name)(core, worlds.rows(worlds.mlp()))
        assert [item.name for item in treated.model.graph.input] == ["x"]
        assert "nothing" not in treated.report


# Zeros


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_magnitude_takes_the_smallest_share(scope: Any) -> None:
    core = worlds.mlp()
    report = magnitude.prune(core, ratio=0.6, scope=scope).report
    assert report["sparsity_overall"] == pytest.approx(0.6, abs=0.001)
    spread = max(report["sparsity"].values()) - min(report["sparsity"].values())
    assert spread < 0.01 if scope == "layer" else spread > 0.1


def test_magnitude_by_threshold_and_pattern() -> None:
    core = worlds.mlp()
    treated = magnitude.prune(core, threshold=0.1)
    magnitudes = np.abs(Wiring(core.graph).array("w2"))
    assert treated.report["sparsity"]["second"] == pytest.approx((magnitudes <= 0.1).mean())
    report = magnitude.prune(core, pattern=(2, 4)).report
    assert report["sparsity"] == {"first": 0.5, "second": 0.5, "y": 0.5}


def test_two_of_four_are_the_largest_along_the_inputs() -> None:
    core = worlds.model(
        [node("MatMul", "x w", "y")], {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 2])},
        {"w": np.float32([[1, 9], [-3, 8], [2, 1], [-4, 0.5]])},
    )  # fmt: skip
    (weight,) = magnitude.prune(core, pattern=(2, 4)).model.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weight), [[0, 9], [-3, 8], [0, 0], [-4, 0]])
    assert magnitude.prune(core, pattern=(1, 3)).report["kept"] == {
        "y": "its inputs do not divide by the pattern's length"
    }


@pytest.mark.parametrize(
    "rule", [{}, {"ratio": 1.0}, {"threshold": -1.0}, {"pattern": (4, 4)}, {"ratio": 0.5, "threshold": 0.1}]
)
def test_magnitude_wants_one_good_rule(rule: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="takes one of"):
        magnitude.prune(worlds.mlp(), **rule)
