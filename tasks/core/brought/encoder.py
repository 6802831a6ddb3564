"""Between rows and a finished ONNX file: nothing is learnt, nothing is put around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.signature import Signature, Tensor
from tasks.core import tensors
from tasks.core.brought import outputs
from tasks.core.brought.bind import FLOATS, Input, numpy_type
from tasks.core.brought.outputs import Reading
from tasks.core.errors import DataRejected

if TYPE_CHECKING:
    import onnx
    import pyarrow as pa

_SAID = {
    "binary": "probability of the second label",
    "multiclass": "probability of each label",
    "regression": "estimate, in the unit of the target",
}


@dataclass(frozen=True)
class BroughtEncoder:
    """See :class:`~tasks.core.workloads.contract.Encoder`.

    Attributes:
        inputs: of the graph, with their data.
        outputs: of the graph, as the file's client sees them; the first axis is the batch, -1 is any length.
        reading: how the judged output is read.
        target: the column to predict.
        task: ``binary``, ``multiclass`` or ``regression``.
        classes: the target's values, in order: class ``i`` is what the output's column ``i`` is about.
    """

    inputs: tuple[Input, ...]
    outputs: tuple[Tensor, ...]
    reading: Reading
    target: str
    task: str
    classes: tuple[Any, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs."""
        return tuple(item.name for item in self.inputs)

    @property
    def core_outputs(self) -> tuple[str, ...]:
        """The graph's outputs."""
        return tuple(item.name for item in self.outputs)

    @property
    def width(self) -> int:
        """Values a row of the judged form."""
        return len(self.classes) if self.task == "multiclass" else 1

    @property
    def columns(self) -> list[str]:
        """Columns that the file reads."""
        return list(dict.fromkeys(name for item in self.inputs for name in item.columns))

    @property
    def file_signature(self) -> Signature:
        """What the user's own file takes and gives."""
        return Signature(tuple(_tensor(item) for item in self.inputs), self.outputs)

    def encode(self, rows: pa.Table) -> tuple[np.ndarray, ...]:
        """The graph's inputs, each [rows, ...], in its own dtypes.

        Raises:
            DataRejected: if an integer is missing where the graph takes integers.
        """
        return tuple(_array(item, rows) for item in self.inputs)

    def labels(self, rows: pa.Table) -> np.ndarray:
        """The target, [rows]: int64 class index, or float32 quantity.

        Raises:
            DataRejected: if the target holds a value that is no class, or none.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        target = rows[self.target]
        if self.task == "regression":
            values = np.asarray(target.to_numpy(zero_copy_only=False), dtype=np.float32)
            strange, rule = ~np.isfinite(values), "a finite number"
        else:
            found = pc.index_in(target, value_set=pa.array(self.classes, target.type))
            values = pc.fill_null(found.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
            strange, rule = values < 0, f"one of {list(self.classes)}"
        if strange.any():
            first = target[int(np.flatnonzero(strange)[0])].as_py()
            raise DataRejected(
                f"the target {self.target} must be {rule}",
                f"{int(strange.sum())} rows hold something else, first {first!r}",
                "let the suite quarantine such rows",
            )
        return np.asarray(values)

    def raw_inputs(self, rows: pa.Table) -> dict[str, np.ndarray]:
        """What :meth:`encode` gives, by name."""
        return dict(zip(self.input_names, self.encode(rows), strict=True))

    def answers(self, core: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The judged form first, then the graph's own outputs."""
        reading = self.reading
        return {reading.answer: reading.judged(core[reading.output], self.task)} | dict(core)

    def signature(self) -> Signature:
        """The file's own inputs and outputs, and the judged form in front."""
        answer = self.reading.answer
        own = next((item for item in self.outputs if item.name == answer), Tensor(answer, "FP32", (-1, self.width)))
        limits = None if self.task == "regression" else (0.0, 1.0)
        first = Tensor(answer, own.datatype, (-1, self.width), _SAID[self.task], limits, self.classes or None)
        others = tuple(item for item in self.outputs if item.name != answer)
        return Signature(self.file_signature.inputs, (first, *others))

    def wrap(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """The file, with one more output if its own is not of the judged form."""
        return outputs.with_answer(core, self.reading, self.task)

    def as_dict(self) -> dict[str, Any]:
        """JSON values, as :func:`restore` takes them."""
        return asdict(self)


def restore(raw: Mapping[str, Any]) -> BroughtEncoder:
    """What :meth:`BroughtEncoder.as_dict` gave."""
    return BroughtEncoder(
        tuple(
            Input(**dict(item) | {"shape": tuple(item["shape"]), "columns": tuple(item["columns"])})
            for item in raw["inputs"]
        ),
        tuple(Tensor(**dict(item) | {"shape": tuple(item["shape"])}) for item in raw["outputs"]),
        Reading(**raw["reading"]),
        raw["target"],
        raw["task"],
        tuple(raw["classes"]),
    )


def _tensor(item: Input) -> Tensor:
    said = f"columns in order: {', '.join(item.columns)}" if item.columns != (item.name,) else ""
    return Tensor(item.name, item.datatype, item.shape, said)


def _array(item: Input, rows: pa.Table) -> np.ndarray:
    if item.stored is not None:
        return tensors.to_numpy(rows[item.columns[0]], item.stored).astype(numpy_type(item.datatype), copy=False)
    parts = [_values(rows[name], name, item.datatype) for name in item.columns]
    return parts[0] if len(item.shape) == 1 else np.stack(parts, axis=1)


def _values(column: pa.ChunkedArray, name: str, datatype: str) -> np.ndarray:
    """One value a row, [rows]; a missing number is NaN, a missing text is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if datatype == "BYTES":
        return np.asarray(pc.fill_null(column, "").to_numpy(zero_copy_only=False), dtype=np.str_)
    if datatype in FLOATS:
        whole = column.cast(pa.int64()) if pa.types.is_boolean(column.type) else column
        with np.errstate(over="ignore"):
            return np.asarray(
                whole.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=numpy_type(datatype)
            )
    if column.null_count:
        raise DataRejected(
            f"the model takes {datatype} for {name}, which has no way to say that a value is missing",
            f"{column.null_count} rows have none",
            "let the suite quarantine such rows, or fill them in the source",
        )
    values = np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    narrow: np.ndarray = values.astype(numpy_type(datatype))
    if (narrow.astype(np.int64) != values).any():
        raise DataRejected(
            f"the model takes {datatype} for {name}",
            f"values from {values.min()} to {values.max()}",
            "export the model with int64 inputs, or let the suite quarantine such rows",
        )
    return narrow
