"""`assay verify-model`: two ONNX files and labelled rows, outside a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from flows.cli import app
from tasks.core import files
from tasks.core.errors import DataRejected, NotProven, UsageError

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(4, 3)).astype(np.float32)


def model(path: Path, weights: np.ndarray, last: str = "Softmax") -> Path:
    """Softmax (or another operator) of a linear map of ``x`` [batch, 4]."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"]), helper.make_node(last, ["logits"], ["p"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["batch", weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    x = RANDOM.normal(size=(6000, 4)).astype(np.float32)
    y = (4 * x @ WEIGHTS + RANDOM.gumbel(size=(6000, 3))).argmax(1)
    np.savez(folder / "rows.npz", x=x, y=y, site=np.arange(6000) % 3)
    columns = {"x": pa.FixedSizeListArray.from_arrays(x.ravel(), 4), "y": y}
    pq.write_table(pa.table({"y": columns["y"], **{f"x{i}": x[:, i] for i in range(4)}}), folder / "rows.parquet")
    numbered = pq.read_table(folder / "rows.parquet").append_column("id", pa.array(np.arange(6000)))
    pq.write_table(numbered, folder / "numbered.parquet")
    first = numbered.slice(0, 50).drop_columns(["y"])
    days = pa.array(np.arange(50), pa.int32()).cast(pa.date32())
    pq.write_table(first.append_column("y", days), folder / "dates.parquet")
    model(folder / "original.onnx", 4 * WEIGHTS)
    model(folder / "twin.onnx", 4.001 * WEIGHTS)
    model(folder / "worse.onnx", 4 * WEIGHTS[:, [0, 2, 1]])
    model(folder / "nan.onnx", np.nan * WEIGHTS)
    model(folder / "logits.onnx", 4 * WEIGHTS, "Identity")
    model(folder / "whole.onnx", 4 * WEIGHTS)
    outside = folder / "outside.onnx"
    onnx.save(onnx.load(folder / "whole.onnx"), outside, save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder


def ask(given: Path, candidate: str, out: Path, *more: str, data: str = "rows.npz") -> Any:
    command = ["verify-model", str(given / "original.onnx"), str(given / candidate), "--data", str(given / data)]
    return CliRunner().invoke(app, [*command, "--out", str(out), *more])


def test_a_twin_is_accepted_and_leaves_its_evidence(given: Path, tmp_path: Path) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", "--margin", "0.01", "--slice", "site")
    assert done.exception is None, done.output
    assert done.output.startswith("ACCEPT: ")
    told = files.read_json(tmp_path / "out" / "verdict.json")
    assert told["lines"][0]["metric"] == "accuracy"
    assert told["lines"][0]["n"] == 6000
    assert {"metric", "slice", "class", "mechanics", "flips", "calibration", "scores", "robustness"} <= {
        line["kind"] for line in told["checks"]
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert "ACCEPT. The exported file was shown to be as good" in page
    assert "http" not in page.replace("http-equiv", "")


def test_swapped_labels_are_a_regression_that_names_the_classes(given: Path, tmp_path: Path) -> None:
    done = ask(given, "worse.onnx", tmp_path / "out")
    assert isinstance(done.exception, NotProven)
    assert done.exception.exit_code == 4
    told = files.read_json(tmp_path / "out" / "verdict.json")
    assert told["verdict"] == "REGRESSION"
    worse = {line["name"] for line in told["checks"] if line["verdict"] == "REGRESSION"}
    assert {"accuracy", "recall of 1", "recall of 2"} <= worse
    assert "recall of 0" not in worse
    assert "REGRESSION. The exported file is worse" in (tmp_path / "out" / "report.html").read_text()


def test_rows_in_groups_are_resampled_by_group(given: Path, tmp_path: Path) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", "--group", "site", "--margin", "0.01")
    assert isinstance(done.exception, NotProven)
    told = files.read_json(tmp_path / "out" / "verdict.json")
    assert told["verdict"] == "INCONCLUSIVE", "three groups prove little"
    assert told["lines"][0]["clusters"] == 3


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ("nan.onnx", "answers of the exported model are not finite"),
        ("logits.onnx", "answers of the exported model are no probabilities"),
        ("outside.onnx", "weights lie outside the file, where its hash does not reach: 'w.bin'"),
    ],
)
def test_a_candidate_that_cannot_be_right_is_judged_not_refused(
    given: Path, tmp_path: Path, candidate: str, said: str
) -> None:
    done = ask(given, candidate, tmp_path / "out", "--margin", "0.01")
    assert isinstance(done.exception, NotProven), done.output
    told = files.read_json(tmp_path / "out" / "verdict.json")
    assert told["verdict"] == "ANOMALOUS"
    assert said in told["reason"]
    assert any(note.startswith("data: outside a pipeline") for note in told["notes"])
    assert "the answers of both files were read as probabilities, as the original's are" in told["notes"]
    if candidate != "outside.onnx":
        assert "flips: the answers cannot be compared" in told["notes"]


def test_a_column_that_is_no_input_is_dropped(given: Path, tmp_path: Path) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", "--margin", "0.01", data="numbered.parquet")
    assert isinstance(done.exception, UsageError), "five numbers do not fit four"
    done = ask(given, "twin.onnx", tmp_path / "out", "--margin", "0.01", "--drop", "id", data="numbered.parquet")
    assert done.exception is None, done.output


def test_dates_are_no_labels(given: Path, tmp_path: Path) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", "--drop", "id", data="dates.parquet")
    assert isinstance(done.exception, DataRejected)
    assert "date32" in str(done.exception)


def test_a_table_is_packed_into_the_only_input(given: Path, tmp_path: Path) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", "--margin", "1%", data="rows.parquet")
    assert done.exception is None, done.output


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (("--label", "z"), UsageError, "`z`; there are"),
        (("--slice", "nowhere", "--drop", "neither"), UsageError, "neither, nowhere"),
        (("--task", "ranking"), UsageError, "ranking"),
        (("--task", "binary"), DataRejected, "3 different values"),
        (("--classes", "2"), DataRejected, "the integers below it"),
        (("--margin", "much"), UsageError, "margin"),
    ],
)
def test_mistakes_are_told(given: Path, tmp_path: Path, more: tuple[str, ...], error: type, said: str) -> None:
    done = ask(given, "twin.onnx", tmp_path / "out", *more)
    assert isinstance(done.exception, error)
    assert said in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_broken_file_of_rows_is_rejected(given: Path, tmp_path: Path) -> None:
    (given / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    done = ask(given, "twin.onnx", tmp_path / "out", data="broken.npz")
    assert isinstance(done.exception, DataRejected)
