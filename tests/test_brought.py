"""Trained weights and finished ONNX files brought in from outside: through every room, or refused with all reasons."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import brought_world
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import worlds
from onnx import TensorProto, helper
from safetensors.torch import load_file, save_file

from deploy.predictor import Predictor
from tasks.compress import graph
from tasks.core import files, manifest, original
from tasks.core.brought import bind, outputs
from tasks.core.brought.original import admit
from tasks.core.errors import DataRejected, IntegrityError, SettingsError, UsageError
from tasks.core.settings import Tune, parse
from tasks.core.stage import run_stage

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
REST = ("compress", "verify", "export")


def world(root: Path, tune: dict[str, Any], **sections: dict[str, Any]) -> Any:
    """A tiny world whose `tune` starts from a file."""
    return worlds.write(root, {"tune": tune} | sections)


def bundle(root: Path) -> Path:
    (found,) = (root / "dist" / "tiny").glob("[0-9]*")
    return found


# Weights.


@pytest.fixture
def trained(tiny: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights of the tiny world's best trial, and the space that fixes its shape."""
    (best, *_) = files.read_json(tiny / "artifacts" / "tune" / "models.json")
    return load_file(tiny / "artifacts" / "tune" / best["file"]), best["values"]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_fit_are_the_original_without_a_search(
    tmp_path: Path, tiny: Path, trained: Any, suffix: str
) -> None:
    state, values = trained
    params = world(tmp_path / "w", {"start_from": f"mine.{suffix}", "space": values})
    path = tmp_path / "w" / f"mine.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    found = run_stage("tune", params, tmp_path / "w")
    out = tmp_path / "w" / "artifacts" / "tune"
    (searched, *_) = files.read_json(tiny / "artifacts" / "tune" / "models.json")
    assert files.read_json(out / "models.json")[0]["score"] == pytest.approx(searched["score"], abs=1e-6)
    with (out / "trials.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["trial"], line["state"]) == ("0", "brought")
    assert found.facts["brought"] == {"file": path.name, "sha256": files.sha256(path)}
    if suffix == "safetensors":
        for stage in REST:
            run_stage(stage, params, tmp_path / "w")
        card = (bundle(tmp_path / "w") / "README.md").read_text()
        assert "ACCEPT" in card
        assert "for its maker to say" in card
        assert "Nothing was trained" not in card


def test_a_space_that_leaves_the_shape_open_is_refused_with_every_name(tmp_path: Path) -> None:
    params = world(tmp_path, {"start_from": "mine.safetensors"})
    with pytest.raises(UsageError, match=r"tune\.space says what the trained network is") as caught:
        run_stage("tune", params, tmp_path)
    assert caught.value.found == "not fixed: hidden (a list of choices), dropout (a range)"


def test_weights_that_do_not_fit_are_refused_with_every_misfit(tmp_path: Path, trained: Any) -> None:
    state, values = dict(trained[0]), trained[1]
    names = [name for name, value in state.items() if value.ndim == 2][:2]
    state[names[0]] = state[names[0]].half()
    state[names[1]] = state[names[1]][:-1].contiguous()
    last = list(state)[-1]
    state["stranger"] = state.pop(last)
    params = world(tmp_path, {"start_from": "mine.safetensors", "space": values})
    save_file(state, tmp_path / "mine.safetensors")
    with pytest.raises(UsageError) as caught:
        run_stage("tune", params, tmp_path)
    for told in (f"missing: {last}", "unexpected: stranger", f"wrong shape: {names[1]}", f"wrong dtype: {names[0]}"):
        assert told in caught.value.found


def test_weights_that_are_no_numbers_do_not_fit(tmp_path: Path, trained: Any) -> None:
    state, values = dict(trained[0]), trained[1]
    name = next(iter(state))
    state[name] = torch.full_like(state[name], torch.nan)
    params = world(tmp_path, {"start_from": "mine.pt", "space": values})
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(UsageError, match=f"not finite: {name}"):
        run_stage("tune", params, tmp_path)


class Evil:
    """A pickle that would make a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "make", "error", "told"),
    [
        ("mine.pt", lambda path: torch.save({"w": Evil(path.with_name("run"))}, path), IntegrityError, "no code"),
        ("mine.pt", lambda path: path.write_bytes(b"PK\x03\x04 broken"), IntegrityError, "whole state dict"),
        ("mine.pt", lambda path: torch.save({"state_dict": {"w": torch.ones(1)}}, path), UsageError, "state_dict"),
        ("mine.pt", lambda path: torch.save([1, 2], path), UsageError, "holds list"),
        ("mine.safetensors", lambda path: path.write_bytes(b"\xff" * 40), IntegrityError, "must be whole"),
        ("mine.safetensors", lambda path: None, UsageError, "does not exist"),
    ],
)  # fmt: skip
def test_a_broken_file_of_weights(tmp_path: Path, trained: Any, name: str, make: Any, error: Any, told: str) -> None:
    params = world(tmp_path, {"start_from": name, "space": trained[1]})
    make(tmp_path / name)
    with pytest.raises(error, match=told):
        run_stage("tune", params, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "tune", [{"start_from": "mine.bin"}, {"output": "y"}, {"start_from": "mine.onnx", "model": "mlp"}]
)
def test_settings_that_contradict_each_other(tune: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        parse(worlds.params({"tune": tune}))


# A finished file.


@pytest.mark.parametrize(
    ("theirs", "outputs_shipped"),
    [
        (brought_world.network(), ["score"]),
        (brought_world.network("Identity"), ["probability", "score"]),
        (brought_world.network("Softmax", 2), ["probability", "score"]),
        (brought_world.network("Identity", 2, double=True, opset=13), ["probability", "score"]),
    ],
    ids=["probability", "logit", "two probabilities", "two float64 logits"],
)
def test_a_finished_file_goes_through_every_room(
    tmp_path: Path, theirs: onnx.ModelProto, outputs_shipped: list[str]
) -> None:
    params = world(tmp_path, {"start_from": "theirs.onnx"})
    path = brought_world.save(theirs, tmp_path / "theirs.onnx")
    for stage in ("tune", *REST):
        run_stage(stage, params, tmp_path)
    kept = tmp_path / "artifacts" / "tune" / "original.onnx"
    assert kept.read_bytes() == path.read_bytes()
    (line,) = files.read_json(tmp_path / "artifacts" / "verify" / "verdict.json")["lines"]
    assert line["original"] > 0.65
    shipped = bundle(tmp_path)
    predictor = Predictor.load(shipped, "cpu")
    assert [tensor.name for tensor in predictor.signature.outputs] == outputs_shipped
    assert [tensor.name for tensor in predictor.signature.inputs] == ["features"]
    assert onnx.load(shipped / "model.onnx").opset_import[0].version == theirs.opset_import[0].version
    card = (shipped / "README.md").read_text()
    assert "`theirs.onnx`, brought in from outside" in card
    assert "Preprocessing is inside" not in card
    assert "nearest one inside" not in card
    assert "for its maker to say" in card
    rows = pq.read_table(tmp_path / "artifacts" / "validate" / "test.parquet").slice(0, 40)
    model = original.load(tmp_path / "artifacts" / "tune")
    assert model.encoder.columns == list(brought_world.FEATURES)  # in file order, not in that of the manifest
    answers = predictor.predict(model.encoder.raw_inputs(rows))[outputs_shipped[0]]
    np.testing.assert_allclose(answers, model.predict(rows), atol=0.1)


def test_the_compressed_file_is_smaller_and_is_what_was_judged(tmp_path: Path) -> None:
    params = world(tmp_path, {"start_from": "theirs.onnx"})
    brought_world.save(brought_world.network(), tmp_path / "theirs.onnx")
    for stage in ("tune", "compress", "verify"):
        run_stage(stage, params, tmp_path)
    candidates = {line["name"]: line for line in files.read_json(tmp_path / "artifacts/compress/candidates.json")}
    assert set(candidates) == {"fp32", "int8"}
    assert candidates["int8"]["value"] == pytest.approx(candidates["fp32"]["value"], abs=0.02)
    judged = pq.read_table(tmp_path / "artifacts" / "verify" / "predictions.parquet")
    assert np.abs(judged["original"].to_numpy() - judged["shipped"].to_numpy()).max() < 0.1


def test_an_old_opset_is_kept_and_raised_only_where_int8_needs_it(tmp_path: Path) -> None:
    params = world(tmp_path, {"start_from": "theirs.onnx"})
    theirs = brought_world.network(opset=11)
    theirs.ir_version = 6
    brought_world.save(theirs, tmp_path / "theirs.onnx")
    for stage in ("tune", "compress"):
        run_stage(stage, params, tmp_path)
    built = {name: onnx.load(tmp_path / "artifacts" / "compress" / f"{name}.onnx") for name in ("fp32", "int8")}
    assert {name: found.opset_import[0].version for name, found in built.items()} == {"fp32": 11, "int8": 13}
    assert built["fp32"].ir_version == 6


def test_int8_of_a_model_with_nothing_to_quantize_is_the_model() -> None:
    theirs = sums()
    treated = graph.find("int8")(theirs, {"a": np.zeros((8, 1), np.float32)})
    assert treated.model == theirs
    assert treated.report["nothing"]


def test_external_data_beside_the_file_ends_up_inside(tmp_path: Path) -> None:
    params = world(tmp_path, {"start_from": "theirs/net.onnx"})
    (tmp_path / "theirs").mkdir()
    onnx.save(
        brought_world.network(), tmp_path / "theirs" / "net.onnx", save_as_external_data=True, location="net.data",
        size_threshold=64,
    )  # fmt: skip
    run_stage("tune", params, tmp_path)
    shutil.rmtree(tmp_path / "theirs")
    model = original.load(tmp_path / "artifacts" / "tune")
    rows = pq.read_table(tmp_path / "artifacts" / "validate" / "test.parquet")
    assert np.isfinite(model.predict(rows)).all()


def facts(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "columns": {"a": "float64", "b": "int64", "word": "string", "y": "int64"},
        "tensors": {},
        "target": "y",
        "task": "binary",
        "classes": [0, 1],
        "split": {"by": "random"},
        "time_column": None,
    }
    return found | changes


def rows(**columns: Any) -> pa.Table:
    given = {"a": [0.5, None, -3.0], "b": [1, 2, 3], "word": ["x", None, "z"], "y": [0, 1, 1]} | columns
    return pa.table({name: pa.array(values) for name, values in given.items()})


def refusal(tmp_path: Path, found: onnx.ModelProto, about: dict[str, Any] | None = None, **tune: Any) -> str:
    """Why a model is refused."""
    path = brought_world.save(found, tmp_path / "theirs.onnx")
    with pytest.raises(UsageError) as caught:
        admit(path, about or facts(), Tune(**tune), rows(), tmp_path / "kept.onnx")
    return str(caught.value)


def sums(nodes: str = "Sigmoid", **more: Any) -> onnx.ModelProto:
    """p = sigmoid(a) of a column "a"."""
    return brought_world.model(
        [helper.make_node(nodes, ["a"], ["p"], **more)], {"a": (FLOAT, ["N", 1])}, {"p": (FLOAT, ["N", 1])}
    )


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    found = brought_world.model(
        [
            helper.make_node("Magic", ["a"], ["p"], domain="com.acme"),
            helper.make_node("Identity", ["nobody"], ["q"]),
            helper.make_node("Identity", ["word"], ["w"]),
        ],
        {"a": (FLOAT, ["N", 1]), "nobody": (INT64, ["N", 4]), "word": (FLOAT, ["N", 1])},
        {"p": (FLOAT, ["N", 3]), "q": (INT64, ["N", 4]), "w": (FLOAT, ["N", 1])},
        domains=("com.acme",),
    )
    told = refusal(tmp_path, found)
    assert "custom operators, which nobody else's runtime has: com.acme.Magic" in told
    assert "input `nobody`: no data of that name" in told
    assert "input `word`: takes FP32, and the column is string" in told
    assert "2 float outputs (p, w): name one under tune.output" in told
    assert not (tmp_path / "kept.onnx").exists()


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin", "link.bin"])
def test_external_data_outside_the_files_folder_is_never_read(tmp_path: Path, place: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"\0" * (1 << 16))
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    found = brought_world.network()
    tensor = next(item for item in found.graph.initializer if item.name == "middle")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    path = home / "theirs.onnx"
    path.write_bytes(found.SerializeToString())
    with pytest.raises(UsageError, match="outside the file's own folder"):
        admit(path, facts(), Tune(), rows(), tmp_path / "kept.onnx")


def test_external_data_that_is_not_there(tmp_path: Path) -> None:
    onnx.save(
        brought_world.network(), tmp_path / "x.onnx", save_as_external_data=True, location="x.data", size_threshold=64
    )
    (tmp_path / "x.data").unlink()
    with pytest.raises(UsageError, match=r"external data that is not there: 'x\.data'"):
        admit(tmp_path / "x.onnx", facts(), Tune(), rows(), tmp_path / "kept.onnx")


@pytest.mark.parametrize("content", [b"", b"no protobuf at all \xff\xff"])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises((IntegrityError, UsageError)):
        admit(tmp_path / "x.onnx", facts(), Tune(), rows(), tmp_path / "kept.onnx")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        admit(tmp_path / "x.onnx", facts(), Tune(), rows(), tmp_path / "kept.onnx")


def test_answers_of_another_width_than_the_classes(tmp_path: Path) -> None:
    found = brought_world.network("Softmax", 4)
    about = facts(task="multiclass", classes=[0, 1, 2])
    told = refusal(tmp_path, found, about)
    assert "shape [-1, 4], and multiclass needs 3 values a row (3 classes in the data: [0, 1, 2])" in told


def test_features_of_another_number_than_the_numeric_columns(tmp_path: Path) -> None:
    assert "takes 6 features, and there are 2 numeric columns: a, b" in refusal(tmp_path, brought_world.network())


def test_a_sequence_of_maps_is_refused_with_the_way_out(tmp_path: Path) -> None:
    zipmap = brought_world.model(
        [
            helper.make_node("Concat", ["a", "a"], ["two"], axis=1),
            helper.make_node("ZipMap", ["two"], ["p"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
        ],
        {"a": (FLOAT, ["N", 1])},
        {"p": (FLOAT, ["N", 2])},
        domains=("ai.onnx.ml",),
    )
    del zipmap.graph.output[:]
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, [])))
    zipmap.graph.output.append(helper.make_value_info("p", kind))
    assert "output `p` is no tensor (of sklearn models: convert with options={'zipmap': False})" in refusal(
        tmp_path, zipmap
    )


def test_a_fixed_batch_is_refused(tmp_path: Path) -> None:
    found = brought_world.model(
        [helper.make_node("Sigmoid", ["a"], ["p"])], {"a": (FLOAT, [1, 1])}, {"p": (FLOAT, [1, 1])}
    )
    told = refusal(tmp_path, found)
    assert "input `a` takes exactly 1 rows at a time" in told
    assert "output `p` has no batch axis" in told


def test_an_operator_that_onnxruntime_does_not_know(tmp_path: Path) -> None:
    found = sums("NoSuchThing", domain="com.microsoft")
    found.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "must load in onnxruntime" in refusal(tmp_path, found)


def test_an_operator_of_com_microsoft_that_onnxruntime_has(tmp_path: Path) -> None:
    found = brought_world.model(
        [helper.make_node("FastGelu", ["a"], ["p"], domain="com.microsoft")],
        {"a": (FLOAT, ["N", 1])}, {"p": (FLOAT, ["N", 1])}, domains=("com.microsoft",),
    )  # fmt: skip
    path = brought_world.save(found, tmp_path / "theirs.onnx")
    data = rows(a=[0.5, 4.0, -3.0])
    model = admit(path, facts(), Tune(), data, tmp_path / "kept.onnx")
    assert model.encoder.reading.kind == "logits"
    assert model.predict(data).shape == (3, 1)


def test_answers_that_are_not_finite(tmp_path: Path) -> None:
    assert "of its answers to the validation rows are not finite" in refusal(tmp_path, sums())


def test_numbers_that_are_neither_probabilities_nor_logits() -> None:
    strange = np.array([[0.9, 0.8, 0.1], [0.2, 0.2, 0.2]], np.float32)
    reading, problem = outputs.read("p", strange, "multiclass", set(), "FP32")
    assert reading is None
    assert "do not add to 1" in problem


def test_a_recommender_is_no_finished_file(tmp_path: Path) -> None:
    assert "must classify or estimate" in refusal(tmp_path, sums(), facts(task="ranking"))


def test_a_missing_integer_cannot_be_said_to_a_graph_of_integers(tmp_path: Path) -> None:
    found = brought_world.model(
        [helper.make_node("Cast", ["b"], ["p"], to=FLOAT)], {"b": (INT64, ["N", 1])}, {"p": (FLOAT, ["N", 1])}
    )
    path = brought_world.save(found, tmp_path / "theirs.onnx")
    with pytest.raises(DataRejected, match="no way to say that a value is missing"):
        admit(path, facts(), Tune(), rows(b=[1, None, 3]), tmp_path / "kept.onnx")


def test_several_named_inputs_of_several_types_and_several_outputs(tmp_path: Path) -> None:
    found = brought_world.model(
        [
            helper.make_node("Cast", ["b"], ["b_as_float"], to=FLOAT),
            helper.make_node("Sigmoid", ["b_as_float"], ["p"]),
            helper.make_node("Identity", ["word"], ["echo"]),
            helper.make_node("Cast", ["rest"], ["wide"], to=FLOAT),
        ],
        {"b": (INT64, ["N"]), "word": (TensorProto.STRING, ["N", 1]), "rest": (TensorProto.DOUBLE, ["N", "F"])},
        {"echo": (TensorProto.STRING, ["N", 1]), "p": (FLOAT, ["N"]), "wide": (FLOAT, ["N", "F"])},
    )
    path = brought_world.save(found, tmp_path / "theirs.onnx")
    model = admit(path, facts(), Tune(output="p", start_from="theirs.onnx"), rows(), tmp_path / "kept.onnx")
    raw = model.encoder.raw_inputs(rows())
    assert {name: (array.dtype.kind, array.shape) for name, array in raw.items()} == {
        "b": ("i", (3,)), "word": ("U", (3, 1)), "rest": ("f", (3, 1)),
    }  # fmt: skip
    assert raw["rest"].dtype == np.float64
    np.testing.assert_allclose(model.predict(rows())[:, 0], 1 / (1 + np.exp(-np.array([1, 2, 3]))), rtol=1e-5)
    shipped = onnx.load(tmp_path / "kept.onnx")
    wrapped = model.encoder.wrap(shipped)
    onnx.checker.check_model(wrapped, full_check=True)
    assert [item.name for item in wrapped.graph.output] == ["echo", "p", "wide", "probability"]
    assert [tensor.name for tensor in model.encoder.signature().outputs] == ["probability", "echo", "p", "wide"]
    from tasks.core.brought import encoder

    assert encoder.restore(files.read_json(_json(tmp_path, model.encoder.as_dict()))) == model.encoder


def _json(folder: Path, value: Any) -> Path:
    files.write_json(folder / "value.json", value)
    return folder / "value.json"


def test_a_regression_takes_one_value(tmp_path: Path) -> None:
    path = brought_world.save(sums("Identity"), tmp_path / "theirs.onnx")
    data = rows(a=[1.0, 2.0, 3.0], y=[0.5, 1.5, 2.5])
    model = admit(path, facts(task="regression", classes=[]), Tune(), data, tmp_path / "kept.onnx")
    assert (model.encoder.reading.kind, model.encoder.reading.answer) == ("values", "p")
    np.testing.assert_array_equal(model.predict(data), [[1], [2], [3]])
    np.testing.assert_array_equal(model.encoder.labels(data), np.float32([0.5, 1.5, 2.5]))


def test_arrays_are_bound_by_name_or_because_there_is_only_one() -> None:
    about = facts(columns={"y": "int64"}, tensors={"x": {"dtype": "uint8", "shape": [3, 8]}})
    free = bind.Value("pixels", "FP32", (-1, 3, -1))
    (found,), problems = bind.bind([free], about, ())
    assert (found.columns, problems) == (("x",), [])
    _, problems = bind.bind([free, bind.Value("x", "INT64", (-1, 4, 8))], about, ())
    assert problems == [
        "input `pixels`: no data of that name (rename the input or the column)",
        "input `x`: takes [any, 4, 8], and `x` holds [any, 3, 8]",
    ]


def test_a_changed_file_changes_the_manifest(tmp_path: Path) -> None:
    params = world(tmp_path, {"start_from": "theirs.onnx"})
    brought_world.save(brought_world.network(), tmp_path / "theirs.onnx")
    first = run_stage("tune", params, tmp_path)
    brought_world.save(brought_world.network("Identity"), tmp_path / "theirs.onnx")
    second = run_stage("tune", params, tmp_path)
    assert first.facts["brought"] != second.facts["brought"]
    assert manifest.read(tmp_path / "artifacts" / "tune").files["original.onnx"].role == "checkpoint"
