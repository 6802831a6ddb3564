"""Rows from and to files: CSV for people, .npz (without pickle) for arrays and between processes."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deploy.errors import DataRejected, UsageError
from deploy.signature import MISSING, Signature, Tensor

_MISSING = {"", "NA", "NaN", "nan", "null", "NULL"}


def read(path: Path, signature: Signature) -> dict[str, np.ndarray]:
    """The inputs that a file holds: arrays of a ``.npz``, or columns of any other file, which is taken for CSV.

    Raises:
        UsageError: if the file does not exist.
        DataRejected: if it is not what its name says.
    """
    if path.suffix.lower() != ".npz":
        return read_csv(path, signature)
    if not path.is_file():
        raise UsageError("rows come from a file", f"{path} does not exist", "name an existing file")
    try:
        return read_npz(path)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        rule = "arrays come from a whole .npz file without Python objects"
        raise DataRejected(rule, f"{path}: {error}", "write it anew with numpy.savez") from error


def read_csv(path: Path, signature: Signature) -> dict[str, np.ndarray]:
    """The columns of a UTF-8 CSV file with a header that the signature names, as text arrays [rows].

    An input of several values a row (a history) is a JSON list in its cell; the rows' lists are padded at their end
    with what stands for "missing", to an array [rows, longest].

    Raises:
        UsageError: if the file does not exist.
        DataRejected: if it is not UTF-8, has no header, names a column twice, or has a row of another length or a
            cell that is no list where one must be.
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
    wanted = {tensor.name: tensor for tensor in signature.inputs}
    columns = {name: _column(rows, index) for index, name in enumerate(header) if name in wanted}
    return {
        name: column if wanted[name].is_column else _padded(column, wanted[name], path)
        for name, column in columns.items()
    }


def _padded(column: np.ndarray, tensor: Tensor, path: Path) -> np.ndarray:
    try:
        lists = [json.loads(cell or "[]") for cell in column]
        if not all(isinstance(row, list) for row in lists):
            raise TypeError("a cell holds something else")
    except (ValueError, TypeError) as error:
        rule = f"each cell of {tensor.name} must be a JSON list"
        raise DataRejected(rule, f"{path}: {error}", 'write for example ["a", "b"], or [] for none') from error
    padded = np.full((len(lists), max(map(len, lists), default=0)), MISSING[tensor.datatype], np.object_)
    for row, values in zip(padded, lists, strict=True):
        row[: len(values)] = values
    return padded if tensor.datatype == "BYTES" else padded.astype(np.int64 if tensor.datatype == "INT64" else float)


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
