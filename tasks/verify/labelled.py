"""Labelled rows outside a pipeline: a table or arrays in a file, and what can be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import tensors
from tasks.core.errors import DataRejected, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_READ = {".csv": "CSV", ".parquet": "Parquet", ".npz": "npz"}


def read(path: Path, label: str, task: str, classes: int | None) -> tuple[pa.Table, dict[str, Any]]:
    """The rows, and their facts in the words of the stage `validate`.

    Args:
        path: a .csv or .parquet table, or the arrays of a .npz, each [rows, ...].
        label: the column or array of the labels, [rows].
        task: ``auto``, ``binary``, ``multiclass`` or ``regression``.
        classes: labels are the integers below it; None takes the labels that occur.

    Raises:
        UsageError: if there is no such file, or it has no such labels.
        DataRejected: if it is not what its name says, or its labels do not fit the task.
    """
    if path.suffix.lower() not in _READ or not path.is_file():
        found = f"{path} does not exist" if path.suffix.lower() in _READ else str(path)
        raise UsageError("labelled rows come from a .csv, .parquet or .npz file", found, "name such a file")
    rows, arrays = _arrays(path) if path.suffix.lower() == ".npz" else (_table(path), {})
    if label not in rows.column_names:
        raise UsageError(
            "--label names the labels", f"`{label}`; there are {', '.join(rows.column_names)}", "name one of them"
        )
    task, values = _classes(rows[label], task, classes)
    kinds = {name: _kind(rows.schema.field(name).type) for name in rows.column_names if name not in arrays}
    facts = {"target": label, "task": task, "classes": values, "columns": kinds, "tensors": arrays, "split": {}}
    return rows, facts | {"time_column": None}


def _table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        return pyarrow.csv.read_csv(path) if path.suffix.lower() == ".csv" else pyarrow.parquet.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataRejected(f"{path.name} must be a whole table", str(error)[:500], "write it anew") from error


def _arrays(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """One value a row as plain columns; arrays as binary columns, with ``dtype`` and ``shape`` of each."""
    import zipfile

    import pyarrow as pa

    from deploy.rows import read_npz

    try:
        found = read_npz(path)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataRejected(
            "arrays come from a whole .npz file without Python objects", f"{path}: {error}", "write it anew"
        ) from error
    lengths = {name: len(array) if array.ndim else 0 for name, array in found.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataRejected("all arrays must have the same number of rows", f"{path}: {lengths}", "write them anew")
    columns, stored = {}, {}
    for name, array in found.items():
        if array.ndim == 1:
            columns[name] = pa.array(array)
            continue
        kept = array if array.dtype.name in tensors.DTYPES else array.astype(np.float32)
        columns[name] = tensors.to_arrow(kept)
        stored[name] = {"dtype": kept.dtype.name, "shape": list(kept.shape[1:])}
    return pa.table(columns), stored


def _kind(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int64"
    return "float64" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "string"


def _classes(labels: pa.ChunkedArray, task: str, count: int | None) -> tuple[str, tuple[Any, ...]]:
    """The task, and the labels' values in order: fractions are a quantity, two values two classes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if labels.null_count:
        raise DataRejected("every row needs its label", f"{labels.null_count} have none", "leave such rows out")
    if pa.types.is_temporal(labels.type) or pa.types.is_nested(labels.type):
        way_out = "give the class as a text or an integer, or the quantity as a number"
        raise DataRejected("labels are classes or quantities", f"they are {labels.type}", way_out)
    is_fraction = pa.types.is_floating(labels.type) or pa.types.is_decimal(labels.type)
    if task == "regression" or (task == "auto" and is_fraction):
        return "regression", ()
    values: Sequence[Any] = sorted(pc.unique(labels).to_pylist())
    if count is not None:
        outside = [value for value in values if not (isinstance(value, int) and 0 <= value < count)]
        if outside:
            raise DataRejected(
                "with --classes, labels are the integers below it", f"{outside[:5]}", "correct the labels or the number"
            )
        values = range(count)
    fits = {"auto": len(values) >= 2, "binary": len(values) == 2, "multiclass": len(values) > 2}[task]
    if not fits:
        way_out = "give --task regression, --classes, or rows of every class"
        raise DataRejected(f"labels must fit the task ({task})", f"{len(values)} different values", way_out)
    return "binary" if len(values) == 2 else "multiclass", tuple(values)
