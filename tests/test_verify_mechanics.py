"""A file must answer by its rows alone: however it is called, and whatever they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import graph_world as graphs
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from deploy.predictor import Predictor
from deploy.signature import Signature, Tensor
from tasks.compress.graph import static
from tasks.core import files
from tasks.core.errors import AssayError, IntegrityError
from tasks.core.measured import Measured
from tasks.core.metrics import find
from tasks.verify import mechanics
from tasks.verify.case import Case, Scorer
from tasks.verify.mechanics import odd_rows, repeats, saturation

FLOAT, ROWS = graphs.FLOAT, 150
SAME, FLOAT_FILE = "the same call in a second process", "float ONNX against the original's own answers"
CLIPPED, VARIED = "share of an activation that int8 clips", "answers that vary"


@dataclass(frozen=True)
class Near(Scorer):
    """A scorer that answers in this process, with the errors of the real one."""

    def answers(
        self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
    ) -> np.ndarray:
        try:
            found = Predictor.open(self.folder, "cpu", threads).predict(columns, batch)
        except AssayError as error:
            raise IntegrityError("a process", f"exit code {error.exit_code}: {error}", "none") from error
        except Exception as error:
            raise IntegrityError("a process", f"exit code 1: {error}", "none") from error
        return next(iter(found.values()))


@dataclass(frozen=True)
class Twice(Near):
    """One that answers the call that is repeated in a process of its own: a seed by chance is drawn once a process."""

    def answers(
        self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
    ) -> np.ndarray:
        repeated = batch == 64 and threads != 1
        return Scorer.answers(self, columns, batch, threads) if repeated else super().answers(columns, batch, threads)


def put(folder: Path, model: onnx.ModelProto, *inputs: Tensor) -> Path:
    """A model with its signature; by default that of the small network."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    given = inputs or (Tensor("x", "FP32", (-1, 16)),)
    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    signature = Signature(given, (Tensor("y", "FP32", (-1, width)),))
    files.write_json(folder / "signature.json", signature.as_dict())
    return folder


def case(
    root: Path,
    shipped: onnx.ModelProto,
    original: onnx.ModelProto | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
    inputs: tuple[Tensor, ...] = (),
    scorer: type[Scorer] = Near,
    judged_batch: int | None = None,
) -> Case:
    """A case whose answers are those of its files."""
    float_model = graphs.mlp() if original is None else original
    rows = graphs.rows(float_model, ROWS) if columns is None else columns
    first = put(root / "original", float_model, *inputs)
    second = put(root / "shipped", shipped, *inputs)
    answers, judged = Near(first).answers(rows), Near(second).answers(rows, judged_batch)
    labels = np.zeros(len(answers), np.int64)
    return Case(
        labels, answers, judged, find("accuracy", "multiclass"), "multiclass", (0, 1, 2, 3), rows, None,
        scorer(first, "cpu"), scorer(second, "cpu"),
    )  # fmt: skip


def by_name(lines: list[Measured]) -> dict[str, Measured]:
    assert all((line.kind, line.fails_as) == ("mechanics", "ANOMALOUS") for line in lines)
    return {line.name: line for line in lines}


def broken(lines: list[Measured]) -> set[str]:
    """Names of the lines that would fail."""
    found = set()
    for line in lines:
        if line.rule == "at_most":
            assert line.loss is not None
            assert line.margin is not None
        if line.problems or (line.loss is not None and line.margin is not None and line.loss > line.margin):
            found.add(line.name)
    return found


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    return static.quantize(model, graphs.rows(model, ROWS, seed=1)).model


def after(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """The model with nodes between its answer, then called ``raw``, and ``y``."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for item in changed.graph.node:
        item.name = f"before/{item.name}"
        item.output[:] = ["raw" if name == "y" else name for name in item.output]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return changed


# In processes of their own.


def test_an_honest_int8_file_passes_everything(tmp_path: Path) -> None:
    lines = mechanics.measure(case(tmp_path, int8(graphs.mlp()), scorer=Scorer))
    assert broken(lines) == set()
    found = by_name(lines)
    assert {FLOAT_FILE, SAME, "batch 1 against 64", "no rows", "missing values", CLIPPED} <= set(found)
    assert found[FLOAT_FILE].n == found[SAME].n == ROWS


# The same rows, asked in several ways.


def test_a_float_file_that_differs_from_the_original(tmp_path: Path) -> None:
    made = case(tmp_path, graphs.mlp())
    assert broken(repeats.float_file(made)) == set()
    stale = replace(made, original=made.original * np.float32(1.01))
    assert broken(repeats.float_file(stale)) == {FLOAT_FILE}
    assert repeats.float_file(replace(made, original_file=None)) == []


def test_answers_by_chance_are_not_deterministic(tmp_path: Path) -> None:
    noise = helper.make_node("RandomNormalLike", ["raw"], ["noise"], scale=1e-4)
    model = after(graphs.mlp(), noise, graphs.node("Add", "raw noise", "y"))
    found = by_name(repeats.repeated(case(tmp_path, model, scorer=Twice)))
    assert "not deterministic" in found[SAME].problems[0]


def test_answers_that_depend_on_the_batch(tmp_path: Path) -> None:
    mean = helper.make_node("ReduceMean", ["raw", "first"], ["mean"], keepdims=1)
    model = after(graphs.mlp(), mean, graphs.node("Sub", "raw mean", "y"), first_axis=np.array([0]))
    model.graph.node[-2].input[1] = "first_axis"
    found = broken(repeats.repeated(case(tmp_path, model)))
    assert {"batch 1 against 64", "batch 7, rows shuffled, against 64"} <= found
    assert SAME not in found


def test_edited_answers(tmp_path: Path) -> None:
    made = case(tmp_path, graphs.mlp())
    edited = made.shipped.copy()
    edited[:, 0] += 1
    assert broken(repeats.repeated(replace(made, shipped=edited))) == {"now against when it was judged"}


def test_answers_of_another_shape_or_with_nan_are_not_alike(tmp_path: Path) -> None:
    made = case(tmp_path, graphs.mlp())
    for wrong in (made.original[:, :2], np.where(made.original > 0, np.nan, made.original)):
        line = repeats.float_file(replace(made, original=wrong))[0]
        assert (line.rule, line.loss) == ("nothing_found", None)
        assert "not alike" in line.problems[0]


def test_a_file_of_a_fixed_batch_axis_does_not_answer(tmp_path: Path) -> None:
    lines = repeats.repeated(case(tmp_path, graphs.mlp(batch=1), judged_batch=1))
    assert len(lines) == 1
    assert "it does not answer" in lines[0].problems[0]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([np.nan, np.inf], [np.nan, np.inf], 0.0),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([1, 2, 3, 4], [1, 2, 4, 3], 0.5),
        (["a", "b"], ["a", "c"], 0.5),
        ([1.0], [1.0, 1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_the_distance_of_answers(one: list[Any], other: list[Any], wanted: float) -> None:
    assert repeats.distance(np.array(one), np.array(other), 2.0) == wanted


# Odd rows.


def guarded() -> onnx.ModelProto:
    """The small network behind a guard: what is missing is 0, and everything lies between -3 and 3."""
    model = graphs.mlp()
    for item in model.graph.node:
        item.input[:] = ["safe" if name == "x" else name for name in item.input]
    guards = [
        graphs.node("IsNaN", "x", "absent"), graphs.node("Where", "absent none x", "known"),
        graphs.node("Clip", "known low high", "safe"),
    ]  # fmt: skip
    nodes = [*guards, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name, value in {"none": 0, "low": -3, "high": 3}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model


def test_what_the_original_answers_must_be_answered(tmp_path: Path) -> None:
    found = by_name(odd_rows.measure(case(tmp_path / "lost", graphs.mlp(), guarded())))
    assert "x = nan: NaN or infinite" in found["missing values"].problems[0]
    assert len(found["infinite values"].problems) == 2
    assert broken(odd_rows.measure(case(tmp_path / "kept", guarded(), guarded()))) == set()


def test_where_the_original_has_no_answer_none_is_asked_and_it_is_told(tmp_path: Path) -> None:
    lines = odd_rows.measure(case(tmp_path, graphs.mlp()))
    assert broken(lines) == set()
    assert "x = nan: NaN or infinite" in by_name(lines)["missing values"].note


def texts(unseen: float) -> onnx.ModelProto:
    """Text t -> a number, ``unseen`` for unknown texts; INT64 i beside it, by which a table of 5 rows is read."""
    encode = helper.make_node(
        "LabelEncoder", ["t"], ["code"], "code", domain="ai.onnx.ml", keys_strings=["a", "b", ""],
        values_floats=[1.0, 2.0, 0.5], default_float=unseen,
    )  # fmt: skip
    nodes = [encode, graphs.node("Gather", "table i", "row"), graphs.node("Reshape", "row flat", "flat_row")]
    model = helper.make_model(
        helper.make_graph(
            [*nodes, graphs.node("Add", "flat_row code", "y")],
            "texts",
            [
                helper.make_tensor_value_info("t", TensorProto.STRING, ["N", 1]),
                helper.make_tensor_value_info("i", graphs.INT64, ["N", 1]),
            ],
            [helper.make_tensor_value_info("y", FLOAT, ["N", 1])],
            [
                numpy_helper.from_array(graphs.normal(5), "table"),
                numpy_helper.from_array(np.array([-1, 1]), "flat"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


def clipped_index(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with any index within the table."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node[1].input[1] = "index"
    changed.graph.node.insert(0, graphs.node("Clip", "i least most", "index"))
    changed.graph.initializer.extend(
        [numpy_helper.from_array(np.array(0), "least"), numpy_helper.from_array(np.array(4), "most")]
    )
    return changed


TEXTS = (Tensor("t", "BYTES", (-1, 1)), Tensor("i", "INT64", (-1, 1)))


def of_texts(root: Path, shipped: onnx.ModelProto, original: onnx.ModelProto) -> Case:
    columns = {"t": np.array(["a", "b"] * 10), "i": np.arange(20) % 5}
    return case(root, shipped, original, columns, TEXTS)


def test_an_unseen_category_that_has_lost_its_answer(tmp_path: Path) -> None:
    safe = clipped_index(texts(0.0))
    assert broken(odd_rows.measure(of_texts(tmp_path / "kept", safe, safe))) == set()
    found = by_name(odd_rows.measure(of_texts(tmp_path / "lost", clipped_index(texts(np.nan)), safe)))
    assert broken(list(found.values())) == {"unseen values"}
    assert "t = 'no such value" in found["unseen values"].problems[0]


def test_a_row_that_ends_the_call_is_found_among_the_others(tmp_path: Path) -> None:
    found = by_name(odd_rows.measure(of_texts(tmp_path, texts(0.0), clipped_index(texts(0.0)))))
    assert broken(list(found.values())) == {"missing values", "extreme values"}
    assert len(found["missing values"].problems) == 1  # a missing text is answered
    assert "i = -9223372036854775808: failed" in found["missing values"].problems[0]
    assert len(found["extreme values"].problems) == 1  # -1 is the table's last row


def test_a_file_that_fails_always_costs_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = case(tmp_path, graphs.mlp())
    calls = []

    def fails(*_: Any, **__: Any) -> np.ndarray:
        calls.append(1)
        raise IntegrityError("a process", "exit code -11: ", "none")

    odd = odd_rows.oddities(Tensor("x", "FP32", (-1, 16))) * 20
    columns = {"x": made.columns["x"][:1]}
    monkeypatch.setattr(Near, "answers", fails)
    assert len(odd_rows.answered(made.shipped_file, columns, odd)) == len(odd)
    assert len(calls) <= 16


def test_a_rejection_by_the_original_must_stay_one(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Rejecting(Near):
        def answers(
            self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
        ) -> np.ndarray:
            raise IntegrityError("a process", "exit code 3: rows must have the columns", "none")

    made = case(tmp_path, guarded(), guarded())
    assert made.original_file is not None
    found = odd_rows.measure(replace(made, original_file=Rejecting(made.original_file.folder)))
    assert "missing values" in broken(found)
    assert "the original rejects the row" in by_name(found)["missing values"].problems[0]


def test_no_rows_have_no_answers(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Inventing(Near):
        def answers(
            self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
        ) -> np.ndarray:
            rows = max(1, len(columns["x"]))
            return np.zeros((rows, 4), np.float32)

    made = case(tmp_path, guarded(), guarded())
    found = by_name(odd_rows.measure(replace(made, shipped_file=Inventing(made.shipped_file.folder))))
    assert found["no rows"].problems == ("no rows are answered with 1",)


def test_odd_values_fit_their_datatype() -> None:
    for datatype in ("BOOL", "UINT8", "INT8", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"):
        tensor = Tensor("x", datatype, (-1, 1))
        for _, _, value in odd_rows.oddities(tensor):
            Signature((tensor,), (tensor,)).tensors({"x": np.array([value])})


# Saturation.


def shrunk(model: onnx.ModelProto, factor: float) -> onnx.ModelProto:
    """The model with smaller scales of all its activations."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    scales = {item.input[1] for item in changed.graph.node if item.op_type == "QuantizeLinear"}
    for tensor in changed.graph.initializer:
        if tensor.name in scales:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / np.float32(factor), tensor.name))
    return changed


@pytest.mark.parametrize("make", [graphs.mlp, graphs.cnn])
def test_saturated_int8(tmp_path: Path, make: Any) -> None:
    original = make()
    good = int8(original)
    inputs = (Tensor("x", "FP32", (-1, *graphs.rows(original, 1)["x"].shape[1:])),)
    honest = by_name(saturation.measure(case(tmp_path / "good", good, original, inputs=inputs)))
    assert honest[CLIPPED].loss is not None
    assert honest[CLIPPED].loss < 0.05
    assert "of" in honest[CLIPPED].note
    crushed = saturation.measure(case(tmp_path / "bad", shrunk(good, 1000), original, inputs=inputs))
    assert CLIPPED in broken(crushed)
    assert by_name(crushed)[CLIPPED].loss == pytest.approx(1, abs=0.1)


def test_a_folded_relu_is_no_saturation(tmp_path: Path) -> None:
    """Half of what it is given lies below its range, on purpose."""
    relu = graphs.model(
        [
            graphs.node("QuantizeLinear", "x scale zero", "q"),
            graphs.node("DequantizeLinear", "q scale zero", "y"),
        ],
        {"x": (FLOAT, ["N", 16])},
        {"y": (FLOAT, ["N", 16])},
        {"scale": np.array(0.02, np.float32), "zero": np.array(0, np.uint8)},
    )
    line = by_name(saturation.measure(case(tmp_path, relu, relu)))[CLIPPED]
    assert line.loss is not None
    assert line.loss < 0.01


def test_one_answer_for_everything(tmp_path: Path) -> None:
    constant = after(graphs.mlp(), graphs.node("Mul", "raw none", "y"), none=np.array(0, np.float32))
    assert broken(saturation.measure(case(tmp_path, constant))) == {VARIED}
    made = case(tmp_path / "both", constant, constant)
    assert broken(saturation.measure(made)) == set()


def test_a_truncated_file_is_a_problem_of_each_check_and_no_traceback(tmp_path: Path) -> None:
    made = case(tmp_path, graphs.mlp())
    path = made.shipped_file.folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    lines = mechanics.measure(made)
    assert {"an answer at batch 64", "no rows", CLIPPED} <= broken(lines)
