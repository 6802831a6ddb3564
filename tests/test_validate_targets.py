"""Targets of every kind, predefined splits, and rows with arrays: what goes on, and what is rejected or set aside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from validate_world import make, outcome, part, results, rows, run

from tasks.core import tensors
from tasks.core.errors import DataRejected

COUNT = 120
ROOM: dict[str, Any] = {"max_quarantine_share": 0.2}


def table(target: Sequence[Any]) -> dict[str, Sequence[Any]]:
    return rows(len(target)) | {"y": target}


def cycle(*values: Any) -> list[Any]:
    return [values[i % len(values)] for i in range(COUNT)]


def quantities(count: int = COUNT) -> list[float]:
    return [i / 7 for i in range(count)]


# --- The task


@pytest.mark.parametrize(
    ("target", "base", "task", "classes"),
    [
        (cycle(True, False), {}, "binary", [False, True]),
        (cycle("no", "yes"), {}, "binary", ["no", "yes"]),
        (cycle(1, 0), {}, "binary", [0, 1]),
        (cycle(7, 3), {"task": "binary"}, "binary", [3, 7]),
        (cycle("b", "c", "a"), {}, "multiclass", ["a", "b", "c"]),
        (cycle(5, -1, 3), {"task": "multiclass"}, "multiclass", [-1, 3, 5]),
        (quantities(), {}, "regression", []),
        (list(range(COUNT)), {"task": "regression"}, "regression", []),
        (cycle(0.0, 1.0), {"task": "regression"}, "regression", []),
        (cycle(0, 1), {"task": "regression"}, "regression", []),
    ],
)
def test_the_task_follows_from_the_values_or_is_said(
    tmp_path: Path, target: list[Any], base: dict[str, Any], task: str, classes: list[Any]
) -> None:
    facts = run(make(tmp_path, table(target), base=base)).facts
    assert (facts["task"], facts["classes"], facts["tensors"]) == (task, classes, {})
    assert (facts["user"], facts["time"]) == (None, None)


@pytest.mark.parametrize(
    ("target", "base", "message"),
    [
        (cycle(1, 2, 3), {}, "say base.task: multiclass, or base.task: regression"),
        (cycle(1, 2), {}, "say base.task: binary, or base.task: regression"),
        (cycle(0.0, 1.0), {}, "under ingest.types, or say base.task: regression"),
        (quantities(), {"task": "binary"}, "say base.task: regression"),
        (quantities(), {"task": "multiclass"}, "say base.task: regression"),
        (cycle("a", "b", "c"), {"task": "binary"}, "or say base.task: multiclass"),
        (cycle("a", "b"), {"task": "multiclass"}, "say base.task: binary"),
        (cycle("a", "b"), {"task": "regression"}, "a quantity is a number(.|\n)*a column of string"),
        (cycle(True, False), {"task": "regression"}, "a column of bool"),
        (cycle("a", "b"), {"task": "ranking"}, "base.workload: recommender"),
        (cycle("a"), {}, "two values at least"),
        ([f"text {i}" for i in range(1001)], {}, "1,000 classes at most"),
        ([*quantities()[1:], float("nan")], {}, "1 of 120 rows hold NaN or infinity"),
        ([*quantities()[1:], float("-inf")], {}, "a quantity is finite"),
        ([*quantities()[1:], None], {}, "1 of 120 rows have none"),
        ([3.5] * COUNT, {}, "the target varies in train(.|\n)*from 3.5 to 3.5"),
    ],
)
def test_a_target_that_does_not_fit_is_rejected(
    tmp_path: Path, target: list[Any], base: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataRejected, match=message):
        run(make(tmp_path, table(target), base=base))


def test_a_class_that_a_part_lacks_is_named(tmp_path: Path) -> None:
    target = ["rare" if i == 0 else "abcdefgh"[i % 8] for i in range(COUNT)]
    split = {"by": "time", "column": "t", "validation_from": "2020-03-10", "test_from": "2020-04-01"}
    with pytest.raises(DataRejected, match="validation has rows of every class") as raised:
        run(make(tmp_path, table(target), split=split))
    assert str(raised.value).count("none of rare\n") == 2


def test_no_more_than_five_absent_classes_are_named(tmp_path: Path) -> None:
    target = [f"c{i:02}" if i < 12 else "often" for i in range(COUNT)]
    split = {"by": "time", "column": "t", "validation_from": "2020-03-10", "test_from": "2020-04-01"}
    with pytest.raises(DataRejected, match="none of c00, c01, c02, c03, c04 and 7 more"):
        run(make(tmp_path, table(target), split=split))


def test_a_stratified_split_holds_for_many_classes(tmp_path: Path) -> None:
    params = make(tmp_path, table(cycle(*"abcdef")), split={"by": "stratified", "validation": 0.2, "test": 0.3})
    run(params)
    for name, each in (("train", 10), ("validation", 4), ("test", 6)):
        assert part(params, name)["y"].value_counts().field("counts").to_pylist() == [each] * 6


# --- What the report says


def test_the_report_shows_quantities_and_some_of_many_classes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    params = _run(tmp_path / "a", quantities())
    train = results(params)["splits"][0]
    values = part(params, "train")["y"].to_numpy()
    assert train["target"] == pytest.approx(
        {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    )
    assert (train["positive_share"], train["classes"]) == (None, {})
    assert "std " in (tmp_path / "a/artifacts/validate/report.html").read_text()

    many = _run(tmp_path / "b", [f"c{i % 24:02}" for i in range(480)], split={"by": "stratified"})
    train = results(many)["splits"][0]
    assert (len(train["classes"]), train["more_classes"], train["positive_share"]) == (20, 4, None)
    assert "and 4 more" in (tmp_path / "b/artifacts/validate/report.html").read_text()


def _run(root: Path, target: Sequence[Any], **validate: Any) -> Path:
    params = make(root, table(target), **validate)
    made = run(params)
    assert not [name for name in made.metrics if "positive_share" in name]
    return params


def balance(**shares: float) -> dict[str, Any]:
    return {"expect": "target_balance", **shares}


@pytest.mark.parametrize(
    ("shares", "passes"),
    [
        ({"min_share": 0.25, "max_share": 0.5}, True),
        ({"min_share": 0.26}, False),
        ({"max_share": 0.49}, False),
    ],
)
def test_balance_judges_the_share_of_every_class(tmp_path: Path, shares: dict[str, float], passes: bool) -> None:
    params = make(tmp_path, table(cycle("a", "b", "c", "a")), [balance(**shares)])
    if passes:
        run(params)
    else:
        with pytest.raises(DataRejected, match="target balance"):
            run(params)
    one = outcome(results(params, rejected=not passes), "target_balance")
    assert one["found"].startswith("from 25.0 % (b) to 50.0 % (a)")
    assert one["observed"] == {"least": 0.25, "most": 0.5}


@pytest.mark.parametrize("severity", ["error", "warning"])
def test_balance_of_a_quantity_does_not_pass_for_it_was_not_judged(tmp_path: Path, severity: str) -> None:
    params = make(tmp_path, table(quantities()), [balance() | {"severity": severity}])
    if severity == "error":
        with pytest.raises(DataRejected, match="not run: the target of regression has no classes"):
            run(params)
    else:
        run(params)
    one = outcome(results(params, rejected=severity == "error"), "target_balance")
    assert one["outcome"] == ("failed" if severity == "error" else "warning")


# --- Predefined splits


def predefined(names: Sequence[str], **split: Any) -> dict[str, Any]:
    made = table(cycle("a", "b", "c")) | {"p": names, "g": [f"group {i // 3:02}" for i in range(COUNT)]}
    return {"table": made, "split": {"by": "predefined", "column": "p", **split}}


TRAIN_TEST = ["test" if i >= 90 else "train" for i in range(COUNT)]


def test_validation_is_drawn_from_train_within_classes(tmp_path: Path) -> None:
    given = predefined(TRAIN_TEST, validation=0.2)
    parts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        params = make(tmp_path / name, given["table"], split=given["split"], base={"seed": seed})
        run(params)
        drawn = part(params, "validation")
        assert drawn["y"].value_counts().field("counts").to_pylist() == [6, 6, 6]
        assert part(params, "test")["row"].to_pylist() == list(range(90, 120))
        assert len(part(params, "train")) == 72
        parts.append(drawn["row"].to_pylist())
    assert parts[0] == parts[1] != parts[2]


def test_validation_is_drawn_from_train_for_a_quantity_too(tmp_path: Path) -> None:
    given = predefined(TRAIN_TEST, validation=0.2)
    params = make(tmp_path, given["table"] | {"y": quantities()}, split=given["split"])
    run(params)
    assert [len(part(params, name)) for name in ("train", "validation", "test")] == [72, 18, 30]


def test_validation_is_drawn_by_whole_groups_where_groups_are_named(tmp_path: Path) -> None:
    given = predefined(TRAIN_TEST, validation=0.2, group="g")
    params = make(tmp_path, given["table"], split=given["split"])
    run(params)
    groups = [set(part(params, name)["g"].to_pylist()) for name in ("train", "validation", "test")]
    assert not (groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2])
    assert len(part(params, "validation")) == 18


THREE = ["validation" if 60 <= i < 90 else TRAIN_TEST[i] for i in range(COUNT)]


@pytest.mark.parametrize(
    ("names", "split", "changes", "message"),
    [
        (THREE, {"validation": 0.2}, {}, "named by the column or drawn as a share(.|\n)*30 rows say validation"),
        (TRAIN_TEST, {}, {}, "validation has rows of every class"),
        (
            [*THREE[1:], "test"],
            {"group": "g"},
            {},
            r"no group is in two parts(.|\n)*2 groups are in two: group 19, group 29",
        ),
        (THREE, {"group": "grp"}, {}, "grp: the column of groups is there(.|\n)*no such column"),
        (
            THREE,
            {"group": "g"},
            {"g": [None] + ["a"] * 59 + ["b"] * 30 + ["c"] * 30},
            "every row that is left has a group",
        ),
        (["dev", *THREE[1:]], {}, {}, "found dev"),
    ],
)
def test_predefined_splits_that_are_rejected(
    tmp_path: Path, names: list[str], split: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    given = predefined(names, **split)
    with pytest.raises(DataRejected, match=message):
        run(make(tmp_path, given["table"] | changes, split=given["split"]))


def test_leave_last_is_for_interactions(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="leave_last is for interactions"):
        run(make(tmp_path, table(cycle(0, 1)), split={"by": "leave_last"}))


# --- Rows with arrays


def pictures(dtype: str = "uint8", missing: Sequence[int] = ()) -> tuple[np.ndarray, pa.Array]:
    values = np.random.default_rng(0).integers(0, 255, (COUNT, 4, 3)).astype(dtype)
    return values, with_nulls(values, missing)


def with_nulls(values: np.ndarray, missing: Sequence[int]) -> pa.Array:
    column = tensors.to_arrow(values)
    return pa.array([None if i in missing else value for i, value in enumerate(column.to_pylist())], column.type)


def array_world(root: Path, images: pa.Array, dtype: str = "uint8", **more: Any) -> Path:
    shapes = {"image": {"dtype": dtype, "shape": [4, 3]}}
    columns = {"image": images, "y": cycle(3, 1, 2), **more.pop("columns", {})}
    base = {"workload": "array", **more.pop("base", {})}
    return make(root, columns, tensors=shapes, base=base, **more)


def test_arrays_go_on_unchanged_and_are_no_columns(tmp_path: Path) -> None:
    values, images = pictures()
    params = array_world(tmp_path, images)
    facts = run(params).facts
    assert facts["columns"] == {"y": "int64"}
    assert facts["tensors"] == {"image": {"dtype": "uint8", "shape": [4, 3]}}
    assert (facts["task"], facts["classes"]) == ("multiclass", [1, 2, 3])
    for name in ("train", "validation", "test", "calibration"):
        found = part(params, name)
        assert found.column_names == ["row", "image", "y"]
        read = tensors.to_numpy(found["image"], facts["tensors"]["image"])
        assert (read == values[found["row"].to_numpy()]).all()
    assert "uint8 4 x 3" in (tmp_path / "artifacts/validate/report.html").read_text().replace("</td><td>", " ")


def test_two_integer_classes_of_arrays_are_binary(tmp_path: Path) -> None:
    facts = run(array_world(tmp_path, pictures()[1], columns={"y": cycle(4, 9)})).facts
    assert (facts["task"], facts["classes"]) == ("binary", [4, 9])


def test_a_row_without_an_array_is_set_aside_with_what_ingest_said(tmp_path: Path) -> None:
    problem = ["x.png: truncated" if i == 5 else None for i in range(COUNT)]
    params = array_world(tmp_path, pictures(missing=[5, 40])[1], columns={"problem": problem}, **ROOM)
    facts = run(params).facts
    assert facts["columns"] == {"y": "int64"}
    aside = part(params, "quarantine")
    assert aside["row"].to_pylist() == [5, 40]
    assert aside["reason"].to_pylist() == ["x.png: truncated", "image is missing"]
    assert "problem" not in part(params, "train").column_names
    assert facts["rows"]["quarantine"] == 2


def test_arrays_with_nan_or_infinity_are_set_aside(tmp_path: Path) -> None:
    values, _ = pictures("float32")
    values[7, 0, 0], values[31, 3, 2] = np.nan, -np.inf
    params = array_world(tmp_path, with_nulls(values, [9]), "float32", **ROOM)
    run(params)
    aside = part(params, "quarantine")
    assert dict(zip(aside["row"].to_pylist(), aside["reason"].to_pylist(), strict=True)) == {
        7: "image holds NaN or infinity",
        9: "image is missing",
        31: "image holds NaN or infinity",
    }
    reasons = results(params)["quarantine"]["reasons"]
    assert {reason["reason"]: reason["rows"] for reason in reasons} == {
        "image holds NaN or infinity": 2,
        "image is missing": 1,
    }
    assert reasons[0]["examples"][0] == {"row": 7, "y": 1}


def test_too_many_useless_arrays_reject_the_rows(tmp_path: Path) -> None:
    params = array_world(tmp_path, pictures(missing=range(7))[1])
    with pytest.raises(DataRejected, match=r"at most 5\.0 % of the rows are set aside"):
        run(params)


def test_many_reasons_are_told_and_the_first_shown(tmp_path: Path) -> None:
    problem = [f"{i:03}.png: broken" if i < 24 else None for i in range(COUNT)]
    params = array_world(tmp_path, pictures(missing=range(24))[1], columns={"problem": problem}, **ROOM)
    run(params)
    reasons = results(params)["quarantine"]["reasons"]
    assert [len(reason["examples"]) for reason in reasons] == [1] * 20 + [0] * 4
    assert "023.png: broken" in (tmp_path / "artifacts/validate/report.html").read_text()


def test_labels_that_are_missing_reject_the_rows(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="every row that is left has a target"):
        run(array_world(tmp_path, pictures()[1], columns={"y": [None, *cycle(3, 1, 2)[1:]]}))


def test_row_groups_of_arrays_are_bounded_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.validate.write.GROUP_BYTES", 120)
    params = array_world(tmp_path, pictures()[1])
    run(params)
    with pq.ParquetFile(tmp_path / "artifacts/validate/train.parquet") as file:
        sizes = {file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)}
    assert max(sizes) == 10
    assert part(params, "train")["row"].to_pylist() == sorted(part(params, "train")["row"].to_pylist())


def test_checks_see_columns_and_not_arrays(tmp_path: Path) -> None:
    params = array_world(tmp_path, pictures()[1])
    suite = {"checks": [{"expect": "expect_table_columns_to_match_set", "column_set": ["y"]}]}
    (tmp_path / "suite.yaml").write_text(json.dumps(suite))
    run(params)
