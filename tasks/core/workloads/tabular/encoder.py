"""From raw columns to tensors: fitted on train, then frozen; the exported graph does the same with plain ONNX ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.errors import DataRejected, UsageError
from tasks.core.log import log

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa

    from deploy.signature import Signature
    from tasks.core.settings import Features

#: What a missing integer category is at the model's door (int64 has no NaN).
MISSING_INTEGER = int(np.iinfo(np.int64).min)
#: What a missing text category is at the model's door.
MISSING_TEXT = ""
#: The exported model's output, by task.
OUTPUTS = {"binary": "probability", "multiclass": "probabilities", "regression": "value"}
HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds
THURSDAY = 3  # 1970-01-01, counted from Monday


@dataclass(frozen=True)
class Number:
    """A numeric column: ``edges`` are strictly rising quantiles of train, at least two.

    With ``hour`` the column is a timestamp, and the number its hour of the day in UTC, with fractions.
    """

    name: str
    edges: tuple[float, ...]
    hour: bool = False


@dataclass(frozen=True)
class Category:
    """A categorical column: value ``values[i]`` has code ``i + 1``; code 0 is for every other value.

    Kind ``text`` or ``integer``; ``weekday`` is that of a timestamp in UTC, 0 for Monday.
    """

    name: str
    kind: str
    values: tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True)
class TabularEncoder:
    """What was learnt from train: which columns the model reads, and how.

    Attributes:
        numbers: numeric columns, in the order of the network's first input.
        categories: categorical columns, in the order of its second input.
        target: the column to predict.
        task: ``binary``, ``multiclass`` or ``regression``.
        classes: the target's values, in order (the second of two is the positive one); none for a regression.
        center: of the target, for a regression: its mean in train.
        scale: of the target, for a regression: its standard deviation in train.
        class_weights: what a row of each class counts in the loss; none means one each.
    """

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    target: str
    task: str
    classes: tuple[Any, ...]
    center: float = 0.0
    scale: float = 1.0
    class_weights: tuple[float, ...] = ()

    input_names = ("numbers", "codes")

    @property
    def core_outputs(self) -> tuple[str, ...]:
        """The one output, named by the task."""
        return (OUTPUTS[self.task],)

    @property
    def width(self) -> int:
        """Logits a row: one for each class, or just one."""
        return len(self.classes) if self.task == "multiclass" else 1

    @property
    def columns(self) -> list[str]:
        """Names of all columns that the model reads."""
        return list(dict.fromkeys([c.name for c in self.numbers] + [c.name for c in self.categories]))

    @property
    def offsets(self) -> list[int]:
        """First row of each category in the one shared embedding table; the last entry is the table's length."""
        return [0, *np.cumsum([len(category.values) + 1 for category in self.categories]).tolist()]

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as :func:`restore` takes them."""
        return asdict(self)

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Numbers, float32 [rows, numbers], NaN where missing; and embedding rows, int64 [rows, categories]."""
        numbers = [_number(rows[column.name], column.hour) for column in self.numbers]
        codes = [
            _codes(rows[column.name], column) + offset
            for column, offset in zip(self.categories, self.offsets, strict=False)
        ]
        return _stacked(numbers, rows.num_rows, np.float32), _stacked(codes, rows.num_rows, np.int64)

    def labels(self, rows: pa.Table) -> np.ndarray:
        """The target, [rows]: int64 class index, or float32 for a regression.

        Raises:
            DataRejected: if the target holds a value that is no class, or none.
        """
        if self.task == "regression":
            values = _as_float(rows[self.target])
            return checked(values, np.isfinite(values), self.target, "a finite number")
        values = rows[self.target].to_numpy(zero_copy_only=False)
        codes = np.full(len(values), -1, np.int64)
        for code, name in enumerate(self.classes):
            codes[values == name] = code
        checked(values, codes >= 0, self.target, f"one of {list(self.classes)}")
        return codes

    def raw_inputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """The columns as the exported model takes them: float32, int64 or str arrays [rows, 1], by name."""
        inputs: dict[str, np.ndarray] = {}
        for number in self.numbers:
            values = rows[number.name]
            inputs[number.name] = (_microseconds(values) if number.hour else _as_float(values))[:, None]
        for column in self.categories:
            if column.kind != "weekday":
                inputs[column.name] = _raw_category(rows[column.name], column.kind)[:, None]
            elif column.name not in inputs:
                inputs[column.name] = _microseconds(rows[column.name])[:, None]
        return inputs

    def answers(self, core: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The core's outputs are the model's."""
        return dict(core)

    def signature(self) -> Signature:
        """What the exported model takes and gives."""
        from tasks.core.workloads.tabular import graph

        return graph.signature(self)

    def wrap(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """Put the raw columns in front of an exported network (float or quantized)."""
        from tasks.core.workloads.tabular import graph

        return graph.wrap(core, self)


def checked(values: np.ndarray, fit: np.ndarray, target: str, rule: str) -> np.ndarray:
    """The values, all of which must fit. Raises :class:`DataRejected` with the first that does not."""
    if not fit.all():
        raise DataRejected(
            f"the target {target} must be {rule}",
            f"{int((~fit).sum())} rows hold something else, first {values[~fit][:1].tolist()[0]!r}",
            "let the suite quarantine such rows",
        )
    return values


def restore(raw: Mapping[str, Any]) -> TabularEncoder:
    """The encoder that :meth:`TabularEncoder.as_dict` described."""
    return TabularEncoder(
        **dict(raw)
        | {
            "numbers": tuple(Number(item["name"], tuple(item["edges"]), item["hour"]) for item in raw["numbers"]),
            "categories": tuple(
                Category(item["name"], item["kind"], tuple(item["values"])) for item in raw["categories"]
            ),
            "classes": tuple(raw["classes"]),
            "class_weights": tuple(raw["class_weights"]),
        }
    )


def fit(rows: pa.Table, facts: Mapping[str, Any], features: Features, balanced: bool = False) -> TabularEncoder:
    """Learn bins, vocabularies and the target's scale from the training rows.

    A timestamp gives its hour and its weekday, in UTC; nothing else of it, since a date lies beyond train by the time
    the model is used.

    Args:
        rows: training rows.
        facts: of `validate`: ``columns`` (name -> type), ``target``, ``task``, ``classes``, ``split``, ``time_column``.
        features: the section ``tune.features``.
        balanced: whether a row of a rare class counts more in the loss.

    Raises:
        UsageError: if ``features`` names columns that do not exist, a feature has the name of the model's output,
            ``categorical`` names fractions or times, or no feature is left.
    """
    columns, target, split = facts["columns"], facts["target"], facts["split"]
    hidden = {target, facts["time_column"], split.get("column"), split.get("group")} - {None}
    _check_names([*features.drop, *features.categorical], columns)
    names = [name for name in columns if name not in hidden | set(features.drop)]
    _check_features(names, columns, features.categorical, OUTPUTS[facts["task"]])
    numbers, categories = [], []
    for name in names:
        kind = _category_kind(columns[name], name in features.categorical)
        if kind is not None:
            categories.append(_fit_category(rows[name], name, kind, features.min_count))
        elif number := _fit_number(rows[name], name, features.bins, hour=columns[name] == "timestamp"):
            numbers.append(number)
        if columns[name] == "timestamp":
            categories.append(Category(name, "weekday", tuple(range(7))))
    if not numbers and not categories:
        raise UsageError("a model needs at least one feature", "none is left", "shorten tune.features.drop")
    center, scale = _target_scale(rows[target]) if facts["task"] == "regression" else (0.0, 1.0)
    encoder = TabularEncoder(
        tuple(numbers), tuple(categories), target, facts["task"], tuple(facts["classes"]), center, scale
    )
    if not balanced or encoder.task == "regression":
        return encoder
    from tasks.core.workloads.losses import balanced_weights

    return replace(encoder, class_weights=balanced_weights(encoder.labels(rows), len(encoder.classes)))


def _target_scale(target: pa.ChunkedArray) -> tuple[float, float]:
    values = target.to_numpy(zero_copy_only=False).astype(np.float64)
    return float(values.mean()), float(values.std()) or 1.0


def _check_names(names: Sequence[str], columns: Mapping[str, str]) -> None:
    unknown = sorted(set(names) - set(columns))
    if unknown:
        raise UsageError(
            "tune.features must name columns of the data",
            f"no such column: {', '.join(unknown)}",
            f"columns are: {', '.join(columns)}",
        )


def _check_features(
    features: Sequence[str], columns: Mapping[str, str], categorical: Sequence[str], output: str
) -> None:
    if output in features:
        raise UsageError(
            "a feature must not have the name of the model's output",
            f"there is a column {output}",
            f"rename it, or list {output} under tune.features.drop",
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


def _fit_number(column: pa.ChunkedArray, name: str, bins: int, hour: bool) -> Number | None:
    values = _number(column, hour)
    values = values[np.isfinite(values)]
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1))) if len(values) else values
    edges = _apart(np.unique(edges.astype(np.float32)))
    if len(edges) < 2:
        log.info("tune: column %s is constant in train and no feature", name)
        return None
    return Number(name, tuple(float(edge) for edge in edges), hour)


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


def _number(column: pa.ChunkedArray, hour: bool) -> np.ndarray:
    if not hour:
        return _as_float(column)
    times = _microseconds(column)
    hours = (times % DAY).astype(np.float32) / np.float32(HOUR)
    return np.where(times == MISSING_INTEGER, np.float32(np.nan), hours)


def _microseconds(column: pa.ChunkedArray) -> np.ndarray:
    """A timestamp as int64 microseconds since 1970, in UTC."""
    import pyarrow as pa

    return _raw_category(column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()), "integer")


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

    if category.kind == "weekday":
        times = _microseconds(column)
        return np.where(times == MISSING_INTEGER, 0, (times // DAY + THURSDAY) % 7 + 1)
    kind = pa.string() if category.kind == "text" else pa.int64()
    found = pc.index_in(_filled(column, category.kind), value_set=pa.array(category.values, type=kind))
    codes: np.ndarray = pc.fill_null(pc.add(found.cast(pa.int64()), 1), 0).to_numpy(zero_copy_only=False)
    return codes


def _stacked(parts: list[np.ndarray], rows: int, dtype: type[np.generic]) -> np.ndarray:
    return np.stack(parts, axis=1).astype(dtype) if parts else np.empty((rows, 0), dtype)
