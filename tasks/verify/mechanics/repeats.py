"""The same rows, asked in several ways: the float file against the original, and the exported file against itself."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from tasks.core.measured import Measured
from tasks.verify.case import Case
from tasks.verify.mechanics.asking import Failure, ask, taken

_ROWS, _FLOAT_ROWS = 256, 2048
_BATCH = 64
#: Share of the answers' range by which float32 kernels may differ: another order of summing costs some 1e-6 of a sum;
#: layers and an exponential at the end multiply that. torch's own check of exports allows as much, relative to a value.
_FLOAT = 1e-3
#: The same with numbers of 16 bits or fewer. A sum that falls on the other side of a rounding step moves an activation
#: by 1/255 of its range, and dynamic ranges are those of the batch; layers add that up. A graph that mixes rows is far
#: beyond it.
_NARROW = 0.05
#: Of lists of items, the share that may differ: neighbours of nearly equal score change places.
_SWAPPED = 0.01
_NARROW_TYPES = ("INT8", "UINT8", "INT4", "UINT4", "FLOAT16", "BFLOAT16")


def float_file(case: Case) -> list[Measured]:
    """The original as float ONNX against its own answers, on at most 2,048 rows; nothing if there is no such file."""
    if case.original_file is None:
        return []
    rows = _sample(case, _FLOAT_ROWS)
    found = ask(case.original_file, taken(case.columns, rows))
    name = "float ONNX against the original's own answers"
    return [_line(case, name, case.original[rows], found, _FLOAT)]


def repeated(case: Case) -> list[Measured]:
    """The exported file against itself on at most 256 rows.

    At batch 1, 7 (rows shuffled) and 64, with one thread and several, in another process, and as it was judged. The
    very same call must give the very same bits; else a difference is measured as a share of the range of the
    original's answers (see ``_FLOAT`` and ``_NARROW``), or of the items in ranked lists.
    """
    file, rows = case.shipped_file, _sample(case, _ROWS)
    columns, threads = taken(case.columns, rows), max(2, os.cpu_count() or 2)
    base = ask(file, columns, _BATCH, threads)
    if isinstance(base, Failure):
        return [_problem(f"an answer at batch {_BATCH}", len(rows), f"it does not answer: {base.said}")]
    shuffled = np.random.default_rng([case.seed, 1]).permutation(len(rows))
    mixed = ask(file, taken(columns, shuffled), 7, threads)
    ways = {
        "batch 1 against 64": ask(file, columns, 1, threads),
        "batch 7, rows shuffled, against 64": mixed if isinstance(mixed, Failure) else mixed[np.argsort(shuffled)],
        f"1 thread against {threads}": ask(file, columns, _BATCH, 1),
        "now against when it was judged": case.shipped[rows],
    }
    tolerance = _NARROW if _is_narrow(file.folder / "model.onnx") else _FLOAT
    return [
        _identical(base, ask(file, columns, _BATCH, threads)),
        *(_line(case, name, base, found, tolerance) for name, found in ways.items()),
    ]


def distance(one: np.ndarray, other: np.ndarray, spread: float) -> float:
    """How far two arrays of answers are apart; infinite if they are not comparable.

    Of floats the largest difference as a share of ``spread``, where equal non-finite values do not differ; of anything
    else (codes, texts) the share of values that differ.

    Args:
        one: [rows, ...].
        other: the same number of rows and of values a row.
        spread: positive.
    """
    if len(one) != len(other) or one.size != other.size:
        return math.inf
    first, second = one.ravel(), other.ravel()
    if first.dtype.kind != "f" or second.dtype.kind != "f":
        return float(np.mean(first != second)) if len(first) else 0.0
    first, second = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(first) & np.isfinite(second)
    if not np.array_equal(first[~finite], second[~finite], equal_nan=True):
        return math.inf
    return float(np.abs(first[finite] - second[finite]).max(initial=0.0) / spread)


def _line(case: Case, name: str, wanted: np.ndarray, found: np.ndarray | Failure, tolerance: float) -> Measured:
    if isinstance(found, Failure):
        return _problem(name, len(wanted), f"it does not answer: {found.said}")
    apart = distance(wanted, found, _spread(case.original))
    if not math.isfinite(apart):
        said = f"shapes {wanted.shape} and {found.shape}, or NaN and infinity in other places"
        return _problem(name, len(wanted), f"the answers are not alike: {said}")
    ranked = wanted.dtype.kind != "f"
    note = "share of the items that differ" if ranked else "largest difference as a share of the answers' range"
    margin = max(tolerance, _SWAPPED) if ranked else tolerance
    return Measured("mechanics", name, "at_most", len(wanted), "ANOMALOUS", loss=apart, margin=margin, note=note)


def _identical(one: np.ndarray, other: np.ndarray | Failure) -> Measured:
    name = "the same call in a second process"
    if isinstance(other, Failure):
        return _problem(name, len(one), f"it answered once, and then not: {other.said}")
    differ = 0 if one.tobytes() == other.tobytes() else int((one != other).sum())
    if one.shape == other.shape and not differ:
        return Measured("mechanics", name, "nothing_found", len(one), "ANOMALOUS", note="equal to the last bit")
    return _problem(name, len(one), f"the answers are not deterministic: {differ} of {one.size} values differ")


def _problem(name: str, count: int, problem: str) -> Measured:
    return Measured("mechanics", name, "nothing_found", count, "ANOMALOUS", problems=(problem,))


def _sample(case: Case, most: int) -> np.ndarray:
    count = len(case.original)
    return np.random.default_rng([case.seed, 0]).choice(count, min(count, most), replace=False)


def _spread(answers: np.ndarray) -> float:
    """Range of the finite answers; their size where all are equal, and 1 where all are zero or none are numbers."""
    if answers.dtype.kind != "f":
        return 1.0
    finite = answers[np.isfinite(answers)].astype(np.float64)
    return float(np.ptp(finite)) or float(np.abs(finite).max()) or 1.0 if len(finite) else 1.0


def _is_narrow(model: Path) -> bool:
    """Whether a file that onnxruntime has loaded holds numbers of 16 bits or fewer."""
    import onnx

    tensors = onnx.load(model, load_external_data=False).graph.initializer
    return any(onnx.TensorProto.DataType.Name(tensor.data_type) in _NARROW_TYPES for tensor in tensors)
