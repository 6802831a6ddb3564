"""Every engine leaves the same splits, quarantine, results and page of the same rows."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from validate_world import NOT_NULL, days, make, outcome, part, results, run

from tasks.core.errors import DataRejected, MachineError, SettingsError, UsageError
from tasks.validate.batchable import ROW_BY_ROW, WHOLE

ROWS = 300
FILES = ("train", "validation", "test", "fresh", "calibration", "quarantine")
needs_duckdb = pytest.mark.skipif(not importlib.util.find_spec("duckdb"), reason="the extra `duckdb` is not installed")
pytestmark = needs_duckdb


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several batches of this small table."""
    monkeypatch.setattr("tasks.validate.snapshot.BATCH_BYTES", 8_000)


def table() -> dict[str, list[Any]]:
    """Every type, with missing values, NaN, repeats, and values that break the checks below; some only late."""
    random = np.random.default_rng(3)
    x = [
        float("nan") if i == 7 else None if i == 250 else float(value)
        for i, value in enumerate(random.normal(size=ROWS))
    ]
    return {
        "t": [None if i == 20 else moment for i, moment in enumerate(days(ROWS))],
        "x": x,
        "u": [float(i % 297) for i in range(ROWS)],
        "n": [None if i > 290 else (i * 7) % 50 for i in range(ROWS)],
        "big": [None if i == 5 else (1 << 60) + i for i in range(ROWS)],
        "k": [i // 2 for i in range(ROWS)],
        "c": ["zz" if i in (60, 299) else None if i == 8 else "aäb"[i % 3] for i in range(ROWS)],
        'odd "name"': [f"{i}.5" if i != 100 else "word" for i in range(ROWS)],
        "d": ["2020-01-02" if i != 31 else "2 Jan" for i in range(ROWS)],
        "j": ['{"a": 1}' if i != 200 else "{}" for i in range(ROWS)],
        "b": [None if i == 9 else i % 3 == 0 for i in range(ROWS)],
        "g": [f"group {i // 5}" for i in range(ROWS)],
        "p": [("train", "train", "validation", "test")[i // 5 % 4] for i in range(ROWS)],
        "y": [None if i == 40 else (i // 2) % 2 for i in range(ROWS)],
    }


def check(name: str, **arguments: Any) -> dict[str, Any]:
    return {"expect": f"expect_{name}", "severity": "warning", **arguments}


#: A check that passes and one that fails, for every expectation that the engine for large tables takes.
CHECKS = [
    check("column_values_to_be_between", column="x", min_value=-1),
    check("column_values_to_be_between", column="n", min_value=3, mostly=0.9),
    check("column_values_to_be_between", column="big", min_value=(1 << 60) + 3),
    check("column_values_to_be_between", column="t", min_value="2020-01-03"),
    check("column_values_to_be_between", column="x", max_value=0, row_condition='n > 20 and c.isin(["a"])'),
    check("column_values_to_not_be_null", column="n"),
    check("column_values_to_not_be_null", column="n", mostly=0.5),
    check("column_values_to_be_null", column="b", mostly=0.1),
    check("column_values_to_be_in_set", column="c", value_set=["a", "b"]),
    check("column_values_to_be_in_set", column="b", value_set=[True]),
    check("column_values_to_not_be_in_set", column="c", value_set=["zz"]),
    check("column_values_to_match_regex", column="c", regex="^[ab]$"),
    check("column_values_to_match_regex", column="c", regex=r"^\w{1}$(?<!z)"),  # what RE2 would refuse
    check("column_values_to_not_match_regex", column="c", regex="z"),
    check("column_values_to_match_regex_list", column="c", regex_list=["a", "b"], match_on="any"),
    check("column_values_to_not_match_regex_list", column="c", regex_list=["z", "q"]),
    check("column_values_to_match_strftime_format", column="d", strftime_format="%Y-%m-%d"),
    check("column_values_to_be_dateutil_parseable", column='odd "name"'),
    check("column_values_to_be_json_parseable", column='odd "name"'),
    check("column_values_to_match_json_schema", column="j", json_schema={"required": ["a"]}),
    check("column_value_lengths_to_equal", column="c", value=1),
    check("column_value_lengths_to_be_between", column="c", max_value=2),
    check("column_pair_values_a_to_be_greater_than_b", column_A="u", column_B="n", or_equal=True),
    check("column_pair_values_to_be_equal", column_A="k", column_B="n", ignore_row_if="either_value_is_missing"),
    check("column_pair_values_to_be_in_set", column_A="b", column_B="y", value_pairs_set=[[True, 0], [False, 1]]),
    check("multicolumn_sum_to_equal", column_list=["k", "y"], sum_total=4),
    check("multicolumn_values_to_be_equal", column_list=["k", "y"]),
    check("select_column_values_to_be_unique_within_record", column_list=["k", "n"]),
    check("column_values_to_be_unique", column="u"),
    check("column_values_to_be_unique", column="u", mostly=0.5),
    check("column_values_to_be_unique", column="x", row_condition="k < 100"),
    check("column_values_to_be_unique", column="n"),
    check("compound_columns_to_be_unique", column_list=["c", "n"]),
    check("compound_columns_to_be_unique", column_list=["n", "c"], ignore_row_if="any_value_is_missing"),
    check("compound_columns_to_be_unique", column_list=["n", "c"], ignore_row_if="never"),
    check("compound_columns_to_be_unique", column_list=["t", "u"]),
    *(check(f"column_{name}_to_be_between", column=column, min_value=0, max_value=1)
      for name in ("mean", "stdev", "sum", "median", "min", "max") for column in ("x", "n", "k")),
    check("column_mean_to_be_between", column="b", max_value=0.4),
    check("column_median_to_be_between", column="b", max_value=0.4),
    *(check(f"column_{name}_to_be_between", column="x", max_value=0, row_condition="k > 1000")
      for name in ("sum", "mean", "stdev", "max")),
    check("column_mean_to_be_between", column="x", min_value=0, row_condition="k > 100"),
    check("column_max_to_be_between", column="t", min_value="2020-01-03"),
    check("column_min_to_be_between", column="t", min_value="2020-01-03"),
    check("column_quantile_values_to_be_between", column="x",
          quantile_ranges={"quantiles": [0, 0.05, 0.5, 0.91, 1], "value_ranges": [[-9, 9]] * 5}),
    check("column_quantile_values_to_be_between", column="n",
          quantile_ranges={"quantiles": [0.25, 0.75], "value_ranges": [[0, 1], [None, 9]]}),
    *(check(f"column_distinct_values_to_{how}", column="c", value_set=["a", "b", "q"])
      for how in ("be_in_set", "contain_set", "equal_set")),
    check("column_distinct_values_to_be_in_set", column="n", value_set=[*range(50)], row_condition="k > 3"),
    check("column_distinct_values_to_contain_set", column="b", value_set=[True, False]),
    check("column_unique_value_count_to_be_between", column="n", max_value=40),
    check("column_proportion_of_unique_values_to_be_between", column="n", min_value=0.5),
    check("column_proportion_of_non_null_values_to_be_between", column="n", min_value=0.99),
    check("column_most_common_value_to_be_in_set", column="c", value_set=["a"]),
    check("column_most_common_value_to_be_in_set", column="n", value_set=[1]),
    check("column_most_common_value_to_be_in_set", column="t", value_set=["2020-01-01"], ties_okay=True),
    check("table_row_count_to_equal", value=3),
    check("table_row_count_to_equal", value=ROWS - 1),
    check("table_row_count_to_be_between", min_value=3),
    check("table_row_count_to_be_between", max_value=3),
    check("column_distinct_values_to_equal_set", column="b", value_set=[True, False]),
    check("column_unique_value_count_to_be_between", column="n", max_value=50),
    check("column_proportion_of_unique_values_to_be_between", column="n", max_value=0.5),
    check("column_proportion_of_non_null_values_to_be_between", column="n", min_value=0.9),
    check("column_most_common_value_to_be_in_set", column="b", value_set=[False]),
    check("column_stdev_to_be_between", column="x", max_value=3),
    check("column_value_lengths_to_be_between", column="c", max_value=1),
    check("column_values_to_be_of_type", column="x", type_="float64"),
    {"expect": "newest_row", "column": "t", "not_older_than_days": 36500},
    {"expect": "target_balance", "min_share": 0.1},
]  # fmt: skip
CHECKS += [one | {"mostly": 0.001} for one in CHECKS if one["expect"] in ROW_BY_ROW]

ASIDE = [
    NOT_NULL,
    check("column_values_to_be_between", column="x", min_value=-2.4),
    check("column_values_to_match_regex", column="c", regex="^[aäb]$"),
    check("column_values_to_be_unique", column="u"),
    check("compound_columns_to_be_unique", column_list=["k", "u"]),
    check("column_values_to_be_unique", column="big"),
    check("column_values_to_not_be_null", column="t"),
    check("column_values_to_be_between", column="big", min_value=(1 << 60) + 2),
    check("column_values_to_be_between", column="k", min_value=3, row_condition="b == True"),
    check("column_values_to_be_unique", column="k", row_condition="u < 4 and b == True"),
]


def left(root: Path, engine: str, checks: list[dict[str, Any]], **validate: Any) -> dict[str, Any]:
    """All that the stage leaves with an engine: results, page, and every file's rows."""
    folder = root / engine
    folder.mkdir()
    params = make(folder, table(), checks, engine=engine, max_quarantine_share=0.3, **validate)
    run(params)
    assert not list((folder / "artifacts/scratch").glob("validate*")), "what lay on the disk is gone"
    out = folder / "artifacts/validate"
    rows = {name: (out / f"{name}.parquet").read_bytes() for name in FILES}  # equal rows give equal bytes
    aside = part(params, "quarantine")["reason"].to_pylist()
    return {"results": results(params), "files": rows, "page": (out / "report.html").read_text(), "aside": aside}


def same(one: Any, other: Any, where: str = "") -> None:
    """Equal, but for the last digits of a float: the sum of numbers depends on their order."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-12), where
    elif isinstance(one, Mapping) and isinstance(other, Mapping):
        assert one.keys() == other.keys(), where
        for key in one:
            same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, f"{where}.{index}")
    else:
        assert (type(one), one) == (type(other), other), where


def test_every_check_has_the_same_result(tmp_path: Path) -> None:
    checks, engines = [*CHECKS, NOT_NULL], ("pandas", "duckdb")
    found = {engine: left(tmp_path, engine, checks, data_docs=True)["results"] for engine in engines}
    assert all((tmp_path / engine / "artifacts/data_docs/index.html").is_file() for engine in engines)
    for one, other in zip(found["pandas"]["outcomes"], found["duckdb"]["outcomes"], strict=True):
        same(one, other, one["title"])
    same(found["pandas"], found["duckdb"])
    said = {(o["name"], o["outcome"]) for o in found["duckdb"]["outcomes"]}
    assert said >= {(name, outcome) for name in ROW_BY_ROW | WHOLE for outcome in ("passed", "warning")}


@pytest.mark.parametrize("engine", ["pandas", "duckdb"])
def test_failed_errors_reject_the_rows(tmp_path: Path, engine: str) -> None:
    (tmp_path / "a[1]*").mkdir()  # no pattern of paths
    failing = [
        {"expect": "expect_column_values_to_be_in_set", "column": "c", "value_set": ["a", "b", "ä"]},
        {"expect": "expect_column_values_to_be_unique", "column": "k"},
        {"expect": "expect_column_mean_to_be_between", "column": "x", "min_value": 9},
        {"expect": "expect_column_values_to_be_unique", "column": "g", "rows": "quarantine"},
    ]
    params = make(tmp_path / "a[1]*", table(), [NOT_NULL, *failing], engine=engine)
    with pytest.raises(DataRejected, match="4 failed"):
        run(params)
    assert not (params.parent / "artifacts/validate").exists()
    told = results(params, rejected=True)["outcomes"]
    found = [(o["name"], o["unexpected_count"]) for o in told if o["outcome"] == "failed" and o["kind"] == "check"]
    assert found == [
        ("expect_column_values_to_be_in_set", 2),
        ("expect_column_values_to_be_unique", 298),
        ("expect_column_mean_to_be_between", None),
        ("expect_column_values_to_be_unique", 300),
    ]


@pytest.mark.parametrize(
    "split",
    [
        {"by": "time", "column": "t", "validation_from": "2020-05-01", "test_from": "2020-07-01",
         "fresh_from": "2020-10-01"},
        {"by": "random", "validation": 0.2, "test": 0.2},
        {"by": "stratified", "validation": 0.2, "test": 0.2},
        {"by": "group", "column": "g", "validation": 0.2, "test": 0.2},
        {"by": "predefined", "column": "p", "group": "g"},
    ],
    ids=lambda split: split["by"],
)  # fmt: skip
def test_rows_go_to_the_same_places_for_the_same_reasons(tmp_path: Path, split: dict[str, Any]) -> None:
    checks = [one | {"rows": "quarantine", "severity": "error"} for one in ASIDE]
    pandas, duckdb = (left(tmp_path, engine, checks, split=split) for engine in ("pandas", "duckdb"))
    for name in FILES:
        assert pandas["files"][name] == duckdb["files"][name], name
    assert len(duckdb["aside"]) > 10
    assert any("; " in reason for reason in duckdb["aside"]), "rows that fail twice say both"
    same(pandas["results"], duckdb["results"])
    assert pandas["page"] == duckdb["page"]


def test_quantities_too(tmp_path: Path) -> None:
    pandas, duckdb = (left(tmp_path, engine, [NOT_NULL], base={"target": "u"}) for engine in ("pandas", "duckdb"))
    assert pandas == duckdb


def test_a_column_of_two_words_and_zeros_with_a_sign_too(tmp_path: Path) -> None:
    rows = table() | {"dep delay": [0.0 if i % 3 else -0.0 for i in range(ROWS)], "late-by": list(range(ROWS))}
    checks = [
        check("column_values_to_be_between", column="x", min_value=3, row_condition="`dep delay` < 1 and `late-by` > 9")
    ]
    left_by = []
    for engine in ("pandas", "duckdb"):
        (tmp_path / engine).mkdir()
        params = make(tmp_path / engine, rows, [NOT_NULL, *checks], engine=engine)
        run(params)
        left_by.append(results(params))
    same(*left_by)
    found = outcome(left_by[0], "expect_column_values_to_be_between")
    assert found["outcome"] == "warning"


def test_interactions_too(tmp_path: Path) -> None:
    rows = {"user": [i % 20 for i in range(200)], "item": [i * 7 % 31 for i in range(200)], "when": days(200)}
    left_by = {}
    for engine in ("pandas", "duckdb"):
        (tmp_path / engine).mkdir()
        base = {"workload": "recommender", "target": "item", "user": "user", "time": "when"}
        checks = [check("compound_columns_to_be_unique", column_list=["user", "when"])]
        params = make(tmp_path / engine, rows, checks, base=base, split={"by": "leave_last"}, engine=engine)
        run(params)
        left_by[engine] = [part(params, name) for name in FILES], results(params)
    assert left_by["pandas"] == left_by["duckdb"]


@pytest.mark.parametrize(
    "one",
    [
        check("column_values_to_be_increasing", column="x"),
        check("column_value_z_scores_to_be_less_than", column="x", threshold=3, double_sided=True),
        check("column_values_to_be_between", column="x", min_value=0, row_condition="x > x.mean()"),
        check("column_values_to_be_between", column="x", min_value=0, row_condition="index > 3"),
        *(
            check("column_values_to_be_between", column="x", min_value=0, row_condition=condition)
            for condition in (
                "x > @limit",
                "ilevel_0 > 3",
                "x > x[0]",
                "k in x",
                "k not in [x, 2]",
                "k.isin(x)",
                "k.isin(values=x)",
                "x.size > 3",
                "c.str.cat() == 'a'",
                "sin(x) > 0",
            )
        ),
        check("column_values_to_be_between", column="x", row_condition="x > 0", condition_parser="spark", min_value=0),
    ],
    ids=str,
)
def test_what_needs_all_rows_in_memory_is_refused_with_the_way_out(tmp_path: Path, one: dict[str, Any]) -> None:
    params = make(tmp_path, table(), [one], engine="duckdb")
    with pytest.raises(SettingsError, match=r"engine: duckdb") as raised:
        run(params)
    assert [mistake.key.split(".")[:2] for mistake in raised.value.mistakes] == [["checks", "0"]]


@pytest.mark.parametrize("name", ["mean", "median", "max"])
def test_a_check_that_does_not_fit_its_column_is_a_mistake_of_the_suite(tmp_path: Path, name: str) -> None:
    params = make(tmp_path, table(), [NOT_NULL, check(f"column_{name}_to_be_between", column="c", min_value=1)])
    params.write_text(params.read_text().replace('"validate": {', '"validate": {"engine": "duckdb", '))
    with pytest.raises(UsageError, match=r"checks\.1 "):
        run(params)


@pytest.mark.parametrize("name", ["mean", "values"])
@pytest.mark.parametrize("condition", ["nosuch > 3", "c > 3"])
def test_so_is_a_condition_that_cannot_be_evaluated(tmp_path: Path, name: str, condition: str) -> None:
    one = check(f"column_{name}_to_be_between", column="x", min_value=1, row_condition=condition)
    params = make(tmp_path, table(), [NOT_NULL, one], engine="duckdb")
    with pytest.raises(UsageError, match=r"checks\.1 .*(nosuch|Invalid comparison)"):
        run(params)


def test_memory_that_runs_out_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr("tasks.validate.on_disk._holding", full)
    one = check("column_mean_to_be_between", column="x", min_value=1, row_condition="k > 3")
    params = make(tmp_path, table(), [NOT_NULL, one], engine="duckdb")
    with pytest.raises(MachineError, match="no more"):
        run(params)


def test_a_missing_package_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = make(tmp_path, table(), [NOT_NULL], engine="duckdb")
    monkeypatch.setattr("tasks.core.chosen.importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install '\.\[duckdb\]'"):
        run(params)


def test_a_disk_that_is_full_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    monkeypatch.setattr("tasks.validate.on_disk._source", full)
    params = make(tmp_path, table(), [NOT_NULL, check("column_values_to_be_unique", column="u")], engine="duckdb")
    with pytest.raises(MachineError, match="room on the disk"):
        run(params)
    assert not (tmp_path / "artifacts/validate").exists()
    assert not list((tmp_path / "artifacts/scratch").rglob("*.duckdb"))
