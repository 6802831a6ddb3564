"""The stage as a whole: what it leaves, what it rejects, and what it never does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from validate_world import NOT_NULL, days, make, outcome, part, results, rows, run, write_suite

from tasks.core.errors import AssayError, DataRejected, UsageError
from tasks.validate.engine import Engine
from tasks.validate.expectations import build

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("train", "validation", "test", "fresh")


def between(column: str, low: float | None, high: float | None, **more: object) -> dict[str, object]:
    return {
        "expect": "expect_column_values_to_be_between",
        "column": column,
        "min_value": low,
        "max_value": high,
        **more,
    }


# --- What it leaves


def test_the_parts_hold_every_row_once_with_its_number_first(tmp_path: Path) -> None:
    table = rows(100)
    table["y"] = [None if i % 25 == 0 else y for i, y in enumerate(table["y"])]
    params = make(tmp_path, table, [NOT_NULL])
    made = run(params)

    parts = {name: part(params, name) for name in (*PARTS, "quarantine")}
    numbers = np.sort(np.concatenate([p["row"].to_numpy() for p in parts.values()]))
    assert (numbers == np.arange(100)).all()
    for name in PARTS:
        assert parts[name].column_names == ["row", "t", "x", "c", "g", "y"]
        assert parts[name]["x"].to_pylist() == [float(row) for row in parts[name]["row"].to_pylist()]
    assert parts["quarantine"]["row"].to_pylist() == [0, 25, 50, 75]
    assert parts["quarantine"].column_names == ["row", "t", "x", "c", "g", "y", "reason"]
    assert made.facts["rows"] == {
        "train": 58, "validation": 19, "test": 19, "fresh": 0, "calibration": 16, "quarantine": 4,
    }  # fmt: skip
    assert made.metrics["validate.quarantined_share"] == 0.04


def test_facts_tell_the_next_rooms_what_they_need(tmp_path: Path) -> None:
    split = {"by": "time", "column": "t", "validation_from": "2020-02-20", "test_from": "2020-03-10"}
    facts = run(make(tmp_path, rows(), columns={"x": "float64"}, split=split)).facts
    assert facts["columns"] == {"t": "timestamp", "x": "float64", "c": "string", "g": "int64", "y": "int64"}
    assert (facts["target"], facts["classes"], facts["time_column"]) == ("y", [0, 1], "t")
    assert facts["content_hash"] == "c0ffee"


@pytest.mark.parametrize(
    ("values", "classes"),
    [([True, False], [False, True]), (["yes", "no"], ["no", "yes"]), ([1, 0], [0, 1])],
)
def test_classes_are_sorted_whatever_their_type(tmp_path: Path, values: list[object], classes: list[object]) -> None:
    params = make(tmp_path, rows() | {"y": [values[(i // 2) % 2] for i in range(100)]})
    assert run(params).facts["classes"] == classes


def test_calibration_rows_are_drawn_from_train_and_stay_there(tmp_path: Path) -> None:
    params = make(tmp_path, rows(), calibration_rows=20)
    run(params)
    calibration, train = (set(part(params, name)["row"].to_pylist()) for name in ("calibration", "train"))
    assert len(calibration) == 20
    assert calibration < train


def test_equal_inputs_give_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    table = rows(100)
    table["y"] = [None, *table["y"][1:]]
    manifests = []
    for name, seed in [("a", 1), ("b", 1), ("c", 2)]:
        (tmp_path / name).mkdir()
        run(make(tmp_path / name, table, [NOT_NULL], base={"seed": seed}))
        manifests.append((tmp_path / name / "artifacts/validate/manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert manifests[0] != manifests[2]


def test_row_groups_are_full_however_the_rows_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.validate.write.GROUP_ROWS", 10)
    params = make(tmp_path, rows(100), group_rows=7)
    run(params)
    with pq.ParquetFile(tmp_path / "artifacts/validate/train.parquet") as file:
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [10] * 6
    assert part(params, "train")["row"].to_pylist() == sorted(part(params, "train")["row"].to_pylist())


# --- Quarantine


def test_a_row_is_set_aside_with_every_reason(tmp_path: Path) -> None:
    table = rows(100)
    table["y"] = [None, *table["y"][1:]]
    checks = [NOT_NULL | {"because": "nothing to learn"}, between("x", 2, None, rows="quarantine")]
    params = make(tmp_path, table, checks)
    run(params)
    aside = part(params, "quarantine")
    assert aside["row"].to_pylist() == [0, 1]
    assert aside["reason"].to_pylist() == [
        "y: values must not be null (nothing to learn); x: values must be between (min_value 2)",
        "x: values must be between (min_value 2)",
    ]
    assert outcome(results(params), "expect_column_values_to_be_between")["outcome"] == "quarantined"


def test_other_checks_judge_the_rows_that_are_left(tmp_path: Path) -> None:
    checks = [between("x", None, 97, rows="quarantine"), between("x", 0, 97)]
    params = make(tmp_path, rows(100), [*checks, {"expect": "expect_table_row_count_to_equal", "value": 98}])
    run(params)
    assert outcome(results(params), "expect_table_row_count_to_equal")["observed"] == 98


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (between("x", 5, None), [0, 1, 2, 3, 4]),
        (between("n", 1 << 60, None), [1]),
        ({"expect": "expect_column_values_to_be_in_set", "column": "c", "value_set": ["a", "b"]}, [4]),
        ({"expect": "expect_column_values_to_match_regex", "column": "c", "regex": "^[ab]$"}, [4]),
        ({"expect": "expect_column_values_to_be_unique", "column": "u"}, [7, 8]),
        ({"expect": "expect_column_values_to_not_be_null", "column": "n"}, [3]),
        ({"expect": "expect_compound_columns_to_be_unique", "column_list": ["u", "g"]}, [7, 8]),
        (
            {"expect": "expect_column_pair_values_a_to_be_greater_than_b", "column_A": "x", "column_B": "u",
             "or_equal": True},
            [6],
        ),
        (between("x", 90, None, row_condition="g == 1"), [5, 6, 7, 8, 9]),
        (between("t", "2020-01-03", None), [0, 1]),
        (between("t", "2020-01-03T06:00:00+06:00", None), [0, 1]),
        ({"expect": "expect_column_values_to_be_in_set", "column": "b", "value_set": [True]}, [2]),
    ],
)  # fmt: skip
def test_the_failing_rows_are_the_ones_set_aside(tmp_path: Path, check: dict[str, object], expected: list[int]) -> None:
    table = rows(100)
    table["c"] = [*table["c"][:4], "z", *table["c"][5:]]
    table["u"] = [*map(float, range(6)), 6.5, 7.0, 7.0, *map(float, range(9, 100))]
    table["n"] = [(1 << 60) + i for i in range(100)]
    table["n"][1], table["n"][3] = 5, None
    table["b"] = [i != 2 if i != 4 else None for i in range(100)]
    params = make(tmp_path, table, [check | {"rows": "quarantine"}], max_quarantine_share=0.2)
    run(params)
    assert part(params, "quarantine")["row"].to_pylist() == expected


def test_mostly_limits_what_one_check_may_set_aside(tmp_path: Path) -> None:
    params = make(
        tmp_path, rows(100), [between("x", 5, None, rows="quarantine", mostly=0.97)], max_quarantine_share=0.5
    )
    with pytest.raises(DataRejected, match="5 of 100 rows"):
        run(params)
    write_suite(tmp_path, [between("x", 3, None, rows="quarantine", mostly=0.97)])
    run(params)
    assert len(part(params, "quarantine")) == 3


def test_the_whole_quarantine_has_a_limit_too(tmp_path: Path) -> None:
    checks = [between("x", 4, None, rows="quarantine"), between("x", None, 95, rows="quarantine")]
    params = make(tmp_path, rows(100), checks, max_quarantine_share=0.05)
    with pytest.raises(DataRejected, match=r"at most 5.0 % of the rows(.|\n)*8 of 100 rows"):
        run(params)


def test_a_count_that_disagrees_with_the_rows_is_a_bug_and_said_so() -> None:
    import pandas as pd

    arguments = {"column": "x", "min_value": 5}
    check = build("expect_column_values_to_be_between", arguments, {"x": "float64"}, meta={"number": 0})
    frame = pd.DataFrame({"x": np.arange(10.0)})
    assert Engine().failing_rows(frame, 0, check, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(AssayError, match="counted 4 failing rows and named 5") as raised:
        Engine().failing_rows(frame, 0, check, 4)
    assert raised.value.exit_code == 1


# --- Verdicts


def test_every_failed_error_is_named_and_the_report_is_kept_apart(tmp_path: Path) -> None:
    params = make(tmp_path, rows(100))
    run(params)
    before = {path.name: path.read_bytes() for path in (tmp_path / "artifacts/validate").iterdir()}
    write_suite(tmp_path, [between("x", 10, None), between("g", None, 3), between("y", 0, 1)], {"c": "int64"})
    with pytest.raises(DataRejected) as raised:
        run(params)
    text = str(raised.value)
    assert raised.value.exit_code == 3
    assert "3 failed" in text
    assert "10 of 100 rows" in text and "80 of 100 rows" in text and "c: is there with type int64" in text
    assert str(tmp_path / "artifacts/rejected/validate/report.html") in text
    assert results(params, rejected=True)["verdict"] == "rejected"
    assert "Rejected: 3 of" in (tmp_path / "artifacts/rejected/validate/report.html").read_text()
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "artifacts/validate").iterdir()}

    write_suite(tmp_path)
    run(params)
    assert not (tmp_path / "artifacts/rejected/validate").exists()


def test_a_failed_warning_is_reported_and_nothing_else(tmp_path: Path) -> None:
    params = make(tmp_path, rows(100), [between("x", 10, None, severity="warning")])
    made = run(params)
    one = outcome(results(params), "expect_column_values_to_be_between")
    assert (one["outcome"], one["unexpected_count"], one["unexpected_share"]) == ("warning", 10, 0.1)
    assert made.metrics["validate.warnings"] == 1
    assert "1 warning" in (tmp_path / "artifacts/validate/report.html").read_text()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({k: v for k, v in rows().items() if k != "y"}, "the target is there"),
        (rows() | {"y": [1] * 100}, "1 distinct values: 1"),
        (rows() | {"y": [i % 3 for i in range(100)]}, "3 distinct values: 0, 1, 2"),
        (rows() | {"y": [1 + i % 2 for i in range(100)]}, "2 distinct values: 1, 2"),
        (rows() | {"y": [float(i % 2) for i in range(100)]}, "a column of float64 with 2 distinct values: 0.0, 1.0"),
        (rows() | {"y": [None, *rows()["y"][1:]]}, r"1 of 100 rows have none(.|\n)*rows: quarantine"),
        (rows() | {"row": [0] * 100}, "row, reason"),
        ({name: values[:0] for name, values in rows().items()}, "the table has rows"),
        (rows(20), "train has 12 rows"),
    ],
)
def test_rules_that_hold_for_every_suite(tmp_path: Path, table: dict[str, list[object]], message: str) -> None:
    types = {"t": "timestamp", "x": "float64", "c": "string", "g": "int64", "y": "int64"} if not table["x"] else None
    params = make(tmp_path, table, types=types)
    with pytest.raises(DataRejected, match=message):
        run(params)
    assert results(params, rejected=True)["verdict"] == "rejected"


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ({"by": "time", "column": "x"}, {}, "found float64"),
        ({"by": "time", "column": "tt"}, {}, "did you mean `t`"),
        ({"by": "time", "column": "t"}, {"t": [None, *days(99)]}, "1 of 100 rows have none"),
        ({"by": "time", "column": "t", "test_from": "2021-01-01"}, {}, "test has rows of every class"),
        ({"by": "group", "column": "g"}, {"g": [None, *range(99)]}, "1 of 100 rows have none"),
        ({"by": "group", "column": "h"}, {}, "no such column"),
        ({"by": "predefined", "column": "c"}, {}, "found a, b"),
        ({"by": "predefined", "column": "c"}, {"c": ["train"] * 100}, "validation has rows of every class"),
        ({"by": "random", "validation": 0.01, "test": 0.2}, {}, "validation has rows of every class"),
    ],
)
def test_rules_about_the_split(
    tmp_path: Path, split: dict[str, object], change: dict[str, list[object]], message: str
) -> None:
    if split["by"] == "time":
        split = {"validation_from": "2020-02-01", "test_from": "2020-03-01"} | split
    with pytest.raises(DataRejected, match=message):
        run(make(tmp_path, rows() | change, split=split))


def test_nothing_but_quarantine_leaves_nothing_to_learn_from(tmp_path: Path) -> None:
    checks = [between("x", 1000, None, rows="quarantine"), between("x", 0, None), {"expect": "target_balance"}]
    params = make(tmp_path, rows(), checks, max_quarantine_share=1.0)
    with pytest.raises(DataRejected, match="0 distinct values"):
        run(params)
    assert outcome(results(params, rejected=True), "target_balance")["outcome"] == "not run"


def test_checks_on_a_column_that_is_absent_or_of_another_type_are_not_run(tmp_path: Path) -> None:
    checks = [
        {"expect": "expect_column_to_exist", "column": "zz"},
        between("zz", 0, 1),
        between("zy", 0, 1),
        between("c", 0, 1),
    ]
    params = make(tmp_path, rows(), checks, columns={"zy": "float64", "c": "float64"})
    with pytest.raises(DataRejected, match="3 failed"):
        run(params)
    found = [o for o in results(params, rejected=True)["outcomes"] if o["name"].endswith("between")]
    assert [o["outcome"] for o in found] == ["not run"] * 3


@pytest.mark.parametrize(
    "check",
    [
        between("c", 1, 2),
        between("c", 1, 2, rows="quarantine"),
        {"expect": "expect_column_mean_to_be_between", "column": "c", "min_value": 1},
        {"expect": "expect_column_values_to_match_regex", "column": "c", "regex": "(("},
        {"expect": "expect_column_values_to_match_like_pattern", "column": "c", "like_pattern": "a%"},
        between("x", 0, None, row_condition="nonsense > 3"),
    ],
)
def test_a_check_that_cannot_be_evaluated_is_a_mistake_of_the_suite(tmp_path: Path, check: dict[str, object]) -> None:
    params = make(tmp_path, rows(), [between("x", 50, None), check])
    with pytest.raises(UsageError, match=r"checks\.1 ") as raised:
        run(params)
    assert raised.value.exit_code == 2
    assert str(raised.value).count("checks.1") == 1


def test_what_no_suite_can_cause_is_called_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    def broken(*_: object, **__: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(pd.Series, "isin", broken)
    check = {"expect": "expect_column_values_to_be_in_set", "column": "c", "value_set": ["a"]}
    with pytest.raises(AssayError, match="report it") as raised:
        run(make(tmp_path, rows(), [check]))
    assert raised.value.exit_code == 1


# --- Checks about the whole table


def test_age_of_the_newest_row(tmp_path: Path) -> None:
    check = {"expect": "newest_row", "column": "t", "not_older_than_days": 3}
    params = make(tmp_path, rows(100), [check | {"as_of": "2020-04-12"}])
    run(params)  # the newest row is of 2020-04-09
    assert outcome(results(params), "newest_row")["observed"] == "2020-04-09T00:00:00+00:00"
    for as_of in ({"as_of": "2020-04-12T00:00:01"}, {}):
        write_suite(tmp_path, [check | as_of])
        with pytest.raises(DataRejected, match="the newest row is of 2020-04-09"):
            run(params)


def test_balance_of_the_target_is_of_the_positive_class_of_the_rows_left(tmp_path: Path) -> None:
    table = rows(100) | {"y": ["late" if i < 30 else "on time" for i in range(100)]}
    table["y"][99] = None
    params = make(tmp_path, table, [NOT_NULL, {"expect": "target_balance", "min_share": 0.6, "max_share": 0.8}])
    run(params)
    assert outcome(results(params), "target_balance")["observed"] == pytest.approx(69 / 99)
    write_suite(tmp_path, [NOT_NULL, {"expect": "target_balance", "max_share": 0.5}])
    with pytest.raises(DataRejected, match=r"69\.7 % of the rows are of the positive class"):
        run(params)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        ({"expect": "expect_table_row_count_to_be_between"}, {"min_value": 100}, {"min_value": 101}),
        ({"expect": "expect_table_columns_to_match_set"}, {"column_set": list("txcgy")}, {"column_set": ["t"]}),
        ({"expect": "expect_table_column_count_to_equal"}, {"value": 5}, {"value": 6}),
        ({"expect": "expect_column_to_exist"}, {"column": "x"}, {"column": "nope"}),
        ({"expect": "expect_column_values_to_be_of_type", "column": "t"}, {"type_": "timestamp"}, {"type_": "string"}),
        (
            {"expect": "expect_column_values_to_be_in_type_list", "column": "c"},
            {"type_list": ["string", "bool"]},
            {"type_list": ["int64"]},
        ),
        (
            {"expect": "expect_column_distinct_values_to_equal_set", "column": "c"},
            {"value_set": ["a", "b"]},
            {"value_set": ["a"]},
        ),
        ({"expect": "expect_column_mean_to_be_between", "column": "x"}, {"max_value": 49.5}, {"max_value": 49}),
        ({"expect": "expect_column_max_to_be_between", "column": "t"}, {"min_value": "2020-04-09"},
         {"min_value": "2020-04-10"}),
        ({"expect": "expect_column_values_to_not_be_null", "column": "x"}, {"mostly": 0.99}, {"mostly": 0.991}),
    ],
)  # fmt: skip
def test_checks_pass_and_fail(
    tmp_path: Path, check: dict[str, object], good: dict[str, object], bad: dict[str, object]
) -> None:
    table = rows()
    if "mostly" in good:
        table["x"] = [None, *table["x"][1:]]
    params = make(tmp_path, table, [check | good, check | bad | {"severity": "warning"}])
    run(params)
    found = [o["outcome"] for o in results(params)["outcomes"] if o["kind"] == "check"]
    assert found == ["passed", "warning"]


def test_the_same_check_may_stand_twice(tmp_path: Path) -> None:
    params = make(tmp_path, rows(), [between("x", 0, None), between("x", 0, None)])
    run(params)
    assert [o["outcome"] for o in results(params)["outcomes"] if o["kind"] == "check"] == ["passed", "passed"]


def test_data_docs_are_built_on_request_and_are_no_output(tmp_path: Path) -> None:
    params = make(tmp_path, rows(), [between("x", 0, None)], data_docs=True)
    made = run(params)
    assert (tmp_path / "artifacts/data_docs/index.html").is_file()
    assert not any("docs" in name for name in made.files)


def test_results_and_report_hold_no_times(tmp_path: Path) -> None:
    params = make(tmp_path, rows(), [{"expect": "newest_row", "column": "t", "not_older_than_days": 36500}])
    run(params)
    text = (tmp_path / "artifacts/validate/results.json").read_text()
    assert str(time.gmtime().tm_year) not in text
    record = json.loads((tmp_path / "artifacts/runs/validate.json").read_text())
    assert record["measured"]["seconds"].keys() == {"checks", "profile", "splits"}


# --- As a process


def command(params: Path) -> list[str]:
    return [sys.executable, "-m", "tasks", "validate", "--params", str(params)]


def test_killed_in_the_stage_it_leaves_the_previous_output_and_the_next_run_is_as_if_nothing_was(
    tmp_path: Path,
) -> None:
    params = make(tmp_path, rows(), [between("x", 0, None)])
    run(params)
    done = tmp_path / "artifacts/validate/manifest.json"
    before = done.read_bytes()

    process = subprocess.Popen(command(params), cwd=ROOT, stderr=subprocess.DEVNULL)
    partial = tmp_path / "artifacts/.validate.partial"
    deadline = time.monotonic() + 30
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert partial.exists()
    assert done.read_bytes() == before

    run(params)
    assert done.read_bytes() == before
    assert not partial.exists()


def test_exit_codes_without_a_traceback(tmp_path: Path) -> None:
    params = make(tmp_path, rows(), [between("x", 50, None)])
    rejected = subprocess.run(command(params), cwd=ROOT, capture_output=True, text=True, check=False)
    assert rejected.returncode == 3
    assert "50 of 100 rows" in rejected.stderr
    assert "Traceback" not in rejected.stderr
    assert "Warning" not in rejected.stderr


def test_strings_with_nulls_stay_strings(tmp_path: Path) -> None:
    params = make(tmp_path, rows() | {"c": [None, *rows()["c"][1:]]})
    run(params)
    tables = [part(params, name) for name in PARTS]
    assert all(table.schema.field("c").type == pa.string() for table in tables)
    assert sum(table["c"].null_count for table in tables) == 1
