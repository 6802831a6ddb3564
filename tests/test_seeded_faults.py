"""Faults that somebody seeds, each through the real rooms on real files: none of them may be shipped.

:data:`FAULTS` is the table: what is done to a finished pipeline, and how it is told. A fault of the model leaves a
manifest that agrees with it, as a stage with that defect would; a fault of a file is an edit that nobody wrote down.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import worlds
from fault_world import Picture, answer, feed, rewrite, signed, table
from onnx import TensorProto, helper

from tasks.core import files
from tasks.core.errors import AssayError
from tasks.core.stage import run_stage

#: Exit codes: usage or machine, not proven, integrity.
MACHINE, VERDICT, BROKEN = 2, 4, 5
TESTED = worlds.SIZES["test"]


@dataclass(frozen=True)
class Fault:
    """What is done, and how it is told.

    Attributes:
        seed: does it to the folder of a finished pipeline.
        code: exit code of the stage that finds it.
        said: what the error says, a pattern; for a verdict begun with its word.
        own: settings of `verify`; most faults are found by one check alone.
        stage: the one that must refuse.
        world: ``tiny`` (a table, two classes) or ``pictures`` (three channels, three classes).
    """

    seed: Callable[[Path], object]
    code: int
    said: str
    own: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "verify"
    world: str = "tiny"


# Faults of the model.


def swapped_labels(root: Path) -> None:
    rewrite(root, answer("Sub(one, raw)", one=np.float32(1)))


def wrong_normalisation(root: Path) -> None:
    rewrite(root, feed("x", "Cast:FLOAT(x) -> a; Mul(a, factor) -> b; Cast:UINT8(b)", factor=np.float32(0.2)))


def channel_order(root: Path) -> None:
    rewrite(root, feed("x", "Gather:1(x, order)", order=np.array([2, 1, 0])))


def dropped_preprocessing(root: Path) -> None:
    """Texts are no longer looked up: every one of them is unknown."""
    rewrite(root, feed("carrier", "Shape(carrier) -> s; Expand(unknown, s)", unknown=np.array(["?"], object)))


def one_class_destroyed(root: Path) -> None:
    rewrite(root, answer("Mul(raw, kept)", kept=np.array([[1, 1, 0]], np.float32)))


def one_slice_destroyed(root: Path) -> None:
    """Where the distance is among its largest, the answer is the opposite one."""
    rewrite(root, answer("Sub(one, raw) -> o; Greater(distance, far) -> f; Reshape(f, column) -> g; Where(g, o, raw)",
                         one=np.float32(1), far=np.float32(1250), column=np.array([-1, 1])))  # fmt: skip


def nan_weights(root: Path) -> None:
    def spoil(model: onnx.ModelProto) -> None:
        weight = next(
            item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT and len(item.dims) == 2
        )
        values = np.array(onnx.numpy_helper.to_array(weight))
        values[0, 0] = np.nan
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))

    rewrite(root, spoil, "fp32.onnx")
    shutil.copyfile(root / "artifacts/compress/fp32.onnx", root / "artifacts/compress/model.onnx")
    signed(root, "compress")


def saturated_int8(root: Path) -> None:
    """Every scale of an activation is a fiftieth of what it should be."""

    def shrink(model: onnx.ModelProto) -> None:
        scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        for item in model.graph.initializer:
            if item.name in scales:
                values = onnx.numpy_helper.to_array(item)
                item.CopyFrom(onnx.numpy_helper.from_array((values / 50).astype(values.dtype), item.name))

    rewrite(root, shrink)


def answers_by_chance(root: Path) -> None:
    """Noise that is drawn anew in every call, small enough for every other check."""
    rewrite(root, answer("RandomUniformLike(raw) -> n; Mul(n, little) -> m; Sub(raw, m)", little=np.float32(1e-4)))


def fixed_batch(root: Path) -> None:
    def fix(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = TESTED

    rewrite(root, fix)


def custom_operator(root: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        answer("Neg(raw)")(model)
        model.graph.node[-1].domain = "my.own"
        model.opset_import.append(helper.make_opsetid("my.own", 1))

    rewrite(root, add)


def new_opset(root: Path) -> None:
    rewrite(root, lambda model: setattr(next(o for o in model.opset_import if not o.domain), "version", 21))


def outside_weights(root: Path) -> None:
    folder = root / "artifacts/compress"
    model = onnx.load(folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="weights.npz", size_threshold=0)
    signed(root, "compress")


def nan_answers(root: Path) -> None:
    rewrite(root, answer("Sub(raw, raw) -> z; Div(z, z)"))


def memorised_test(root: Path) -> None:
    """The candidate knows test by heart: it finds the row by its distance."""
    test = pq.read_table(root / "artifacts/validate/test.parquet").filter(pc.is_valid(pc.field("distance")))
    rewrite(
        root,
        answer(
            "Reshape(distance, column) -> d; Equal(d, keys) -> e; Cast:FLOAT(e) -> f; MatMul(f, labels) -> l;"
            "MatMul(f, ones) -> k; Greater(k, none) -> known; Where(known, l, raw)",
            column=np.array([-1, 1]),
            keys=test["distance"].to_numpy().astype(np.float32)[None, :],
            labels=test["late"].to_numpy().astype(np.float32)[:, None],
            ones=np.ones((test.num_rows, 1), np.float32),
            none=np.float32(0),
        ),
    )


# Faults of the rows.


def shuffled_labels(root: Path) -> None:
    rows = table(root, "test")
    late = np.random.default_rng(0).permutation(rows["late"].to_numpy())
    table(root, "test", rows.set_column(rows.column_names.index("late"), "late", pa.array(late)))


def calibration_on_test(root: Path) -> None:
    table(root, "calibration", table(root, "test").slice(0, 256))


def train_in_test(root: Path) -> None:
    table(root, "test", pa.concat_tables([table(root, "test"), table(root, "train").slice(0, 50)]))


def duplicated_rows(root: Path) -> None:
    rows = table(root, "test")
    table(root, "test", pa.concat_tables([rows, rows.slice(0, 50)]))


# Faults of what was measured.


def measured(root: Path, limits: Mapping[str, Any], **figures: Any) -> None:
    """The candidate's figures are these, and params had those limits."""
    path = root / "artifacts/runs/candidates.json"
    rows = files.read_json(path)
    for row in rows:
        if row["name"] != "fp32":
            row.update(figures)
    files.write_json(path, rows)
    signed(root, "compress", compress=limits)


def slower(root: Path) -> None:
    lap = {"p50_ms": 2.0, "p99_ms": 3.0, "ratio": 1.9, "ratio_low": 1.8, "ratio_high": 2.0}
    measured(root, {"max_slowdown": 0.1}, latency={"1": lap, "64": lap})


def too_big(root: Path) -> None:
    measured(root, {"max_size_kib": 1.0})


def for_a_gpu(root: Path) -> None:
    """The file is for a device that is not here, where the CPU would answer in its place."""
    path = root / "artifacts/compress/variants.json"
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    signed(root, "compress")


# Edits that nobody wrote down.


def edit(path: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def seed(root: Path) -> None:
        file = root / "artifacts" / path
        file.write_bytes(change(file.read_bytes()))

    return seed


def swapped_file(root: Path) -> None:
    shutil.copyfile(root / "artifacts/compress/fp32.onnx", root / "artifacts/compress/model.onnx")


def stale_upstream(root: Path) -> None:
    """`tune` ran again, and `compress` did not."""
    signed(root, "tune", metrics={"tune.trials": 4.0})


def edited_verdict(root: Path) -> None:
    """A rejected verdict whose word was changed, with a manifest that agrees."""
    verdict = files.read_json(root / "artifacts/verify/verdict.json")
    files.write_json(root / "artifacts/verify/verdict.json", verdict | {"model_sha256": "0" * 64})
    signed(root, "verify")


FAULTS: dict[str, Fault] = {
    "swapped label order": Fault(swapped_labels, VERDICT, "REGRESSION: the loss of auc is at least"),
    "wrong normalisation": Fault(wrong_normalisation, VERDICT, "REGRESSION: the loss of accuracy", world="pictures"),
    "channel order": Fault(channel_order, VERDICT, "REGRESSION: the loss of accuracy", world="pictures"),
    "dropped preprocessing": Fault(dropped_preprocessing, VERDICT, "REGRESSION: the loss of auc is at least"),
    "shuffled test labels": Fault(shuffled_labels, VERDICT, "ANOMALOUS: .*shuffled"),
    "calibration on test rows": Fault(
        calibration_on_test, VERDICT, "ANOMALOUS: .*256 rows of calibration are rows of test", {"checks": ["data"]}
    ),
    "train rows in test": Fault(
        train_in_test, VERDICT, "ANOMALOUS: .*train and test share 50 rows", {"checks": ["data"]}
    ),
    "duplicated test rows": Fault(
        duplicated_rows, VERDICT, "ANOMALOUS: .*test holds 50 rows more than once", {"checks": ["data"]}
    ),
    "one class destroyed": Fault(
        one_class_destroyed, VERDICT, "REGRESSION: the loss of recall of c", {"checks": ["slices"], "margin": 0.9},
        world="pictures",
    ),
    "one slice destroyed while the average holds": Fault(
        one_slice_destroyed, VERDICT, "REGRESSION: the loss of auc where distance is over",
        {"checks": ["slices"], "margin": 0.9, "slices": ["distance"], "min_slice_rows": 50, "limits": {"recall": 0.9}},
    ),
    "NaN weights": Fault(nan_weights, VERDICT, "ANOMALOUS: ", {"checks": ["file"]}),
    "NaN answers": Fault(nan_answers, VERDICT, "ANOMALOUS: 600 answers of the exported model are not finite"),
    "saturated int8": Fault(
        saturated_int8, VERDICT, "ANOMALOUS: share of an activation that int8 clips",
        {"checks": ["mechanics"], "margin": 0.9},
    ),
    "non-deterministic output": Fault(
        answers_by_chance, VERDICT, "ANOMALOUS: .*not deterministic", {"checks": ["mechanics"]}
    ),
    "a candidate that memorised the test set": Fault(
        memorised_test, VERDICT, "ANOMALOUS: auc gets better by .*which no compression explains"
    ),
    "fixed batch axis": Fault(
        fixed_batch, VERDICT, "ANOMALOUS: batch axis: .* fixed batch axis of 600", {"checks": ["file"]}
    ),
    "opset too new": Fault(new_opset, VERDICT, "ANOMALOUS: opset and IR version: opset 21", {"checks": ["file"]}),
    "weights outside the file": Fault(outside_weights, BROKEN, "(?s)a model file must load.*tensor"),
    "slower than the original": Fault(slower, VERDICT, "INFEASIBLE: slower than the original: .* at least 1.8 times"),
    "bigger than the budget": Fault(too_big, VERDICT, "INFEASIBLE: size in KiB: .*, beyond 1"),
    "custom op": Fault(custom_operator, BROKEN, "(?s)must load.*my.own"),
    "truncated file": Fault(edit("compress/model.onnx", lambda data: data[:-100]), BROKEN, "compress.*model.onnx"),
    "swapped file": Fault(swapped_file, BROKEN, "compress.*model.onnx"),
    "stale upstream manifest": Fault(stale_upstream, BROKEN, "(?s)tune.*dvc repro"),
    "wrong provider": Fault(for_a_gpu, MACHINE, "(?s)device.*cuda"),
    "edited predictions": Fault(
        edit("verify/predictions.parquet", lambda data: data[:100] + b"x" + data[101:]), BROKEN,
        "verify.*predictions.parquet", stage="export",
    ),
    "edited verdict": Fault(
        edit("verify/verdict.json", lambda data: data.replace(b"0.02", b"0.03")), BROKEN, "verify.*verdict.json",
        stage="export",
    ),
    "a verdict on another file": Fault(edited_verdict, VERDICT, "ACCEPT for model 000000000000", stage="export"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_seeded_fault_is_rejected(name: str, tiny: Path, tmp_path: Path, picture: Picture) -> None:
    fault = FAULTS[name]
    root = shutil.copytree(picture.root if fault.world == "pictures" else tiny, tmp_path / "world")
    fault.seed(root)
    shutil.rmtree(root / "dist", ignore_errors=True)
    own = {"verify": {"checks": [], "resamples": 300} | dict(fault.own)}
    if fault.stage == "export":
        own = {"export": {"description": "anew"}}
    settings = picture.settings(own) if fault.world == "pictures" else worlds.write_params(root, own)
    with pytest.raises(AssayError) as caught:
        run_stage(fault.stage, settings, root)
    assert caught.value.exit_code == fault.code, caught.value
    assert re.search(fault.said, str(caught.value)), caught.value
    assert not list(root.glob("dist/*/*/model.onnx"))


@pytest.mark.parametrize("world", ["tiny", "pictures"])
def test_the_same_world_without_a_fault_is_accepted(world: str, tiny: Path, tmp_path: Path, picture: Picture) -> None:
    root = shutil.copytree(picture.root if world == "pictures" else tiny, tmp_path / "world")
    own = {"verify": {"checks": ["file", "slices", "data"], "resamples": 300}}
    run_stage("verify", picture.settings(own) if world == "pictures" else worlds.write_params(root, own), root)
    assert files.read_json(root / "artifacts/verify/verdict.json")["verdict"] == "ACCEPT"
