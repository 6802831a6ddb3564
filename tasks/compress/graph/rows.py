"""Calibration rows: checked, fed in batches, and the error of a treated model's answers on them."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout

import numpy as np
import onnx
import onnxruntime

from tasks.compress.graph.nodes import FLOATS, copied, keep, reads
from tasks.core.errors import DataRejected, UsageError
from tasks.core.log import log

Rows = Mapping[str, np.ndarray]

#: Fewer rows say nothing about ranges; with fewer than the second number the ranges are guesses.
_LEAST, _FEW = 2, 8
_BATCH = 256
#: Rows a batch where activations are looked at.
_WATCHED = 32
#: onnxruntime's severities.
_WARNING, _ERROR = 2, 3


def checked(model: onnx.ModelProto, calibration: Rows) -> dict[str, np.ndarray]:
    """What the model reads of the calibration rows.

    Raises:
        UsageError: if an input is missing.
        DataRejected: if there are fewer than two rows, or inputs differ in their number.
    """
    names = [item.name for item in model.graph.input]
    absent = [name for name in names if name not in calibration]
    if absent:
        raise UsageError(
            "calibration rows hold every input of the model",
            f"none for {', '.join(absent)}; there are {', '.join(calibration) or 'none'}",
            "name the arrays as the model's inputs",
        )
    found = {name: calibration[name] for name in names}
    counts = {name: len(array) for name, array in found.items()}
    if min(counts.values(), default=0) < _LEAST or len(set(counts.values())) > 1:
        raise DataRejected(
            f"calibration needs at least {_LEAST} rows, as many of each input",
            ", ".join(f"{name}: {count}" for name, count in counts.items()) or "a model without inputs",
            "raise the number of calibration rows",
        )
    if min(counts.values()) < _FEW:
        log.warning("compress: %d calibration rows are few: ranges learnt from them are guesses", min(counts.values()))
    return found


def some(rows: Rows, most: int) -> dict[str, np.ndarray]:
    """At most so many rows, evenly spread."""
    count = len(next(iter(rows.values())))
    places = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
    return {name: array[places] for name, array in rows.items()}


def halves(rows: Rows) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every other row, and those between: one half to learn from and one to judge with."""
    return {name: array[0::2] for name, array in rows.items()}, {name: array[1::2] for name, array in rows.items()}


def batches(model: onnx.ModelProto, rows: Rows, size: int = _BATCH) -> Iterator[dict[str, np.ndarray]]:
    """The rows in batches; a model of one fixed batch size gets just that, its last batch filled up with first rows."""
    fixed = {item.type.tensor_type.shape.dim[0].dim_value for item in model.graph.input if _ranked(item)} - {0}
    count = len(next(iter(rows.values())))
    if len(fixed) == 1:
        size = fixed.pop()
        count = -(-count // size) * size
    for start in range(0, count, size):
        places = np.arange(start, min(start + size, count)) % len(next(iter(rows.values())))
        yield {name: array[places] for name, array in rows.items()}


def _ranked(item: onnx.ValueInfoProto) -> bool:
    return item.type.tensor_type.HasField("shape") and len(item.type.tensor_type.shape.dim) > 0


def watch(model: onnx.ModelProto, rows: Rows, names: Sequence[str], size: int = _WATCHED) -> Iterator[list[np.ndarray]]:
    """Values of tensors of the graph, batch by batch: activations of all rows at once may not fit into memory."""
    if not names:
        return
    session = session_of(_only(model, names))
    for batch in batches(model, rows, size):
        yield session.run(list(names), batch)


def _only(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """The part of a model that writes some tensors; all its inputs stay."""
    part = copied(model)
    typed = {item.name: item for item in model.graph.output}
    keep(part.graph.output, [typed.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(names)])
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(reads(node))
            nodes.append(node)
    keep(part.graph.node, reversed(nodes))
    return part


def observe(model: onnx.ModelProto, rows: Rows, names: Sequence[str]) -> list[np.ndarray]:
    """Values of tensors of the graph for all rows, each [rows, ...]."""
    parts = list(watch(model, rows, names))
    count = len(next(iter(rows.values())))
    return [np.concatenate([np.atleast_1d(part[at]) for part in parts])[:count] for at in range(len(names))]


def judged(model: onnx.ModelProto) -> list[str]:
    """The tensors whose error says what a treatment costs: float answers, or the scores that are ranked.

    An order (TopK) and labels (ArgMax) jump where scores move a little, so they measure nothing.
    """
    floats = [item.name for item in model.graph.output if item.type.tensor_type.elem_type in FLOATS]
    return floats or [node.input[0] for node in model.graph.node if node.op_type in ("TopK", "ArgMax")]


def error(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    """Mean squared error relative to the expected values' variance, averaged over tensors; NaN without any.

    Places where the expected value is not finite (masks) are left out; where only the found one is not, it is infinite.
    """
    errors = []
    for right, answer in zip(expected, found, strict=True):
        at = np.isfinite(right)
        wanted, got = right[at].astype(np.float64), answer[at].astype(np.float64)
        if not np.isfinite(got).all():
            errors.append(np.inf)
        elif wanted.size:
            errors.append(float(np.mean((got - wanted) ** 2) / max(float(wanted.var()), np.finfo(np.float32).tiny)))
    return float(np.mean(errors)) if errors else float("nan")


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A quiet session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERROR
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@contextmanager
def quiet() -> Iterator[None]:
    """onnxruntime's quantizers talk through the root logger and standard output, and not about mistakes."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(_ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        root.setLevel(before)
