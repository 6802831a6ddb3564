"""Rows that nobody wants and everybody sends: missing and infinite numbers, extremes, unseen categories, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from deploy.signature import MISSING, Signature, Tensor
from tasks.core.measured import Measured
from tasks.verify.case import Case, Scorer
from tasks.verify.mechanics.asking import Failure, ask, taken

_FLOATS: Mapping[str, Any] = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
_INTEGERS: Mapping[str, Any] = {"UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}
#: Processes that may be started for a file that fails on odd rows.
_MOST_CALLS = 16
_UNSEEN = "no such value \N{SNOWMAN}"

#: What a row holds in place of an ordinary value: kind of oddity, input, value.
Oddity = tuple[str, str, Any]


def measure(case: Case) -> list[Measured]:
    """One ordinary row with each input in turn replaced by each odd value of its type, and no rows at all.

    What the float file answers with finite numbers the exported one must, too, and what it rejects must be rejected.
    Where it answers NaN itself, or fails, nothing is asked: the note tells. Each row is given alone.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if the exported file has no readable ``signature.json``.
    """
    signature = Signature.read(case.shipped_file.folder / "signature.json")
    ordinary = signature.tensors(taken(case.columns, np.arange(1)))
    odd = [one for tensor in signature.inputs for one in oddities(tensor)]
    return [*_compared(case, ordinary, odd), _no_rows(case)]


def oddities(tensor: Tensor) -> list[Oddity]:
    """Odd values of an input, by its datatype."""
    values: list[tuple[str, Any]] = []
    if tensor.datatype in MISSING:
        values.append(("missing", MISSING[tensor.datatype]))
    if tensor.datatype in _FLOATS:
        largest = float(np.finfo(_FLOATS[tensor.datatype]).max)
        values += [("infinite", np.inf), ("infinite", -np.inf), ("extreme", largest), ("extreme", -largest)]
    if tensor.datatype in _INTEGERS:
        limits = np.iinfo(_INTEGERS[tensor.datatype])
        values += [("extreme", limits.max), ("extreme", -1 if limits.min else 0)]
    if tensor.datatype == "BYTES":
        values.append(("unseen", _UNSEEN))
    return [(kind, tensor.name, value) for kind, value in values]


def _compared(case: Case, ordinary: Mapping[str, np.ndarray], odd: list[Oddity]) -> list[Measured]:
    """A line for each kind of oddity."""
    shipped = answered(case.shipped_file, ordinary, odd)
    wanted = shipped if case.original_file is None else answered(case.original_file, ordinary, odd)
    lines = []
    for kind in dict.fromkeys(kind for kind, _, _ in odd):
        rows = [index for index, one in enumerate(odd) if one[0] == kind]
        problems = tuple(filter(None, (_problem(odd[row], wanted[row], shipped[row]) for row in rows)))
        told = [_told(odd[row], shipped[row]) for row in rows if not _is_finite(shipped[row])]
        note = "; ".join(told) or "finite answers to all"
        if case.original_file is None:
            note += "; there is no float file to compare with"
        lines.append(
            Measured(
                "mechanics", f"{kind} values", "nothing_found", len(rows), "ANOMALOUS", problems=problems, note=note
            )
        )
    return lines


def answered(scorer: Scorer, ordinary: Mapping[str, np.ndarray], odd: list[Oddity]) -> list[np.ndarray | Failure]:
    """What each odd row was answered. Rows that fail together are asked by halves, while calls are left."""
    answers: list[np.ndarray | Failure] = []
    waiting, calls = [odd] if odd else [], _MOST_CALLS
    while waiting:
        part = waiting.pop()
        found = ask(scorer, _rows(ordinary, part), batch=1)
        calls -= 1
        if not isinstance(found, Failure):
            answers += list(found)
        elif len(part) == 1 or calls < len(waiting) + 2:
            answers += [found] * len(part)
        else:
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
    return answers


def _rows(ordinary: Mapping[str, np.ndarray], odd: list[Oddity]) -> dict[str, np.ndarray]:
    """The ordinary row, once for each oddity, with that in its place."""
    columns = {name: np.repeat(array, len(odd), axis=0) for name, array in ordinary.items()}
    for row, (_, name, value) in enumerate(odd):
        columns[name][row] = value
    # A file without pickle holds texts of fixed width, not Python objects.
    return {name: array.astype(np.str_) if array.dtype == object else array for name, array in columns.items()}


def _problem(oddity: Oddity, wanted: np.ndarray | Failure, found: np.ndarray | Failure) -> str:
    if isinstance(wanted, Failure):
        if wanted.refused and not (isinstance(found, Failure) and found.refused):
            return f"the original rejects the row, the exported file does not: {_told(oddity, found)}"
        return ""
    if _is_finite(wanted) and not _is_finite(found):
        return f"the original answers, the exported file does not: {_told(oddity, found)}"
    return ""


def _told(oddity: Oddity, found: np.ndarray | Failure) -> str:
    _, name, value = oddity
    if isinstance(found, Failure):
        said = f"{'rejected' if found.refused else 'failed'} ({found.said})"
    else:
        said = "finite" if _is_finite(found) else "NaN or infinite"
    return f"{name} = {value!r}: {said}"


def _is_finite(found: np.ndarray | Failure) -> bool:
    return not isinstance(found, Failure) and (found.dtype.kind != "f" or bool(np.isfinite(found).all()))


def _no_rows(case: Case) -> Measured:
    found = ask(case.shipped_file, taken(case.columns, np.arange(0)))
    problems: tuple[str, ...] = ()
    if isinstance(found, Failure):
        problems = (f"no rows: {found.said}",)
    elif len(found):
        problems = (f"no rows are answered with {len(found)}",)
    return Measured("mechanics", "no rows", "nothing_found", 0, "ANOMALOUS", problems=problems)
