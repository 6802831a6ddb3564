"""What a shipped file must be: every fault of a file and its folder is named."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import graph_world as graphs
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tasks.core import files, model_file
from tasks.core.errors import IntegrityError
from tasks.verify.mechanics import budgets


def folder(root: Path, model: onnx.ModelProto) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    onnx.save(model, root / "model.onnx")
    files.write_json(root / "signature.json", {})
    return root


def problems(root: Path, sha256: str | None = None, original: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Problems by the line that tells them."""
    lines = model_file.measure(root, sha256, original)
    assert all((line.kind, line.rule, line.fails_as) == ("mechanics", "nothing_found", "ANOMALOUS") for line in lines)
    return {line.name: line.problems for line in lines if line.problems}


def with_weight(value: float) -> onnx.ModelProto:
    model = graphs.mlp()
    weight = model.graph.initializer[0]
    values = np.array(numpy_helper.to_array(weight))
    values[3, 3] = value
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return model


def test_an_honest_file_has_no_problem(tmp_path: Path) -> None:
    root = folder(tmp_path, graphs.mlp())
    np.savez(root / "golden.npz", x=np.zeros(3))
    assert problems(root, files.sha256(root / "model.onnx")) == {}


def test_the_shipped_file_of_the_pipeline_has_no_problem(tiny: Path) -> None:
    """Its calendar holds a NaN, which stands for a missing moment."""
    root = tiny / "artifacts" / "compress"
    assert problems(root, files.sha256(root / "model.onnx")) == {}


def test_the_newest_opset_is_the_one_that_is_written() -> None:
    from tasks.core.workloads import onnx_export

    assert (model_file.OPSET, model_file.IR_VERSION) == (onnx_export.OPSET, onnx_export.IR_VERSION)


def custom_operator() -> onnx.ModelProto:
    model = graphs.mlp()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Relu2", "my.company"
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    return model


def of_ir(version: int) -> onnx.ModelProto:
    model = graphs.mlp()
    model.ir_version = version
    return model


FAULTS: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "fixed batch axis": (lambda: graphs.mlp(batch=1), "batch axis", "x has a fixed batch axis of 1"),
    "NaN weights": (lambda: with_weight(np.nan), "finite weights", "w1: 1 of 1024 weights are NaN or infinite"),
    "infinite weights": (lambda: with_weight(np.inf), "finite weights", "w1: 1 of 1024"),
    "custom operator": (custom_operator, "onnx.checker and operators", "custom operators"),
    "opset too new": (lambda: graphs.mlp(opset=21), "opset and IR version", "opset 21 is newer than 18"),
    "IR too new": (lambda: of_ir(11), "opset and IR version", "IR version 11 is newer than 10"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path: Path, fault: str) -> None:
    make, line, words = FAULTS[fault]
    found = problems(folder(tmp_path, make()))
    assert set(found) == {line}
    assert words in found[line][0]


def test_a_users_own_file_may_be_newer_and_so_may_what_is_made_of_it(tmp_path: Path) -> None:
    original = folder(tmp_path / "original", graphs.mlp(opset=20)) / "model.onnx"
    newer = folder(tmp_path / "shipped", graphs.mlp(opset=20))
    assert "opset and IR version" in problems(newer)
    assert problems(newer, original=original) == {}


def test_marks_and_masks_are_no_broken_weights() -> None:
    def model(constant: np.ndarray, kind: str, inputs: str) -> onnx.ModelProto:
        return graphs.model(
            [graphs.node("IsNaN", "x", "absent"), graphs.node(kind, inputs, "y")],
            {"x": (graphs.FLOAT, ["N", 2])}, {"y": (graphs.FLOAT, ["N", 2])}, {"c": constant},
        )  # fmt: skip

    nan, mask = np.float32(np.nan), np.array([0, -np.inf], np.float32)
    assert model_file.weight_problems(model(np.array(nan), "Where", "absent c x")) == []
    assert model_file.weight_problems(model(mask, "Add", "x c")) == []
    assert model_file.weight_problems(model(np.array(nan), "Mul", "x c")) != []
    assert model_file.weight_problems(model(-mask, "Add", "x c")) != []


def test_a_scalar_has_no_batch_axis() -> None:
    model = graphs.mlp()
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    assert model_file.batch_axis_problems(model) == ["x has no batch axis"]


def test_external_data(tmp_path: Path) -> None:
    root = folder(tmp_path, graphs.mlp())
    onnx.save(
        graphs.mlp(), root / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )  # fmt: skip
    found = problems(root)
    assert "'weights.bin'" in found["external data"][0]
    assert found["files of the folder"] == ("weights.bin is none of .json, .npz, .onnx",)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_a_problem_and_no_traceback(tmp_path: Path, share: float) -> None:
    root = folder(tmp_path, graphs.mlp())
    path = root / "model.onnx"
    whole, data = files.sha256(path), path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    found = problems(root, whole)
    assert set(found) == {"the file that was made", "a readable model"}


def test_a_missing_file(tmp_path: Path) -> None:
    assert set(problems(tmp_path, "0" * 64)) == {"the file that was made", "a readable model"}


def test_a_swapped_file(tmp_path: Path) -> None:
    root = folder(tmp_path, graphs.mlp())
    made = files.sha256(root / "model.onnx")
    onnx.save(with_weight(0.5), root / "model.onnx")
    assert set(problems(root, made)) == {"the file that was made"}


def test_links_are_refused_and_not_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "bundle", graphs.mlp())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "file.json").symlink_to(root / "signature.json")
    assert model_file.folder_problems(root) == ["file.json is a link", "folder is a link"]


@pytest.mark.parametrize("name", ["weights.pkl", "deeper/model.pt", "script.py", "no_suffix"])
def test_files_of_other_types(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    assert model_file.folder_problems(tmp_path) == [f"{name} is none of .json, .npz, .onnx"]


@pytest.mark.parametrize("name", ["facts.json", "rows.npz", "another.onnx"])
def test_a_pickle_by_another_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    assert model_file.folder_problems(tmp_path) == [f"{name} is a pickle, whatever its name says"]


def test_a_pickle_inside_of_an_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.array([{"a": 1}], object))
    assert "rows.npz is not what its name says" in model_file.folder_problems(tmp_path)[0]


def test_json_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("{")
    assert "facts.json is not what its name says" in model_file.folder_problems(tmp_path)[0]


def test_a_file_that_ends_the_checker_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "_CHECK", "import os; os.abort()")
    root = folder(tmp_path, graphs.mlp())
    assert "exit code -6" in model_file.checker_problems(root / "model.onnx")[0]


def test_an_unreadable_original_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "original.onnx").write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        model_file.measure(folder(tmp_path / "shipped", graphs.mlp()), original=tmp_path / "original.onnx")


# Budgets.


def laps(p99_ms: float, ratio_high: float) -> dict[str, dict[str, float]]:
    slow = {"ratio_low": 0.9 * ratio_high, "ratio_high": ratio_high}
    return {"1": {"p99_ms": p99_ms, "ratio_low": 0.1, "ratio_high": 0.9 * ratio_high}, "64": {"p99_ms": 9.0, **slow}}


TABLE = [
    {"name": "fp32", "size_kib": 100.0, "latency": laps(2.0, 1.0), "peak_mib": 50.0},
    {"name": "int8", "size_kib": 30.0, "latency": laps(1.0, 0.3), "peak_mib": 40.0},
    {"name": "failed", "size_kib": 30.0, "latency": {}, "peak_mib": None},
]
LIMITS = {"max_size_kib": 30.0, "min_speedup": 4.0, "max_p99_ms": 1.5, "max_memory_mib": 39.5, "max_slowdown": 0.1}


def test_budgets_are_held_against_what_was_measured() -> None:
    lines = budgets.measure(LIMITS, TABLE, "fp32", "int8")
    size, share, time, memory, slower = lines
    assert [(one.kind, one.rule, one.fails_as) for one in lines[:4]] == [("budget", "at_most", "INFEASIBLE")] * 4
    assert slower.problems == ()
    assert (share.loss, share.margin) == (0.3, 0.25)  # of the slowest batch size
    assert (size.original, size.shipped, size.loss, size.margin) == (100.0, 30.0, 30.0, 30.0)
    assert (time.loss, time.margin) == (1.0, 1.5)  # at the smallest batch
    assert memory.loss is not None
    assert memory.margin is not None
    assert memory.loss > memory.margin


@pytest.mark.parametrize("name", ["failed", "unknown"])
def test_a_limit_without_a_figure_is_not_kept(name: str) -> None:
    lines = budgets.measure(LIMITS, TABLE, "fp32", name)
    assert len(lines) == 5
    assert "was not measured" in lines[1].problems[0]
    assert lines[1].fails_as == "INFEASIBLE"


def test_a_file_that_was_shown_to_be_slower_is_told_and_no_other() -> None:
    lap = {"p99_ms": 1.0, "ratio": 1.3, "ratio_low": 1.2, "ratio_high": 1.4}
    table = [{"name": "fp32", "latency": {"1": lap | {"ratio_low": 1.0}}}, {"name": "int8", "latency": {"1": lap}}]
    for name, allowed, told in (
        ("int8", 0.1, True),
        ("int8", 0.3, False),
        ("fp32", 0.0, False),
        ("absent", 0.1, False),
    ):
        (line,) = budgets.measure({"max_slowdown": allowed}, table, "fp32", name)
        assert (line.rule, line.fails_as, bool(line.problems)) == ("nothing_found", "INFEASIBLE", told)
        assert line.loss is None, "figures differ from run to run, and a verdict must not"


def test_no_limit_no_line() -> None:
    assert budgets.measure({"max_size_kib": None}, TABLE, "fp32", "int8") == []
