"""Labels that come after the answers, found by the rows' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.signature import Signature
from tasks.core.errors import DataRejected, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: Column of the rows' names.
ID = "id"
_SHOWN = 3


def table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a .csv or .parquet file; only those that are there.

    Raises:
        UsageError: if there is no such file.
        DataRejected: if it is not what its name says.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    if path.suffix.lower() not in (".csv", ".parquet") or not path.is_file():
        raise UsageError("a table is a .csv or .parquet file that exists", str(path), "correct the path")
    try:
        if path.suffix.lower() == ".parquet":
            there = pq.read_schema(path).names
            return pq.read_table(path, columns=[name for name in columns if name in there])
        as_text = pyarrow.csv.ConvertOptions(column_types={ID: pa.string()})
        found = pyarrow.csv.read_csv(path, convert_options=as_text)
        return found.select([name for name in columns if name in found.column_names])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRejected("a table must be whole", f"{path}: {str(error)[:300]}", "write it anew") from error


def read(path: Path, target: str, signature: Signature) -> dict[str, float]:
    """Name of a row -> its label: class index, or quantity. Rows without a label have none yet.

    Raises:
        UsageError: if there is no such file, or it lacks one of the two columns.
        DataRejected: if a row has two different labels, or a label is none that the model knows.
    """
    found = table(path, (ID, target))
    if absent := {ID, target} - {*found.column_names}:
        rule = f"labels have the columns `{ID}` (of the prediction) and `{target}`"
        raise UsageError(rule, f"{path} lacks {', '.join(sorted(absent))}", "add them")
    names = [str(name) for name in found[ID].to_pylist()]
    values = index(found[target], signature, path)
    labels: dict[str, float] = {}
    twice = []
    for name, value in zip(names, values.tolist(), strict=True):
        if np.isnan(value):
            continue
        if labels.setdefault(name, value) != value:
            twice.append(name)
    if twice:
        found_names = ", ".join(twice[:_SHOWN])
        raise DataRejected("a row has one label", f"{path}: {len(twice)} have several: {found_names}", "correct them")
    return labels


def index(column: pa.ChunkedArray, signature: Signature, path: Path) -> np.ndarray:
    """Labels as a metric takes them, float64 [rows]: index among the model's own, or the quantity; NaN for null.

    Raises:
        DataRejected: if one is none that the model knows.
    """
    known = signature.outputs[0].labels
    given = column.to_pylist()
    if known is None:
        return np.array([np.nan if value is None else _number(value, path) for value in given], np.float64)
    places = {_word(value): float(place) for place, value in enumerate(known)}
    strange = sorted({str(value) for value in given if value is not None and _word(value) not in places})
    if strange:
        found = f"{path}: {', '.join(strange[:_SHOWN])}; it knows {', '.join(map(str, known[:10]))}"
        raise DataRejected("labels are those that the model knows", found, "correct them, or train a model on them")
    return np.array([np.nan if value is None else places[_word(value)] for value in given], np.float64)


def _word(value: Any) -> str:
    """One word for a label, however a file holds it: 1, 1.0 and "1" are one."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).lower() if isinstance(value, bool | float) else str(value)


def _number(value: Any, path: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataRejected("labels of a quantity are numbers", f"{path}: {value!r}", "correct them") from error
