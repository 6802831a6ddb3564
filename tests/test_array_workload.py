"""The array workload: how arrays are read, what is learnt from train, networks of odd shapes and their ONNX form."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
import torch

from tasks.core import tensors
from tasks.core.errors import DataRejected, UsageError
from tasks.core.settings import Tune
from tasks.core.workloads import find, onnx_export
from tasks.core.workloads.array import WORKLOAD, augment, encoder, layout
from tasks.core.workloads.array.encoder import ArrayEncoder

VALUES = {"width": 4, "stages": 2, "blocks": 2, "dropout": 0.1, "label_smoothing": 0.1}


def world(
    shape: tuple[int, ...], dtype: str = "uint8", classes: int = 3, rows: int = 40, **tune: Any
) -> tuple[ArrayEncoder, pa.Table]:
    """Random arrays, every class as often as the others, and the encoder fitted on them."""
    rows = max(rows, classes)
    values = np.random.default_rng(0).integers(0, 256, (rows, *shape)).astype(dtype)
    table = pa.table({"x": tensors.to_arrow(values), "y": pa.array(np.arange(rows) % classes)})
    return WORKLOAD.fit(table, facts(shape, dtype, range(classes)), Tune(**tune)), table


def facts(shape: tuple[int, ...], dtype: str, classes: Any) -> dict[str, Any]:
    return {
        "tensors": {"x": {"dtype": dtype, "shape": list(shape)}},
        "target": "y",
        "task": "binary" if len(classes) == 2 else "multiclass",
        "classes": list(classes),
    }


# Reading


@pytest.mark.parametrize(
    ("shape", "kind", "channel_axis", "sizes"),
    [
        ((28, 28), "auto", None, (28, 28)),
        ((9, 128), "auto", None, (9, 128)),
        ((9, 128), "series", 0, (128,)),
        ((128, 9), "series", 1, (128,)),
        ((5, 5), "series", 0, (5,)),
        ((3, 100), "auto", 0, (100,)),
        ((100, 1), "auto", 1, (100,)),
        ((2, 2), "auto", None, (2, 2)),
        ((50,), "auto", None, (50,)),
        ((32, 40, 3), "auto", 2, (32, 40)),
        ((1, 32, 40), "auto", 0, (32, 40)),
        ((3, 3, 4), "auto", 2, (3, 3)),
    ],
)
def test_which_axis_holds_the_channels(
    shape: tuple[int, ...], kind: str, channel_axis: int | None, sizes: tuple[int, ...]
) -> None:
    read = layout.of(shape, kind)
    assert read is not None
    assert (read.channel_axis, read.sizes) == (channel_axis, sizes)


@pytest.mark.parametrize("shape", [(), (8, 9, 10), (2, 3, 4, 5), (0, 3)])
def test_shapes_without_a_reading(shape: tuple[int, ...]) -> None:
    assert layout.of(shape) is None


# Learning from train


def test_the_encoder_learns_the_scale_of_each_channel_and_survives_json() -> None:
    for shape, axis in (((6, 5, 3), 3), ((3, 6, 5), 1)):
        fitted, table = world(shape, "float32")
        (x,) = fitted.encode(table)
        others = tuple(index for index in range(4) if index != axis)
        np.testing.assert_allclose(fitted.inputs[0].mean, x.mean(axis=others, dtype=np.float64))
        np.testing.assert_allclose(fitted.inputs[0].deviation, x.std(axis=others, dtype=np.float64))
        assert WORKLOAD.restore(json.loads(json.dumps(fitted.as_dict()))) == fitted


def test_a_small_spread_on_a_large_offset_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_BLOCK", 3)
    values = (1e6 + np.random.default_rng(0).normal(size=(50, 20))).astype(np.float32)
    table = pa.table({"x": tensors.to_arrow(values), "y": np.arange(50) % 3})
    fitted = WORKLOAD.fit(table, facts((20,), "float32", range(3)), Tune())
    assert fitted.inputs[0].deviation == pytest.approx((values.astype(np.float64).std(),))


def test_a_constant_channel_does_no_harm() -> None:
    table = pa.table({"x": tensors.to_arrow(np.full((6, 4, 4), 7, np.uint8)), "y": np.arange(6) % 3})
    fitted = WORKLOAD.fit(table, facts((4, 4), "uint8", range(3)), Tune())
    assert fitted.inputs[0].deviation == (1.0,)
    assert torch.isfinite(build(fitted)(torch.full((2, 4, 4), 9, dtype=torch.uint8))).all()


def test_rare_classes_weigh_more_when_asked() -> None:
    values = np.zeros((8, 4, 4), np.uint8)
    table = pa.table({"x": tensors.to_arrow(values), "y": [0, 0, 0, 0, 0, 0, 1, 1]})
    fitted = WORKLOAD.fit(table, facts((4, 4), "uint8", range(2)), Tune(class_weights="balanced"))
    assert fitted.class_weights == pytest.approx((8 / 12, 8 / 4))
    assert WORKLOAD.restore(fitted.as_dict()) == fitted


def test_the_signature_tells_raw_arrays_and_labels() -> None:
    fitted, _ = world((6, 5, 3), classes=4)
    signature = fitted.signature()
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [("x", "UINT8", (-1, 6, 5, 3))]
    assert [(t.name, t.shape, t.labels) for t in signature.outputs] == [("probabilities", (-1, 4), (0, 1, 2, 3))]
    assert world((6,), "float32", classes=2)[0].signature().outputs[0].shape == (-1, 1)


def test_the_workload_is_found_by_name_and_names_its_metrics() -> None:
    workload = find("array")
    assert workload is WORKLOAD
    assert [workload.default_metric(task) for task in ("binary", "multiclass")] == ["auc", "accuracy"]


# Bad input


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    values = np.zeros((6, 4, 4), np.float32)
    values[5, 0, 0] = bad
    table = pa.table({"x": tensors.to_arrow(values), "y": np.arange(6) % 3})
    with pytest.raises(DataRejected, match="`x` has NaN or infinity"):
        WORKLOAD.fit(table, facts((4, 4), "float32", range(3)), Tune())


def test_labels_missing_or_out_of_range() -> None:
    fitted, table = world((4, 4))
    for strangers in (pa.array([0, 5, 7] + [1] * 37), pa.array([0, None, 5] + [1] * 37)):
        with pytest.raises(DataRejected, match="2 rows hold something else"):
            fitted.labels(table.set_column(1, "y", strangers))


def test_a_class_absent_from_train() -> None:
    _, table = world((4, 4), classes=3)
    with pytest.raises(DataRejected, match=r"none of \[3, 4\]"):
        WORKLOAD.fit(table, facts((4, 4), "uint8", range(5)), Tune())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "regression"}, "is for classes"),
        ({"tensors": {}}, "needs columns of arrays"),
        ({"tensors": {"probabilities": {"dtype": "uint8", "shape": [4, 4]}}}, "rename it"),
    ],
)
def test_facts_that_are_no_case_for_arrays(change: dict[str, Any], said: str) -> None:
    _, table = world((4, 4))
    with pytest.raises(UsageError, match=said):
        WORKLOAD.fit(table, facts((4, 4), "uint8", range(3)) | change, Tune())


def test_the_built_in_network_reads_one_image_or_series() -> None:
    with pytest.raises(UsageError, match=r"`x` has the shape \[8, 9, 10\]"):
        build(world((8, 9, 10))[0])
    one, _ = world((4, 4))
    two = ArrayEncoder((*one.inputs, *one.inputs), "y", "multiclass", (0, 1, 2))
    with pytest.raises(UsageError, match="there are 2: x, x"):
        build(two)


# Networks


def build(fitted: ArrayEncoder, **values: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return WORKLOAD.models["resnet"].build(fitted, VALUES | values)


@pytest.mark.parametrize(
    ("shape", "dtype", "classes"),
    [
        ((28, 28), "uint8", 10), ((1, 8), "float32", 3), ((1, 1), "uint8", 3), ((7, 31, 3), "uint8", 2),
        ((3, 9, 70), "float32", 5), ((1,), "int64", 3), ((2, 300), "int32", 1000), ((100, 3), "float32", 3),
        ((1, 8, 1), "uint8", 3), ((130, 20, 3), "uint8", 3),
    ],
)  # fmt: skip
def test_networks_export_and_answer_as_torch_does(shape: tuple[int, ...], dtype: str, classes: int) -> None:
    fitted, table = world(shape, dtype, classes)
    network = build(fitted)
    trained_for_a_step(network, fitted, table)
    model = onnx_export.WithHead(network.eval(), WORKLOAD.head(fitted))
    core = onnx_export.export_core(
        model, [array[:3] for array in fitted.encode(table)], fitted.input_names, fitted.core_outputs, ()
    )
    assert {opset.domain: opset.version for opset in core.opset_import}[""] == 18
    assert not [node for node in core.graph.node if node.op_type == "Slice"]  # the strided projection is one operator
    session = ort.InferenceSession(onnx_export.finish(fitted.wrap(core), {}).SerializeToString())
    for rows in (1, 7):
        raw = fitted.raw_inputs(table.slice(0, rows))
        found = fitted.answers(dict(zip(fitted.core_outputs, session.run(None, raw), strict=True)))
        with torch.no_grad():
            (expected,) = model(*(torch.from_numpy(array.copy()) for array in raw.values()))
        (answer,) = found.values()
        assert answer.shape == (rows, fitted.width)
        np.testing.assert_allclose(answer, expected.numpy(), atol=2e-5)


def test_the_gradient_of_a_strided_projection_of_few_channels_is_right_where_there_is_only_avx2() -> None:
    script = """if True:
        import torch
        from tasks.core.workloads.array.network import Conv2d

        torch.set_num_threads(1)
        for channels in (4, 7, 8, 9):
            values = torch.randn(40, channels, 28, 28).contiguous(memory_format=torch.channels_last)
            convolution = Conv2d(channels, 8, 1, 2, bias=False).to(memory_format=torch.channels_last)
            plain = torch.nn.Conv2d(channels, 8, 1, 2, bias=False)
            plain.load_state_dict(convolution.state_dict())
            convolution(values).square().sum().backward()
            with torch.backends.mkldnn.flags(enabled=False):
                plain(values.contiguous()).square().sum().backward()
            torch.testing.assert_close(convolution.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-3)
            with torch.no_grad():
                torch.testing.assert_close(convolution(values), plain(values))
    """
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, check=False, env=environment, text=True, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


def trained_for_a_step(network: torch.nn.Module, fitted: ArrayEncoder, table: pa.Table) -> float:
    batch = WORKLOAD.examples(fitted, table)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    loss = WORKLOAD.loss(network.train(), batch, fitted, Tune(augment="flip"))
    loss.backward()
    optimizer.step()
    return float(loss)


def test_the_network_learns_where_the_light_is() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 40, (128, 9, 12, 1)).astype(np.uint8), np.arange(128) % 2
    values[labels == 1, :4] += 100
    table = pa.table({"x": tensors.to_arrow(values), "y": pa.array(labels)})
    fitted = WORKLOAD.fit(table, facts((9, 12, 1), "uint8", range(2)), Tune(class_weights="balanced"))
    network = build(fitted)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(30):
        loss = WORKLOAD.loss(network.train(), WORKLOAD.examples(fitted, table), fitted, Tune())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        probability = torch.sigmoid(network.eval()(torch.from_numpy(values)))[:, 0].numpy()
    assert ((probability > 0.5) == labels).mean() > 0.95


# Augmentation


def read_as(shape: tuple[int, ...]) -> layout.Layout:
    found = layout.of(shape)
    assert found is not None
    return found


def test_images_are_shifted_a_little_and_never_mirrored_by_default() -> None:
    torch.manual_seed(0)
    places = torch.arange(26, dtype=torch.uint8).expand(200, 26, 26)  # each pixel holds its column
    moved = augment.augmented(places, read_as((26, 26)), torch.zeros(1), "auto")
    assert moved.dtype == torch.uint8
    middle = moved[:, 13, 13].int() - 13
    assert set(middle.tolist()) == {-1, 0, 1}
    assert (moved[:, 13].int().diff(dim=1) >= 0).all()  # left stays left
    mirrored = augment.augmented(places, read_as((26, 26)), torch.zeros(1), "flip")
    turned = (mirrored[:, 13].int().diff(dim=1) <= 0).all(dim=1).sum()
    assert 60 < turned < 140
    upright = augment.augmented(places.transpose(1, 2), read_as((26, 26)), torch.zeros(1), "flip")
    assert (upright[:, :, 13].int().diff(dim=1) >= 0).all()  # never upside down


def test_channels_move_together_and_series_change_their_amplitude() -> None:
    torch.manual_seed(0)
    series = torch.randn(50, 40, 1).expand(50, 40, 2) * 3 + torch.tensor([10.0, -5.0])
    moved = augment.augmented(series, read_as((40, 2)), torch.tensor([10.0, -5.0]), "auto")
    torch.testing.assert_close(moved[..., 0] - 10, moved[..., 1] + 5)
    factor = (moved[..., 0] - 10).std(dim=1) / (series[..., 0] - 10).std(dim=1)
    assert 0.8 < factor.min() < 1 < factor.max() < 1.2


def test_augmentation_is_seeded_and_only_while_training() -> None:
    fitted, table = world((12, 12))
    network, batch = build(fitted, dropout=0.0), WORKLOAD.examples(fitted, table)

    def loss(seed: int, **tune: Any) -> float:
        torch.manual_seed(seed)
        return float(WORKLOAD.loss(network, batch, fitted, Tune(**tune)))

    network.train()
    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
    assert loss(1, augment="none") == loss(2, augment="none")
    network.eval()
    assert loss(1) == loss(2)


def test_integers_that_may_be_names_are_left_alone() -> None:
    fitted, table = world((12, 12), "int64")
    network, batch = build(fitted, dropout=0.0), WORKLOAD.examples(fitted, table)
    losses = {float(WORKLOAD.loss(network, batch, fitted, Tune())) for _ in range(3)}
    assert len(losses) == 1


def test_how_an_array_is_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        world((9, 128), model="resnet1d")
    assert "`x` is read as series, 128, 9 channels" in caplog.text
