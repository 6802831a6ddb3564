"""``drift_reference.json``: how inputs and answers were spread when the model was made, to hold later rows against.

Bins and counts only. A bin's border is never a single row's value: no bin of train holds fewer than :data:`LEAST` rows,
the outermost two included, which later take what is out of range; a category of fewer rows is one of the others; and a
count below it is given as 0. Of people (a recommender's users) nothing is listed.

Kinds of spread, each with ``counts`` by split:

- ``number``: ``edges`` rising; counts of what is below the first, from each to the next (which is not in), from the
  last on, and missing (null or NaN).
- ``category``: counts of each of ``values``, of all others, and missing (null, empty, the least INT64).
- ``weekday`` of a timestamp in UTC: counts of Monday to Sunday, and missing.
- ``identifier``: counts of rows with one, and missing.
- ``array``: ``mean``, ``deviation`` and ``contrast`` (greatest less least value) of a row's array, each a ``number``.
- ``list``: ``length`` of a row's list, a ``number``; and its ``items`` together, a ``category``.
- ``labels``: the answered label, a ``category``; and its probability, a ``number``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.predictor import Predictor
from deploy.signature import MISSING, TIMESTAMP, Signature, Tensor
from tasks.core import files, manifest

if TYPE_CHECKING:
    from deploy.variants import Variant
    from tasks.core.workloads.contract import Encoder

#: The first split says where the bins are.
Splits = Mapping[str, np.ndarray]

LEAST = 10
_BINS, _VALUES = 10, 50
#: Integers of which the commonest values make up no more than this are quantities.
_QUANTITY = 0.1
_DAY, _THURSDAY = 86_400_000_000, 3
#: Rows of a split that are looked at, evenly spread, and values in all, where a row is an array.
_MOST_ROWS, _MOST_VALUES = 100_000, 5_000_000


def write(out: Path, validated: Path, encoder: Encoder, variant: Variant) -> None:
    """Write the file: inputs on train and validation, answers on validation, which the model was not trained on.

    Args:
        out: the bundle's folder, with the model.
        validated: folder of the finished `validate` stage.
        encoder: makes inputs of rows.
        variant: the model that answers.
    """
    sources = {"train": _train(validated, encoder), "validation": validated / "validation.parquet"}
    splits = {split: _inputs(path, encoder) for split, path in sources.items()}
    predictor = Predictor.open(out / variant.folder, variant.device, variant.threads)
    first = predictor.signature.outputs[0].name
    answers = {"validation": predictor.predict(splits["validation"])[first]}
    inputs = {
        tensor.name: {split: arrays[tensor.name] for split, arrays in splits.items()}
        for tensor in predictor.signature.inputs
    }
    user = manifest.read(validated).facts["user"]
    # A recommender's model calls the user so, whatever the column is called.
    people = frozenset() if user is None else frozenset({"user"})
    files.write_json(out / "drift_reference.json", reference(predictor.signature, inputs, answers, people))


def _train(validated: Path, encoder: Encoder) -> Path:
    """The training rows, or those drawn from them to calibrate: interactions have a history only there."""
    import pyarrow.parquet as pq

    path = validated / "train.parquet"
    return path if {*encoder.columns} <= {*pq.read_schema(path).names} else validated / "calibration.parquet"


def _inputs(path: Path, encoder: Encoder) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=encoder.columns)
    cells = sum(array[0].size for array in encoder.raw_inputs(rows.slice(0, 1)).values()) if rows.num_rows else 1
    count = min(rows.num_rows, _MOST_ROWS, max(1, _MOST_VALUES // cells))
    return encoder.raw_inputs(rows.take(np.linspace(0, rows.num_rows - 1, count).astype(int)))


def reference(
    signature: Signature, inputs: Mapping[str, Splits], answers: Splits, people: frozenset[str]
) -> dict[str, Any]:
    """The content of the file.

    Args:
        signature: of the model.
        inputs: input -> split -> array [rows, ...], train first.
        answers: the model's first output by split, [rows, ...]: on rows that it was not trained on.
        people: inputs that name persons.
    """
    features = {
        tensor.name: {"kind": "identifier", "counts": _each(_present, inputs[tensor.name])}
        if tensor.name in people
        else _input(tensor, inputs[tensor.name])
        for tensor in signature.inputs
    }
    output = signature.outputs[0]
    return {
        "least_count": LEAST,
        "rows": {split: len(array) for split, array in next(iter(inputs.values())).items()},
        "features": features,
        "predictions": {output.name: _answer(output, answers)},
    }


def _input(tensor: Tensor, splits: Splits) -> dict[str, Any]:
    if tensor.is_column:
        columns = {split: array.reshape(-1) for split, array in splits.items()}
        return _weekday(columns) if tensor.format == TIMESTAMP else _column(columns)
    if -1 in tensor.shape[1:]:
        return _list(splits)
    return {"kind": "array"} | {name: _number(_each_array(of, splits)) for name, of in _STATISTICS.items()}


def _answer(tensor: Tensor, splits: Splits) -> dict[str, Any]:
    if tensor.datatype not in ("FP16", "FP32", "FP64"):  # a ranking: what it puts first
        return _category({split: array.reshape(len(array), -1)[:, 0] for split, array in splits.items()})
    if tensor.is_column:
        return _number({split: array.reshape(-1) for split, array in splits.items()})
    flat = {split: array.reshape(len(array), -1) for split, array in splits.items()}
    names = np.array([str(label) for label in tensor.labels or range(next(iter(flat.values())).shape[1])])
    label = _category({split: names[array.argmax(axis=1)] for split, array in flat.items()})
    return {"kind": "labels", "label": label, "probability": _number(_each_array(lambda a: a.max(axis=1), flat))}


def _column(columns: Splits) -> dict[str, Any]:
    first = next(iter(columns.values()))
    if first.dtype.kind == "f":
        return _number(columns)
    found = _category(columns)
    if first.dtype.kind in "iu" and sum(next(iter(found["counts"].values()))[:-2]) <= _QUANTITY * len(first):
        return _number({split: _as_floats(array) for split, array in columns.items()})
    return found


def _as_floats(array: np.ndarray) -> np.ndarray:
    return np.where(array == MISSING["INT64"], np.nan, array.astype(np.float64))


def _number(columns: Splits) -> dict[str, Any]:
    first = next(iter(columns.values())).astype(np.float64)
    edges = _edges(np.sort(first[np.isfinite(first)]))

    def counts(array: np.ndarray) -> list[int]:
        values = array.astype(np.float64)
        known = values[~np.isnan(values)]
        bins = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
        return [*bins.tolist(), len(values) - len(known)]

    return {"kind": "number", "edges": edges, "counts": _each(counts, columns)}


def _edges(ordered: np.ndarray) -> list[float]:
    """Borders between bins of at least :data:`LEAST` of the values each, in float32; none where there are too few."""
    places = np.linspace(0, len(ordered), _BINS + 1)[1:-1].astype(int)
    outer = [LEAST, len(ordered) - LEAST] if len(ordered) >= 2 * LEAST else []
    edges: list[float] = []
    begun = 0
    for place in sorted({*places.tolist(), *outer}):
        # The mean of two neighbours is neither's value, unless they are equal and therefore not alone.
        edge = float(np.float32((ordered[place - 1] + ordered[place]) / 2)) if 0 < place < len(ordered) else np.inf
        below = int(np.searchsorted(ordered, edge, side="left"))
        if below - begun >= LEAST and len(ordered) - below >= LEAST and np.isfinite(edge):
            edges.append(edge)
            begun = below
    return edges


def _category(columns: Splits) -> dict[str, Any]:
    first = next(iter(columns.values()))
    values, numbers = np.unique(first[~_missing(first)], return_counts=True)
    ranked = sorted(zip((-numbers).tolist(), values.tolist(), strict=True))[:_VALUES]
    kept = [value for number, value in ranked if -number >= LEAST]

    def counts(array: np.ndarray) -> list[int]:
        absent = int(_missing(array).sum())
        each = [int((array == value).sum()) for value in kept]
        return [*each, len(array) - absent - sum(each), absent]

    words = [value.decode() if isinstance(value, bytes) else value for value in kept]
    return {"kind": "category", "values": words, "counts": _each(counts, columns)}


def _missing(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "i" and array.dtype.itemsize == 8:
        return np.asarray(array == MISSING["INT64"])
    nothing: Any = {"O": "", "U": "", "S": b""}.get(array.dtype.kind)
    return np.zeros(len(array), bool) if nothing is None else np.asarray(array == nothing)


def _present(array: np.ndarray) -> list[int]:
    absent = int(_missing(array.reshape(-1)).sum())
    return [len(array) - absent, absent]


def _weekday(columns: Splits) -> dict[str, Any]:
    def counts(array: np.ndarray) -> list[int]:
        known = array[~_missing(array)]
        days = np.bincount((known // _DAY + _THURSDAY) % 7, minlength=7)
        return [*days.tolist(), len(array) - len(known)]

    return {"kind": "weekday", "counts": _each(counts, columns)}


def _list(splits: Splits) -> dict[str, Any]:
    given = {split: ~_missing(array.reshape(-1)).reshape(len(array), -1) for split, array in splits.items()}
    lengths = {split: there.sum(axis=1).astype(np.float64) for split, there in given.items()}
    items = {split: array.reshape(len(array), -1)[given[split]] for split, array in splits.items()}
    return {"kind": "list", "length": _number(lengths), "items": _category(items)}


_STATISTICS: Mapping[str, Any] = {
    "mean": lambda rows: rows.mean(axis=1),
    "deviation": lambda rows: rows.std(axis=1),
    "contrast": lambda rows: rows.max(axis=1) - rows.min(axis=1),
}


def _each_array(of: Any, splits: Splits) -> dict[str, np.ndarray]:
    return {split: of(array.reshape(len(array), -1).astype(np.float64)) for split, array in splits.items()}


def _each(counts: Any, columns: Splits) -> dict[str, list[int]]:
    """Counts by split, small ones as 0."""
    return {split: [n if n >= LEAST else 0 for n in counts(array)] for split, array in columns.items()}
