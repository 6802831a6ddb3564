"""Why a CSV file cannot be read: the byte, the line, the field. Only run once reading has failed."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path

from tasks.core.errors import DataRejected

_CHUNK = 1 << 20


def diagnosis(path: Path, error: Exception, longest: int) -> DataRejected:
    """The error to raise for a file that the parser gave up with ``error``; ``longest`` is its limit for a row."""
    return _not_utf8(path) or _no_rows(path) or _ragged(path) or _unknown(path, error, longest)


def _unknown(path: Path, error: Exception, longest: int) -> DataRejected:
    found = f"{path}: {error}"
    way_out = (
        f"look for a row of more than {longest >> 20} MiB or a quote that is never closed, or write the file again"
    )
    return DataRejected("a CSV file must be readable", found, way_out)


def _not_utf8(path: Path) -> DataRejected | None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    start, lines = 0, 0
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            pending = decoder.getstate()[0]  # the head of a character that the previous chunk cut
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                offset = start - len(pending) + error.start
                line = lines + error.object[: error.start].count(b"\n") + 1
                return DataRejected(
                    "a CSV file must be UTF-8",
                    f"{path}: byte 0x{error.object[error.start]:02x} at offset {offset}, line {line}, is not",
                    "convert it first, for example with `iconv -f latin1 -t utf-8`",
                )
            if not chunk:
                return None
            start += len(chunk)
            lines += chunk.count(b"\n")


def _no_rows(path: Path) -> DataRejected | None:
    with path.open("rb") as file:
        records = [line for line in (file.readline() for _ in range(1000)) if line.strip()]
    if len(records) > 1:
        return None
    found = f"{path} has {'a header and no rows' if records else 'neither'}"
    return DataRejected("a table must have a header and rows", found, "check how the file was written")


def _ragged(path: Path) -> DataRejected | None:
    """The first record with another number of fields than the header."""
    width = None
    try:
        for line, record in _records(path):
            width = width or len(record)
            if len(record) != width:
                return _malformed(f"{path}, line {line}: {len(record)} fields, and {width} in the header")
    except _Broken as error:
        return _malformed(str(error))
    return None


def unclosed_quote(path: Path) -> DataRejected | None:
    """The error to raise for a file in which a quoted field never ends, if it is one."""
    try:
        for _ in _records(path, strict=True):
            pass
    except _Broken as error:
        return _malformed(str(error))
    return None


class _Broken(Exception):
    """A record that the standard library's reader cannot parse."""


def _records(path: Path, *, strict: bool = False) -> Iterator[tuple[int, list[str]]]:
    """The line (from 1) on which each record begins, and its fields; empty lines are skipped."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=strict)
        first = 1
        try:
            for record in reader:
                if record:
                    yield first, record
                first = reader.line_num + 1
        except csv.Error as error:
            raise _Broken(f"{path}, from line {first} on: {error}") from error


def _malformed(found: str) -> DataRejected:
    return DataRejected(
        "every row of a CSV file must have as many fields as its header",
        found,
        "correct the row: quote fields that hold commas or line breaks, and close every quote",
    )
