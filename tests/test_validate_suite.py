"""The suite's file: what may stand in it, and how every mistake is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from validate_world import write_suite

from tasks.core.errors import Mistake, SettingsError, UsageError
from tasks.core.settings import parse
from tasks.validate import suite
from tasks.validate.suite import Expectation

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = {"t": "timestamp", "x": "float64", "c": "string"}


def mistakes(path: Path) -> dict[str, Mistake]:
    with pytest.raises(SettingsError) as raised:
        suite.load(path, COLUMNS)
    assert raised.value.exit_code == 2
    return {mistake.key: mistake for mistake in raised.value.mistakes}


def test_every_mistake_is_reported_at_once_with_its_line_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text("""\
columns:
  x: float
checks:
  - expect: expect_column_values_to_be_betwen
    column: x
  - expect: expect_column_values_to_be_between
    column: x
    min_valu: 3
    max_value: many
  - expect: expect_column_mean_to_be_between
    column: xx
    max_value: 3
    sevrity: warning
  - expect: newest_row
    colum: t
    not_older_than_days: 0
  - expect: newest_row
    column: x
    not_older_than_days: 1
  - expect: expect_table_row_count_to_equal
    value: 3
    rows: quarantine
  - expect: expect_column_values_to_be_of_type
    column: x
    type_: float
  - expect: expect_column_values_to_be_unique
    column: c
    rows: quarantine
    severity: warning
chekcs: []
""")
    found = mistakes(path)
    wanted = {
        "columns.x": (2, "Input should be 'bool', 'int64'", ""),
        "checks.0.expect": (4, "unknown expectation", "did you mean `expect_column_values_to_be_between`?"),
        "checks.1.min_valu": (8, "unknown argument", "did you mean `min_value`?"),
        "checks.1.max_value": (9, "not a valid float", "see the arguments of"),
        "checks.2.column": (11, "a column that the rows have", "did you mean `x`?"),
        "checks.2.sevrity": (13, "unknown argument", "did you mean `severity`?"),
        "checks.3.colum": (15, "unknown key", "did you mean `column`?"),
        "checks.3.column": (14, "required", "add `column:`"),
        "checks.3.not_older_than_days": (16, "greater than 0", ""),
        "checks.4.column": (18, "needs a timestamp column", "ingest.types"),
        "checks.5.rows": (22, "judges each row", "leave `rows` out"),
        "checks.6.type_": (25, "Assay's names", "float64"),
        "checks.7": (26, "a warning leaves the rows where they are", ""),
        "chekcs": (30, "unknown key", "did you mean `checks`?"),
    }
    assert found.keys() == wanted.keys()
    for key, (line, rule, way_out) in wanted.items():
        assert found[key].line == line, key
        assert rule in found[key].rule
        assert way_out in found[key].way_out


@pytest.mark.parametrize("text", ["", "- a", "checks: yes", "checks: [1, {expect: 3}, {}]", "columns: [x]"])
def test_a_file_of_another_shape_is_a_mistake_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    assert mistakes(tmp_path / "suite.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "must exist"), (b"a: [", "must be YAML"), (b"a: \xff", "UTF-8"), (b"a: 1\na: 2", "distinct keys")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "suite.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        suite.load(path, COLUMNS)


def test_a_check_may_name_a_column_that_the_suite_asks_for_though_the_rows_lack_it(tmp_path: Path) -> None:
    check = {"expect": "expect_column_values_to_be_unique", "column": "new"}
    path = write_suite(tmp_path, [check], {"new": "int64"})
    assert suite.load(path, COLUMNS).columns == {"new": "int64"}
    path = write_suite(tmp_path, [check, {"expect": "expect_column_to_exist", "column": "new"}])
    assert len(suite.load(path, COLUMNS).checks) == 2


def test_the_names_that_a_table_check_lists_are_not_looked_up(tmp_path: Path) -> None:
    check = {"expect": "expect_table_columns_to_match_ordered_list", "column_list": ["not", "there"]}
    assert suite.load(write_suite(tmp_path, [check]), COLUMNS)


def test_keys_that_are_no_text_are_read_as_text(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("columns: {2013-01-01: int64, 7: string}")
    assert suite.load(tmp_path / "suite.yaml", COLUMNS).columns == {"2013-01-01": "int64", "7": "string"}


def test_the_example_is_whole() -> None:
    example = suite.load(ROOT / "examples/flights/suite.yaml", {})
    aside = [c for c in example.checks if isinstance(c, Expectation) and c.rows == "quarantine"]
    assert {c.arguments["column"] for c in aside} == {"late", "distance"}
    assert len(example.columns) == 32


def test_the_schema_for_editors_is_up_to_date() -> None:
    """If this fails: python -m tasks.validate.schema > tasks/validate/suite.schema.json"""
    assert json.loads((ROOT / "tasks/validate/suite.schema.json").read_text()) == suite.schema()


def test_the_params_file_goes_through_the_same_reader() -> None:
    split = {"by": "time", "colum": "t", "validation_from": "2013-02-01", "test_from": "2013-01-01"}
    raw = {"base": {"name": "a", "target": "y"}, "ingest": {"source": "x"}, "validate": {"suite": "s", "split": split}}
    with pytest.raises(SettingsError) as raised:
        parse(raw)
    found = {mistake.key: mistake.way_out for mistake in raised.value.mistakes}
    assert found["validate.split.colum"] == "did you mean `column`?"
    split |= {"column": "t"}
    del split["colum"]
    with pytest.raises(SettingsError, match="validation_from < test_from"):
        parse(raw)
