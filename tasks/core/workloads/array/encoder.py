"""What an array model learnt from train, then frozen: which tensors it reads, how, and the classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import tensors
from tasks.core.errors import DataRejected, UsageError
from tasks.core.log import log
from tasks.core.workloads.array import layout
from tasks.core.workloads.array.layout import Layout

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa

    from deploy.signature import Signature
    from tasks.core.settings import Tune

#: The exported model's output, by task.
OUTPUTS = {"binary": "probability", "multiclass": "probabilities"}
#: Models that read [A, B] as channels and time, whatever the lengths.
SERIES_MODELS = ("resnet1d",)
_DATATYPES = {"uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32"}
_BLOCK = 4096


@dataclass(frozen=True)
class TensorColumn:
    """A tensor that the model reads.

    Attributes:
        name: its column.
        dtype: of the stored arrays, one of :data:`tasks.core.tensors.DTYPES`.
        shape: of one row.
        layout: how the built-in networks read it; None if they cannot.
        mean: of train, per channel of the layout, or of all values (one number) without a layout.
        deviation: the standard deviation of train, likewise; 1 where it is 0.
        range: least and greatest value in train.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: Layout | None
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    range: tuple[float, float]

    @property
    def augmentable(self) -> bool:
        """Whether its values are measurements: other integers than bytes may be names."""
        return self.dtype in ("uint8", "float32")


@dataclass(frozen=True)
class ArrayEncoder:
    """See :class:`~tasks.core.workloads.contract.Encoder`; the network takes the arrays as they are stored.

    Attributes:
        inputs: tensors, in the order of the network's ``forward``.
        target: the column to predict.
        task: ``binary`` or ``multiclass``.
        classes: the target's values, in order (the second of two is the positive one).
        class_weights: what a row of each class counts in the loss; none means one each.
    """

    inputs: tuple[TensorColumn, ...]
    target: str
    task: str
    classes: tuple[Any, ...]
    class_weights: tuple[float, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """The tensors' names."""
        return tuple(column.name for column in self.inputs)

    @property
    def core_outputs(self) -> tuple[str, ...]:
        """The one output, named by the task."""
        return (OUTPUTS[self.task],)

    @property
    def width(self) -> int:
        """Logits a row: one for each class, or one in all for two classes."""
        return len(self.classes) if self.task == "multiclass" else 1

    @property
    def columns(self) -> list[str]:
        """Columns that the model reads."""
        return list(self.input_names)

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, ...]:
        """The stored arrays, each [rows, *shape], dtype as stored."""
        return tuple(
            tensors.to_numpy(rows[column.name], {"dtype": column.dtype, "shape": column.shape})
            for column in self.inputs
        )

    def labels(self, rows: pa.Table) -> np.ndarray:
        """Class index, int64 [rows].

        Raises:
            DataRejected: if the target holds a value that is no class, or none.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        target = rows[self.target]
        found = pc.index_in(target, value_set=pa.array(self.classes, target.type))
        codes: np.ndarray = pc.fill_null(found.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
        strangers = np.flatnonzero(codes < 0)
        if len(strangers):
            raise DataRejected(
                f"the target {self.target} must be one of {list(self.classes)}",
                f"{len(strangers)} rows hold something else, first {target[int(strangers[0])].as_py()!r}",
                "let the suite quarantine such rows",
            )
        return codes

    def raw_inputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """The stored arrays by name: the exported model takes them as they are."""
        return dict(zip(self.input_names, self.encode(rows), strict=True))

    def answers(self, core: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The core's output as it is: probability [rows, 1] of the second class, or probabilities [rows, classes]."""
        return dict(core)

    def signature(self) -> Signature:
        """Raw arrays in, probabilities out."""
        from deploy.signature import Signature, Tensor

        inputs = tuple(
            Tensor(column.name, _DATATYPES[column.dtype], (-1, *column.shape), _description(column), column.range)
            for column in self.inputs
        )
        said = "probability of the second label" if self.task == "binary" else "probability of each label"
        output = Tensor(self.core_outputs[0], "FP32", (-1, self.width), said, (0.0, 1.0), self.classes)
        return Signature(inputs, (output,))

    def wrap(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """The core itself: it takes the raw arrays."""
        return core

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as :func:`restore` takes them."""
        return asdict(self)


def restore(raw: Mapping[str, Any]) -> ArrayEncoder:
    """What :meth:`ArrayEncoder.as_dict` gave."""
    return ArrayEncoder(
        tuple(_column(item) for item in raw["inputs"]),
        raw["target"],
        raw["task"],
        tuple(raw["classes"]),
        tuple(raw["class_weights"]),
    )


def fit(rows: pa.Table, facts: Mapping[str, Any], tune: Tune) -> ArrayEncoder:
    """Learn the scale of every tensor from the training rows.

    Args:
        rows: training rows.
        facts: of `validate`: ``tensors``, ``target``, ``task``, ``classes``.
        tune: ``model`` (``resnet1d`` reads [A, B] as a series) and ``class_weights``.

    Raises:
        UsageError: if there is no tensor, one has the output's name, or the task is not about classes.
        DataRejected: if a tensor holds NaN or infinity, or a class has no training row.
    """
    _check_facts(facts)
    kind = "series" if tune.model in SERIES_MODELS else "auto"
    inputs = tuple(_fit_column(rows[name], name, tensor, kind) for name, tensor in facts["tensors"].items())
    encoder = ArrayEncoder(inputs, facts["target"], facts["task"], tuple(facts["classes"]))
    labels = encoder.labels(rows)
    counts = np.bincount(labels, minlength=len(encoder.classes))
    if not counts.all():
        absent = [encoder.classes[index] for index in np.flatnonzero(counts == 0)]
        raise DataRejected(
            "every class needs training rows",
            f"none of {absent[:10]} among {rows.num_rows} training rows",
            "split by: stratified, or let the suite quarantine classes with too few rows",
        )
    if tune.class_weights == "none":
        return encoder
    from tasks.core.workloads.losses import balanced_weights

    return replace(encoder, class_weights=balanced_weights(labels, len(encoder.classes)))


def _check_facts(facts: Mapping[str, Any]) -> None:
    names, task = facts["tensors"], facts["task"]
    if task not in OUTPUTS:
        raise UsageError(
            "base.workload: array is for classes",
            f"the task is {task}",
            "set base.task to binary or multiclass, or bring a workload plug-in",
        )
    if not names:
        raise UsageError(
            "base.workload: array needs columns of arrays",
            "the source has none",
            "name an .npz file, idx files or a folder of image folders in ingest.source, or set base.workload: tabular",
        )
    if OUTPUTS[task] in names:
        raise UsageError(
            "an array must not have the name of the model's output", f"there is an array {OUTPUTS[task]}", "rename it"
        )


def _fit_column(column: pa.ChunkedArray, name: str, tensor: Mapping[str, Any], kind: str) -> TensorColumn:
    shape = tuple(tensor["shape"])
    read = layout.of(shape, kind)
    log.info("tune: `%s` is read as %s", name, read.described if read else f"an array {list(shape)}")
    mean, deviation, extremes = _moments(column, tensor, read)
    if not np.isfinite(extremes).all():
        raise DataRejected(
            "arrays must hold finite numbers",
            f"`{name}` has NaN or infinity in train",
            "let validate set such rows aside, or write the arrays without them",
        )
    return TensorColumn(name, tensor["dtype"], shape, read, mean, deviation, extremes)


def _moments(
    column: pa.ChunkedArray, tensor: Mapping[str, Any], read: Layout | None
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, float]]:
    """Mean and standard deviation per channel (two passes in float64), and the extremes."""
    channels = 1 if read is None else read.channels
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    low, high = np.inf, -np.inf
    for block in _blocks(column, tensor, read):
        count += block.shape[0] * block.shape[2]
        total += block.sum(axis=(0, 2))
        low, high = np.minimum(low, block.min()), np.maximum(high, block.max())
    mean = total / count
    with np.errstate(invalid="ignore"):  # the caller refuses infinity
        for block in _blocks(column, tensor, read):
            squares += ((block - mean[:, None]) ** 2).sum(axis=(0, 2))
    deviation = np.sqrt(squares / count)
    deviation[deviation == 0] = 1.0  # a channel that never changes says nothing, and must not divide by nothing
    return tuple(mean.tolist()), tuple(deviation.tolist()), (float(low), float(high))


def _blocks(column: pa.ChunkedArray, tensor: Mapping[str, Any], read: Layout | None) -> Iterator[np.ndarray]:
    """float64 [rows, channels, values] of a few rows each."""
    axis = None if read is None else read.channel_axis
    for start in range(0, len(column), _BLOCK):
        block = tensors.to_numpy(column.slice(start, _BLOCK), tensor).astype(np.float64)
        block = block[:, None] if axis is None else np.moveaxis(block, axis + 1, 1)
        yield block.reshape(*block.shape[:2], -1)


def _column(raw: Mapping[str, Any]) -> TensorColumn:
    read = raw["layout"]
    return TensorColumn(
        raw["name"],
        raw["dtype"],
        tuple(raw["shape"]),
        None if read is None else Layout(tuple(read["shape"]), read["channel_axis"]),
        tuple(raw["mean"]),
        tuple(raw["deviation"]),
        tuple(raw["range"]),
    )


def _description(column: TensorColumn) -> str:
    return column.layout.described if column.layout else "array"
