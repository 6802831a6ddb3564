"""Which checks can be judged without all rows in memory: what `validate.engine: duckdb` takes, and what it refuses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from tasks.core.errors import Mistake
from tasks.core.sections import short

#: Expectations that judge a row without looking at another one.
ROW_BY_ROW = frozenset(
    {"expect_column_pair_values_a_to_be_greater_than_b", "expect_column_pair_values_to_be_equal",
     "expect_column_pair_values_to_be_in_set", "expect_column_value_lengths_to_be_between",
     "expect_column_value_lengths_to_equal", "expect_column_values_to_be_between",
     "expect_column_values_to_be_dateutil_parseable", "expect_column_values_to_be_in_set",
     "expect_column_values_to_be_json_parseable", "expect_column_values_to_be_null",
     "expect_column_values_to_match_json_schema", "expect_column_values_to_match_regex",
     "expect_column_values_to_match_regex_list", "expect_column_values_to_match_strftime_format",
     "expect_column_values_to_not_be_in_set", "expect_column_values_to_not_be_null",
     "expect_column_values_to_not_match_regex", "expect_column_values_to_not_match_regex_list",
     "expect_multicolumn_sum_to_equal", "expect_multicolumn_values_to_be_equal",
     "expect_select_column_values_to_be_unique_within_record"}
)  # fmt: skip
#: Expectations whose figures DuckDB computes.
WHOLE = frozenset(
    {"expect_column_distinct_values_to_be_in_set", "expect_column_distinct_values_to_contain_set",
     "expect_column_distinct_values_to_equal_set", "expect_column_max_to_be_between",
     "expect_column_mean_to_be_between", "expect_column_median_to_be_between", "expect_column_min_to_be_between",
     "expect_column_most_common_value_to_be_in_set", "expect_column_proportion_of_non_null_values_to_be_between",
     "expect_column_proportion_of_unique_values_to_be_between", "expect_column_quantile_values_to_be_between",
     "expect_column_stdev_to_be_between", "expect_column_sum_to_be_between",
     "expect_column_unique_value_count_to_be_between", "expect_column_values_to_be_unique",
     "expect_compound_columns_to_be_unique", "expect_table_row_count_to_be_between",
     "expect_table_row_count_to_equal"}
)  # fmt: skip
#: Expectations about the schema, and Assay's own: no engine is asked.
_NO_ENGINE = frozenset(
    {"expect_column_to_exist", "expect_column_type_to_be", "expect_column_values_to_be_of_type",
     "expect_column_values_to_be_in_type_list", "expect_table_column_count_to_be_between",
     "expect_table_column_count_to_equal", "expect_table_columns_to_match_ordered_list",
     "expect_table_columns_to_match_set", "newest_row", "target_balance"}
)  # fmt: skip
#: Methods of a column that look at one value at a time.
_OF_ONE_VALUE = frozenset({"isin", "isnull", "isna", "notnull", "notna", "between"})
#: Beyond those, what `.str` and `.dt` have does too, but for these.
_OF_ALL_VALUES = frozenset({"cat", "get_dummies", "freq"})
#: Names that pandas gives to what a frame has beside its columns.
_OF_A_FRAME = frozenset({"index", "columns", "ilevel_0", "clevel_0"})
_ENGINE = "set validate.engine: pandas, which holds the columns of a check in memory"


def mistakes_in(raw: Any) -> Iterator[Mistake]:
    """The checks of a parsed suite that need all rows in memory; nothing about those that are wrong anyway."""
    checks = raw.get("checks") if isinstance(raw, dict) else None
    for index, check in enumerate(checks if isinstance(checks, list) else []):
        if not isinstance(check, dict):
            continue
        name, condition = str(check.get("expect")), check.get("row_condition")
        if name not in ROW_BY_ROW | WHOLE | _NO_ENGINE:
            rule = "validate.engine: duckdb must be able to judge it without all rows in memory"
            yield Mistake(f"checks.{index}.expect", name, rule, f"leave it out, or {_ENGINE}")
        if condition is not None and not _of_one_row(condition):
            rule = "with validate.engine: duckdb, a condition must look at one row at a time"
            yield Mistake(f"checks.{index}.row_condition", short(condition), rule, f"rewrite it, or {_ENGINE}")
        if (parser := check.get("condition_parser", "pandas")) != "pandas":
            rule = "with validate.engine: duckdb, a condition is in the words of pandas"
            yield Mistake(f"checks.{index}.condition_parser", short(parser), rule, "leave it out")


def _of_one_row(condition: Any) -> bool:
    """Whether a condition, in the words of ``DataFrame.query``, says nothing that may look at other rows."""
    if not isinstance(condition, str):
        return False
    try:
        tree = ast.parse(re.sub(r"`[^`]*`", "name", condition.strip()), mode="eval")
    except SyntaxError:  # so are variables (@name)
        return False
    return all(_is_of_one_row(node) for node in ast.walk(tree))


def _is_of_one_row(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare) and any(isinstance(one, ast.In | ast.NotIn) for one in node.ops):
        return not any(map(_names, node.comparators))  # all values of a column, not this row's
    if isinstance(node, ast.Name):
        return node.id not in _OF_A_FRAME
    if isinstance(node, ast.Call):
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        values = given if getattr(node.func, "attr", "") == "isin" else []
        return isinstance(node.func, ast.Attribute) and not any(map(_names, values))  # the walk looks at the method
    if isinstance(node, ast.Attribute):
        of = node.value
        accessed = isinstance(of, ast.Attribute) and of.attr in ("str", "dt")
        return node.attr not in _OF_ALL_VALUES if accessed else node.attr in _OF_ONE_VALUE | {"str", "dt"}
    return not isinstance(node, ast.Subscript)


def _names(node: ast.AST) -> bool:
    """Whether a column is named there."""
    return any(isinstance(one, ast.Name) for one in ast.walk(node))
