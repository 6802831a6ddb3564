"""Rows from and to files: CSV for people, .npz (without pickle) between processes."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deploy.errors import DataRejected, UsageError
from deploy.signature import Signature

_MISSING = {"", "NA", "NaN", "nan", "null", "NULL"}


def read_csv(path: Path, signature: Signature) -> dict[str, np.ndarray]:
    """The columns of a UTF-8 CSV file with a header that the signature names, as text arrays [rows].

    Raises:
        UsageError: if the file does not exist.
        DataRejected: if it is not UTF-8, has no header, names a column twice, or has a row of another length.
    """
    if not path.is_file():
        raise UsageError("rows come from a CSV file", f"{path} does not exist", "name an existing file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)  # else an unclosed quote swallows the rest of the file
            header = next(reader, [])
            numbered = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataRejected("rows must be UTF-8 CSV", f"{path}: {error}", "save the file as UTF-8 CSV") from error
    twice = sorted({name for name in header if header.count(name) > 1})
    ragged = [line for line, row in numbered if len(row) != len(header)]
    if not header or twice or ragged:
        found = "no header" if not header else f"columns given twice: {twice}" if twice else f"line {ragged[0]}"
        raise DataRejected("a CSV needs one header and rows of its length", f"{path}: {found}", "correct the file")
    rows = [row for _, row in numbered]
    wanted = {tensor.name for tensor in signature.inputs}
    return {name: _column(rows, index) for index, name in enumerate(header) if name in wanted}


def _column(rows: list[list[str]], index: int) -> np.ndarray:
    column = np.empty(len(rows), np.object_)
    column[:] = ["" if row[index] in _MISSING else row[index] for row in rows]
    return column


def write_csv(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    """Write the outputs of a model, one line a row; an output of several values a row becomes several columns."""
    flat: dict[str, np.ndarray] = {}
    for name, array in outputs.items():
        table = array.reshape(len(array), math.prod(array.shape[1:]))
        width = table.shape[1]
        flat.update({name if width == 1 else f"{name}_{i}": table[:, i] for i in range(width)})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(flat)
        writer.writerows(zip(*(column.tolist() for column in flat.values()), strict=True))


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Named arrays of a ``.npz`` file; pickled objects are refused (ValueError)."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
