"""From raw columns to tensors: fitted on train, then frozen; the exported graph does the same with plain ONNX ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import files
from tasks.core.errors import DataRejected, UsageError
from tasks.core.log import log

if TYPE_CHECKING:
    import pyarrow as pa

#: What a missing integer category is at the model's door (int64 has no NaN).
MISSING_INTEGER = int(np.iinfo(np.int64).min)
#: What a missing text category is at the model's door.
MISSING_TEXT = ""
#: The exported model's output.
OUTPUT = "probability"


@dataclass(frozen=True)
class Number:
    """A numeric column: ``edges`` are strictly rising quantiles of train, at least two."""

    name: str
    edges: tuple[float, ...]


@dataclass(frozen=True)
class Category:
    """A categorical column: value ``values[i]`` has code ``i + 1``; code 0 is for every other value."""

    name: str
    kind: str
    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True)
class Preprocess:
    """What was learnt from train: which columns the model reads, and how.

    Attributes:
        numbers: numeric columns, in the order of the network's first input.
        categories: categorical columns, in the order of its second input.
        classes: the target's two values, negative first.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    classes: tuple[Any, Any]

    @property
    def columns(self) -> list[str]:
        """Names of all columns that the model reads."""
        return [c.name for c in self.numbers] + [c.name for c in self.categories]

    @property
    def offsets(self) -> list[int]:
        """First row of each category in the one shared embedding table; the last entry is the table's length."""
        return [0, *np.cumsum([len(category.values) + 1 for category in self.categories]).tolist()]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        files.write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> Preprocess:
        """Read what :meth:`save` wrote."""
        raw = files.read_json(path)
        return Preprocess(
            tuple(Number(item["name"], tuple(item["edges"])) for item in raw["numbers"]),
            tuple(Category(item["name"], item["kind"], tuple(item["values"])) for item in raw["categories"]),
            (raw["classes"][0], raw["classes"][1]),
        )

    def encode(self, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Numbers, float32 [rows, numbers], NaN where missing; and embedding rows, int64 [rows, categories]."""
        numbers = [_as_float(table[column.name]) for column in self.numbers]
        codes = [
            _codes(table[column.name], column) + offset
            for column, offset in zip(self.categories, self.offsets, strict=False)
        ]
        return _stacked(numbers, table.num_rows, np.float32), _stacked(codes, table.num_rows, np.int64)

    def labels(self, table: pa.Table, target: str) -> np.ndarray:
        """The target as float32 [rows], 1 for the positive class.

        Raises:
            DataRejected: if the target holds any other value.
        """
        values = table[target].to_numpy(zero_copy_only=False)
        positive = values == self.classes[1]
        strangers = ~(positive | (values == self.classes[0]))
        if strangers.any():
            raise DataRejected(
                f"the target {target} must be one of {list(self.classes)}",
                f"{int(strangers.sum())} rows hold something else, first {values[strangers][:1].tolist()[0]!r}",
                "let the suite quarantine such rows",
            )
        return np.asarray(positive, dtype=np.float32)

    def raw_inputs(self, table: pa.Table) -> dict[str, np.ndarray]:
        """The columns as the exported model takes them: float32, int64 or str arrays [rows, 1], by name."""
        inputs: dict[str, np.ndarray] = {c.name: _as_float(table[c.name])[:, None] for c in self.numbers}
        for column in self.categories:
            inputs[column.name] = _raw_category(table[column.name], column.kind)[:, None]
        return inputs


def fit(
    table: pa.Table,
    columns: Mapping[str, str],
    classes: Sequence[Any],
    *,
    exclude: Sequence[str],
    categorical: Sequence[str],
    min_count: int,
    bins: int,
) -> Preprocess:
    """Learn bins and vocabularies from the training rows.

    Args:
        table: training rows.
        columns: column -> type, as the validate stage names them.
        classes: the target's two values.
        exclude: columns that the model must not see (target, time column, dropped features).
        categorical: integer columns that are names.
        min_count: a category needs as many rows to have a code of its own.
        bins: quantile bins of a number.

    Raises:
        UsageError: if ``exclude`` or ``categorical`` name columns that do not exist, a feature has the name of the
            model's output, ``categorical`` names fractions or times, or no feature is left.
    """
    _check_names([*exclude, *categorical], columns)
    features = [name for name in columns if name not in set(exclude)]
    _check_features(features, columns, categorical)
    numbers, categories = [], []
    for name in features:
        kind = _category_kind(columns[name], name in categorical)
        if columns[name] == "timestamp":
            log.info("tune: column %s is a timestamp and no feature; add calendar columns to use it", name)
        elif kind is not None:
            categories.append(_fit_category(table[name], name, kind, min_count))
        elif number := _fit_number(table[name], name, bins):
            numbers.append(number)
    if not numbers and not categories:
        raise UsageError("a model needs at least one feature", "none is left", "shorten tune.features.drop")
    return Preprocess(tuple(numbers), tuple(categories), (classes[0], classes[1]))


def _check_names(names: Sequence[str], columns: Mapping[str, str]) -> None:
    unknown = sorted(set(names) - set(columns))
    if unknown:
        raise UsageError(
            "tune.features must name columns of the data",
            f"no such column: {', '.join(unknown)}",
            f"columns are: {', '.join(columns)}",
        )


def _check_features(features: Sequence[str], columns: Mapping[str, str], categorical: Sequence[str]) -> None:
    if OUTPUT in features:
        raise UsageError(
            "a feature must not have the name of the model's output",
            f"there is a column {OUTPUT}",
            f"rename it, or list {OUTPUT} under tune.features.drop",
        )
    wrong = [f"{name} is {columns[name]}" for name in categorical if columns[name] in ("float64", "timestamp")]
    if wrong:
        raise UsageError(
            "tune.features.categorical must name columns of integers",
            "; ".join(wrong),
            "leave them out, or give them another type under ingest.types",
        )


def _category_kind(column_type: str, named: bool) -> str | None:
    if column_type == "string":
        return "text"
    if column_type == "bool" or (column_type == "int64" and named):
        return "integer"
    return None


def _fit_number(column: pa.ChunkedArray, name: str, bins: int) -> Number | None:
    values = _as_float(column)
    values = values[np.isfinite(values)]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1))) if len(values) else values
    edges = _apart(np.unique(edges.astype(np.float32)))
    if len(edges) < 2:
        log.info("tune: column %s is constant in train and no feature", name)
        return None
    return Number(name, tuple(float(edge) for edge in edges))


def _apart(edges: np.ndarray) -> np.ndarray:
    """The edges without outliers so far away that the others meet, in float32, once mapped to [-1, 1].

    The network maps a column so first, and a bin of width zero would stop it. Values beyond the last edge kept are
    answered like that edge.
    """
    while len(edges) > 2 and not _stay_apart(edges.astype(np.float64)):
        edges = edges[:-1] if edges[-1] - edges[-2] > edges[1] - edges[0] else edges[1:]
    return edges


def _stay_apart(edges: np.ndarray) -> bool:
    mapped = (edges - (edges[0] + edges[-1]) / 2) * (2 / (edges[-1] - edges[0]))
    return bool((np.diff(mapped.astype(np.float32)) > 0).all())


def _fit_category(column: pa.ChunkedArray, name: str, kind: str, min_count: int) -> Category:
    import pyarrow.compute as pc

    counts = pc.value_counts(_filled(column, kind))
    frequent = counts.field("values").filter(pc.greater_equal(counts.field("counts"), min_count))
    return Category(name, kind, tuple(sorted(frequent.to_pylist())))


def _as_float(column: pa.ChunkedArray) -> np.ndarray:
    import pyarrow as pa

    return np.asarray(column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float32)


def _filled(column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """A category's values as text or int64, what is missing as the model knows it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind == "text":
        return pc.fill_null(column.cast(pa.string()), MISSING_TEXT)
    return pc.fill_null(column.cast(pa.int64()), MISSING_INTEGER)


def _raw_category(column: pa.ChunkedArray, kind: str) -> np.ndarray:
    values = _filled(column, kind).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=np.str_ if kind == "text" else np.int64)


def _codes(column: pa.ChunkedArray, category: Category) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.string() if category.kind == "text" else pa.int64()
    found = pc.index_in(_filled(column, category.kind), value_set=pa.array(category.values, type=kind))
    codes: np.ndarray = pc.fill_null(pc.add(found.cast(pa.int64()), 1), 0).to_numpy(zero_copy_only=False)
    return codes


def _stacked(parts: list[np.ndarray], rows: int, dtype: type[np.generic]) -> np.ndarray:
    return np.stack(parts, axis=1).astype(dtype) if parts else np.empty((rows, 0), dtype)
