"""From a check in the suite to a Great Expectations object, and every mistake on that way.

The pydantic model that Great Expectations keeps for each expectation is the judge of its arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from tasks.core.errors import Mistake
from tasks.core.sections import nearest, short, unknown_key
from tasks.core.splitting import moment
from tasks.validate.suite import Check, Expectation, NewestRow

#: Expectations about a column's type are judged from the snapshot's schema, in Assay's five names of types.
TYPE_EXPECTATIONS = frozenset(
    {"expect_column_type_to_be", "expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list"}
)
TYPES = ("bool", "int64", "float64", "string", "timestamp")

_OUR_KEYS = frozenset({"expect", "severity", "rows", "because"})
_COLUMN_KEYS = ("column", "column_A", "column_B")
_CONDITION_KEYS = ("row_condition", "ignore_row_if")
_VALUE_KEYS = ("min_value", "max_value", "value_set")
# These ask a database.
_NEEDS_SQL = frozenset({"expect_query_results_to_match_comparison", "expect_table_row_count_to_equal_other_table"})


def names() -> list[str]:
    """Standard names of the expectations that can be written in a suite, sorted."""
    import great_expectations.expectations.core  # noqa: F401 (registers them)
    from great_expectations.expectations.registry import list_registered_expectation_implementations

    found = list_registered_expectation_implementations()
    return sorted(name for name in found if name.startswith("expect_") and name not in _NEEDS_SQL)


def build(name: str, arguments: Mapping[str, Any], columns: Mapping[str, str], **common: Any) -> Any:
    """Make the expectation.

    Args:
        name: standard name, one of :func:`names`.
        arguments: its own arguments, as the suite has them.
        columns: name -> type of the snapshot's columns; values for a timestamp column become aware datetimes.
        common: arguments that every expectation takes (``meta``, ``severity``).

    Raises:
        pydantic.v1.ValidationError: if the arguments do not fit.
    """
    given = dict(arguments)
    if columns.get(str(given.get("column"))) == "timestamp":
        given |= {key: _moments(given[key]) for key in _VALUE_KEYS if key in given}
    if isinstance(given.get("row_condition"), str):
        given.setdefault("condition_parser", "pandas")
    return _class(name)(**given, **common)


def columns_read(check: Check, columns: Mapping[str, str]) -> tuple[str, ...]:
    """Columns of the snapshot whose rows a check needs, in the snapshot's order.

    A condition is searched for the columns' names: one too many only costs memory.
    """
    if not isinstance(check, Expectation):
        return (check.column,) if isinstance(check, NewestRow) else ()
    conditions = json.dumps([check.arguments.get(key) for key in _CONDITION_KEYS], ensure_ascii=False)
    words = set(re.findall(r"\w+", conditions))
    named = set(columns_named(check.expect, check.arguments))

    def is_meant(name: str) -> bool:
        spelt = json.dumps(name, ensure_ascii=False)
        return name in words or spelt in conditions or f"`{spelt[1:-1]}`" in conditions

    return tuple(name for name in columns if name in named or is_meant(name))


def columns_named(name: str, arguments: Mapping[str, Any]) -> list[str]:
    """Columns that the arguments name as the ones to look at."""
    found = [arguments[key] for key in _COLUMN_KEYS if isinstance(arguments.get(key), str)]
    listed = arguments.get("column_list")
    # The table's list of columns is an expectation of its own: its names are not looked up.
    if isinstance(listed, list) and not name.startswith("expect_table_"):
        found += [column for column in listed if isinstance(column, str)]
    return found


def is_row_level(name: str) -> bool:
    """Whether the expectation judges each row, so that the failing ones can be set aside."""
    from great_expectations.expectations import expectation as base

    kinds = (base.ColumnMapExpectation, base.ColumnPairMapExpectation, base.MulticolumnMapExpectation)
    return issubclass(_class(name), kinds) and name not in TYPE_EXPECTATIONS


def mistakes_in(raw: Any, columns: Mapping[str, str]) -> list[Mistake]:
    """Every mistake in the checks of a parsed suite that only Great Expectations or the snapshot can tell.

    Args:
        raw: the parsed file, possibly not even a suite.
        columns: name -> type of the snapshot's columns.
    """
    checks = raw.get("checks") if isinstance(raw, dict) else None
    if not isinstance(checks, list):
        return []
    declared = raw.get("columns")
    types = {**columns, **(declared if isinstance(declared, dict) else {})}
    all_names = names()
    found: list[Mistake] = []
    presence = [c for c in checks if isinstance(c, dict) and c.get("expect") == "expect_column_to_exist"]
    known = set(types) | {str(check.get("column")) for check in presence}
    for index, check in enumerate(checks):
        if isinstance(check, dict) and isinstance(check.get("expect"), str):
            found += _unknown_columns(f"checks.{index}", check, known)
            found += _mistakes_in_check(f"checks.{index}", check, types, all_names)
    return found


def _mistakes_in_check(
    key: str, check: Mapping[str, Any], types: Mapping[str, str], all_names: list[str]
) -> Iterator[Mistake]:
    name = check["expect"]
    if name in ("newest_row", "target_balance"):
        if types.get(str(check.get("column")), "timestamp") != "timestamp":
            way_out = "give it `timestamp` under ingest.types, or name another column"
            yield Mistake(f"{key}.column", short(check["column"]), "newest_row needs a timestamp column", way_out)
        return
    if name not in all_names:
        yield unknown_key(f"{key}.expect", name, name, [*all_names, "newest_row", "target_balance"], "expectation")
        return
    arguments = {argument: value for argument, value in check.items() if argument not in _OUR_KEYS}
    allowed = _arguments(name)
    for argument in sorted(arguments.keys() - allowed):
        yield unknown_key(f"{key}.{argument}", arguments[argument], argument, allowed | _OUR_KEYS, "argument")
    yield from _wrong_arguments(key, name, {a: v for a, v in arguments.items() if a in allowed}, types)
    if check.get("rows") == "quarantine" and not is_row_level(name):
        rule = "only a check that judges each row can set rows aside"
        yield Mistake(f"{key}.rows", '"quarantine"', rule, f"leave `rows` out, or use another check than {name}")


def _unknown_columns(key: str, check: Mapping[str, Any], known: set[str]) -> Iterator[Mistake]:
    for column in columns_named(check["expect"], check):
        if column not in known:
            rule = "a check must be about a column that the rows have, or that `columns:` asks for"
            yield Mistake(f"{key}.column", short(column), rule, nearest(column, known))


def _wrong_arguments(
    key: str, name: str, arguments: Mapping[str, Any], columns: Mapping[str, str]
) -> Iterator[Mistake]:
    from pydantic.v1 import ValidationError

    if name in TYPE_EXPECTATIONS:
        given = arguments.get("type_list", [arguments.get("type_")])
        if not isinstance(given, list) or not set(map(str, given)) <= set(TYPES):
            argument = "type_list" if name.endswith("_list") else "type_"
            rule = "a column's type goes by Assay's names"
            yield Mistake(f"{key}.{argument}", short(given), rule, f"choose from {', '.join(TYPES)}")
    try:
        build(name, arguments, columns)
    except ValidationError as error:
        rules: dict[str, list[str]] = {}
        for detail in error.errors():
            rules.setdefault(str(detail["loc"][0]), []).append(detail["msg"])
        for argument, texts in rules.items():
            whole = argument == "__root__"
            if whole and len(rules) > 1:
                continue  # a rule about all arguments together says little while one of them is wrong
            value = short(arguments) if whole else short(arguments[argument]) if argument in arguments else "(missing)"
            rule = "; ".join(dict.fromkeys(texts))
            where = key if whole else f"{key}.{argument}"
            yield Mistake(where, value, rule, f"see the arguments of {name}: {', '.join(sorted(_arguments(name)))}")


def _class(name: str) -> Any:
    from great_expectations.expectations.registry import get_expectation_impl

    return get_expectation_impl(name)


def _arguments(name: str) -> frozenset[str]:
    from great_expectations.expectations import expectation as base

    own = set(_class(name).__fields__) - set(base.Expectation.__fields__)
    return frozenset(own - {"batch_id", "library_metadata"})


def _moments(value: Any) -> Any:
    if isinstance(value, list):
        return [_moments(item) for item in value]
    if isinstance(value, str):
        try:
            return moment(datetime.fromisoformat(value))
        except ValueError:
            return value  # not a moment: Great Expectations says so
    return moment(value) if isinstance(value, date) else value
