"""The page: it needs nothing else, it says what matters first, and nothing in the data can break it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from validate_world import NOT_NULL, make, rows, run

from tasks.core.errors import DataRejected

HOSTILE = '<script>alert("x")</script>'


def page(params: Path, rejected: bool = False) -> str:
    folder = params.parent / "artifacts" / ("rejected/validate" if rejected else "validate")
    return (folder / "report.html").read_text()


def test_names_and_values_are_text_whatever_they_hold(tmp_path: Path) -> None:
    table = rows() | {HOSTILE: ["<img src=x onerror=alert(1)>"] * 100, "a 'b\"\n{{c}}": [0] * 100}
    table["y"] = [None, *table["y"][1:]]
    checks = [
        NOT_NULL | {"because": "<b>bold</b>"},
        {"expect": "expect_column_values_to_be_in_set", "column": HOSTILE, "value_set": ["<i>"], "severity": "warning"},
        {"expect": "expect_column_values_to_be_between", "column": "a 'b\"\n{{c}}", "max_value": 1},
        {
            "expect": "expect_column_values_to_match_regex",
            "column": HOSTILE,
            "regex": "</td></table>",
            "severity": "warning",
        },
    ]
    text = page(make_and_run(tmp_path, table, checks))
    assert HOSTILE not in text
    assert "<img src=x" not in text
    assert "<b>bold" not in text
    assert "&lt;script&gt;" in text
    tags = set(re.findall(r"<(\w+)", text))
    assert not tags & {"script", "img", "iframe", "object", "i>"}
    assert text.count("<table") == text.count("</table>")


def make_and_run(tmp_path: Path, table: dict[str, object], checks: list[dict[str, object]]) -> Path:
    params = make(tmp_path, table, checks)
    run(params)
    return params


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    text = page(make_and_run(tmp_path, rows(), []))
    assert not re.search(r"https?:|//|@import|url\(|<link|src=", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_the_verdict_comes_first_then_what_failed_with_the_way_out(tmp_path: Path) -> None:
    checks = [
        {"expect": "expect_column_values_to_be_between", "column": "x", "min_value": 0},
        {"expect": "expect_column_values_to_be_between", "column": "x", "max_value": 9, "because": "ten is too much"},
        {"expect": "expect_column_values_to_be_between", "column": "x", "max_value": 98, "severity": "warning"},
    ]
    params = make(tmp_path, rows(), checks)
    with pytest.raises(DataRejected):
        run(params)
    text = page(params, rejected=True)
    order = [
        "Rejected: 1 of",
        "What needs attention",
        "max_value 9)",
        "90 of 100 rows (90.0 %) fail",
        "ten is too much",
        "way out",
        "max_value 98)",
        "Splits",
        "Quarantine",
        "All rules and checks",
        "Columns",
        "c0ffee",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_columns_are_described(tmp_path: Path) -> None:
    table = rows() | {"x": [None, float("nan"), *map(float, range(98))]}
    text = page(make_and_run(tmp_path, table, []))
    row = re.search(r"<td>x</td>.*?</tr>", text, re.S)
    assert row
    assert re.findall(r">([^<>\n]+)</td>", row.group()) == ["x", "float64", "2.0 %", "0", "97", "98"]
