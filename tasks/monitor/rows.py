"""One window out of a table of recent rows, which the champion answers anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deploy.predictor import Predictor
from deploy.rows import read as read_rows
from tasks.core import files
from tasks.core.errors import UsageError
from tasks.monitor import labels as late
from tasks.monitor.bundle import Champion
from tasks.monitor.window import Found, Window


def read(path: Path, champion: Champion, given: Mapping[str, float] | None) -> Found:
    """The window of a table: a .csv or .parquet file with the columns that the model reads, or a .npz of its arrays.

    Labels are taken from ``given`` by the column ``id``, else from the target's column, where they are.

    Raises:
        UsageError: if there is no such file.
        DataRejected: if it lacks a column that the model reads, or holds what does not fit.
    """
    if not path.is_file():
        raise UsageError("monitor.rows names a table of recent rows", f"{path} does not exist", "correct the path")
    parquet = path.suffix.lower() == ".parquet"
    columns = _parquet(path, champion) if parquet else read_rows(path, champion.signature)
    tensors = champion.signature.tensors(columns)
    predictor = Predictor.load(champion.folder, "auto")
    arrays = tensors | predictor.predict(tensors)
    rows = len(arrays[champion.answer])
    counts = {
        name: np.bincount(spread.place(arrays[spread.tensor]), minlength=len(spread.bins))
        for name, spread in champion.spreads.items()
    }
    known = None if champion.shown is None else _labels(path, champion, given)
    answers = None if champion.shown is None else arrays[champion.answer]
    return Found([Window(files.sha256(path), path.name, rows, counts, answers, known)], str(path), [])


def _parquet(path: Path, champion: Champion) -> dict[str, np.ndarray]:
    import pyarrow as pa

    table = late.table(path, [tensor.name for tensor in champion.signature.inputs])
    found = {}
    for name in table.column_names:
        column = table[name]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        elif pa.types.is_boolean(column.type) and column.null_count:
            column = column.cast(pa.float64())
        found[name] = column.to_numpy(zero_copy_only=False)
    return found


def _labels(path: Path, champion: Champion, given: Mapping[str, float] | None) -> np.ndarray | None:
    if path.suffix.lower() == ".npz":
        return None
    table = late.table(path, (late.ID, champion.target))
    if given is not None and late.ID in table.column_names:
        return np.array([given.get(str(name), np.nan) for name in table[late.ID].to_pylist()], np.float64)
    if champion.target in table.column_names:
        return late.index(table[champion.target], champion.signature, path)
    return None
