"""Structured pruning of a finished graph: what may go, what must stay, and the fit of the next layer."""

from __future__ import annotations

from typing import Any

import graph_world as worlds
import numpy as np
import onnx
import pytest
import torch
from graph_world import FLOAT, node

from tasks.compress.graph import rows as feeding
from tasks.compress.graph.neurons import neurons
from tasks.compress.graph.nodes import Wiring
from tasks.compress.graph.refit import _patches
from tasks.core.errors import UsageError


def difference(core: onnx.ModelProto, model: onnx.ModelProto) -> float:
    """Error of the answers on rows that no fit has seen."""
    fresh = worlds.rows(core, 200, seed=77)
    return feeding.error(*(feeding.observe(item, fresh, feeding.judged(item)) for item in (core, model)))


def chain(*between: onnx.NodeProto, first: str = "MatMul", **constants: np.ndarray) -> onnx.ModelProto:
    """x [N, 8] -> h [N, 32], operators from h to z, -> y [N, 8]; half of the channels of h are copies of the others."""
    half = worlds.normal(8, 16)
    weights = {"w": np.concatenate([half, half], axis=1), "v": worlds.normal(32, 8, seed=1)}
    return worlds.model(
        [node(first, "x w", "h"), *between, node("MatMul", "z v", "y")],
        {"x": (FLOAT, ["N", 8])},
        {"y": (FLOAT, ["N", 8])},
        weights | constants,
    )


PATHS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "Relu": ([node("Relu", "h", "z")], {}),
    "Sigmoid after a bias": (
        [node("Add", "h b", "i"), node("Sigmoid", "i", "z")],
        {"b": np.tile(worlds.normal(16, seed=2), 2)},
    ),
    "SiLU, which reads twice": ([node("Sigmoid", "h", "g"), node("Mul", "h g", "z")], {}),
    "GELU in parts": (
        [
            node("Div", "h root", "i"), node("Erf", "i", "j"), node("Add", "j one", "k"), node("Mul", "h k", "l"),
            node("Mul", "l half", "z"),
        ],
        {"root": np.float32(2**0.5), "one": np.float32([1]), "half": np.float32([[0.5]])},
    ),
    "Clip": ([node("Clip", "h low high", "z")], {"low": np.float32(-1), "high": np.float32(1)}),
    "BatchNormalization": (
        [node("Relu", "h", "i"), node("BatchNormalization", "i s b m v1", "z")],
        {name: np.tile(1 + np.abs(worlds.normal(16, seed=3)), 2) for name in ("s", "b", "m", "v1")},
    ),
    "a scale of each channel": (
        [node("Mul", "h s", "i"), node("Tanh", "i", "z")], {"s": np.tile(worlds.normal(1, 16, seed=4), (1, 2))},
    ),
    "PRelu": ([node("PRelu", "h s", "z")], {"s": np.tile(np.abs(worlds.normal(16, seed=5)), 2)}),
    "Dropout": ([node("Dropout", "h", "i"), node("LeakyRelu", "i", "z")], {}),
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_channels_that_repeat_others_go_without_a_trace(path: str) -> None:
    nodes, constants = PATHS[path]
    core = chain(*nodes, **constants)
    before = core.SerializeToString(deterministic=True)
    treated = neurons(core, worlds.rows(core, 400), ratio=0.25)
    assert core.SerializeToString(deterministic=True) == before
    assert treated.report["pruned"] == {"h": [32, 24]}
    assert treated.report["refitted"] == ["y"]
    assert treated.report["kept"] == {"y": "its channels are the answer `y`"}
    assert difference(core, treated.model) < 0.1
    onnx.checker.check_model(treated.model, full_check=True)


def test_channels_that_do_nothing_are_the_first_to_go() -> None:
    core = worlds.mlp()
    wiring = Wiring(core.graph)
    second, bias = wiring.array("w2"), wiring.array("b2")
    second[:, 8:40], bias[8:40] = 0, -50  # a sigmoid of them is zero
    wiring.put("w2", second)
    wiring.put("b2", bias)
    first = wiring.array("w1")
    first[::2] = 0
    wiring.put("w1", first)
    wiring.put("b1", np.where(np.arange(64) % 2, wiring.array("b1"), -1).astype(np.float32))  # never beyond the Relu
    treated = neurons(core, worlds.rows(core), ratio=0.5)
    assert list(treated.report["pruned"].values()) == [[64, 32], [64, 32]]
    assert difference(core, treated.model) < 1e-9
    assert treated.model.ByteSize() < 0.5 * core.ByteSize()


@pytest.mark.parametrize("transposed", [0, 1])
def test_the_fit_makes_up_for_most_of_what_is_lost(transposed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    core = worlds.mlp()
    if transposed:
        core.graph.node[-1].attribute.append(onnx.helper.make_attribute("transB", 1))
        Wiring(core.graph).put("w3", Wiring(core.graph).array("w3").T)
    calibration = worlds.rows(core, 512)
    fitted = neurons(core, calibration, ratio=0.25)
    assert len(fitted.report["refitted"]) == 2
    monkeypatch.setattr("tasks.compress.graph.neurons.refitted", lambda *_: False)
    plain = neurons(core, calibration, ratio=0.25)
    assert fitted.report["pruned"] == plain.report["pruned"]
    assert fitted.report["error"] < plain.report["error"]
    assert difference(core, fitted.model) < 0.5 * difference(core, plain.model)


def test_convolutions_lose_inner_channels_and_residual_ones_stay() -> None:
    core = worlds.cnn()
    treated = neurons(core, worlds.rows(core), ratio=1 / 3)
    assert treated.report["pruned"] == {"inner": [24, 16]}
    assert treated.report["refitted"] == ["outer"]
    assert "Add `sum` reads its channels" in treated.report["kept"]["stem"]
    assert "Add `sum` reads its channels" in treated.report["kept"]["outer"]
    shapes = {tuple(tensor.dims) for tensor in treated.model.graph.initializer}
    assert {(16, 16, 3, 3)} <= shapes
    assert (24, 16, 3, 3) not in shapes
    assert difference(core, treated.model) < 0.05


def test_channels_go_through_pools_and_means_into_a_gemm() -> None:
    core = worlds.model(
        [
            node("Conv", "x w b", "c", strides=[2, 2]),
            node("Relu", "c", "d"),
            node("MaxPool", "d", "e", kernel_shape=[2, 2]),
            node("Conv", "e g", "f"),
            node("GlobalAveragePool", "f", "p"),
            node("Flatten", "p", "q"),
            node("Gemm", "q v", "y"),
        ],
        {"x": (FLOAT, ["N", 3, 12, 12])},
        {"y": (FLOAT, ["N", 4])},
        {
            "w": worlds.normal(16, 3, 3, 3), "b": worlds.normal(16), "g": worlds.normal(16, 16, 2, 2, seed=1),
            "v": worlds.normal(16, 4, seed=2),
        },
    )  # fmt: skip
    treated = neurons(core, worlds.rows(core), ratio=0.5)
    assert treated.report["pruned"] == {"c": [16, 8], "f": [16, 8]}
    onnx.checker.check_model(treated.model, full_check=True)


KEPT: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str]] = {
    "a softmax over the channels": ([node("Softmax", "h", "z")], {}, "Softmax `z` reads its channels"),
    "a layer norm": (
        [node("LayerNormalization", "h s", "z")], {"s": worlds.normal(32)}, "LayerNormalization `z` reads",
    ),
    "a residual sum": ([node("MatMul", "x u", "r"), node("Add", "h r", "z")], {"u": worlds.normal(8, 32)}, "Gemm `r`"),
    "a mean over the channels": (
        [node("ReduceMean", "h axes", "m"), node("Sub", "h m", "z")], {"axes": np.array([1])}, "ReduceMean `m` reads",
    ),
    "a reshape": ([node("Reshape", "h to", "z")], {"to": np.array([-1, 32])}, "Reshape `z` reads"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_a_layer_that_cannot_be_pruned_is_kept_and_named(case: str) -> None:
    nodes, constants, reason = KEPT[case]
    core = chain(*nodes, **constants)
    treated = neurons(core, worlds.rows(core))
    assert reason in treated.report["kept"]["h"]
    assert treated.model == core
    assert treated.report["nothing"] == "no layer can lose channels"


def test_channels_that_are_an_answer_stay() -> None:
    core = chain(node("Relu", "h", "z"))
    core.graph.output.append(onnx.helper.make_tensor_value_info("z", FLOAT, ["N", 32]))
    assert neurons(core, worlds.rows(core)).report["kept"]["h"] == "its channels are the answer `z`"


def test_channels_are_left_in_multiples() -> None:
    core = worlds.mlp()
    calibration = worlds.rows(core)
    assert set(map(tuple, neurons(core, calibration, ratio=0.4).report["pruned"].values())) == {(64, 40)}
    assert set(map(tuple, neurons(core, calibration, ratio=0.4, multiple=16).report["pruned"].values())) == {(64, 48)}
    assert "rounded up to a multiple of 64" in str(neurons(core, calibration, ratio=0.4, multiple=64).report["kept"])


@pytest.mark.parametrize("settings", [{"ratio": 1.0}, {"ratio": -0.1}, {"multiple": 0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="ratio in"):
        neurons(worlds.mlp(), worlds.rows(worlds.mlp()), **settings)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((9,), {"strides": [2], "dilations": [2], "pads": [1, 3]}),
        ((7, 6), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
        ((7, 8), {"dilations": [1, 3]}),
    ],
)
def test_patches_times_weights_are_what_a_convolution_answers(size: tuple[int, ...], settings: dict[str, Any]) -> None:
    read, weight = worlds.normal(2, 3, *size), worlds.normal(4, 3, *(3, 2)[: len(size)])
    pads = settings.get("pads", [0] * 2 * len(size))
    padded = np.pad(read, [(0, 0), (0, 0), *zip(pads[: len(size)], pads[len(size) :], strict=True)])
    convolve = torch.nn.functional.conv1d if len(size) == 1 else torch.nn.functional.conv2d
    others = {key[:-1]: value for key, value in settings.items() if key != "pads"}
    wanted = convolve(
        torch.from_numpy(padded), torch.from_numpy(weight),
        stride=others.get("stride", 1), dilation=others.get("dilation", 1),
    ).numpy()  # fmt: skip
    places = np.unravel_index(np.arange(0, np.prod(wanted.shape[2:]), 2), wanted.shape[2:])
    conv = node("Conv", "x w", "y", **settings)
    found = _patches(read, conv, weight.shape[2:], places) @ weight.reshape(4, -1).T
    np.testing.assert_allclose(found, np.moveaxis(wanted[:, :, *places], 1, -1).reshape(-1, 4), rtol=1e-4, atol=1e-5)
