"""Golden cases: requests that a bundled model must answer, with its answers and a tolerance that was measured.

``typical``: test rows. ``single``: one of them. ``odd``: one ordinary row with each input in turn missing, extreme or
unseen, as far as the model answers such rows with finite numbers; and one with all of them missing.

The tolerance of an output is how far it moves when onnxruntime leaves its graph optimizations out, which has other
kernels compute it: twice the largest difference found. It is never below what rounding alone may cost:
:data:`_FLOAT32` on the CPU, and :data:`_TF32` on a GPU, whose products may keep no more than ten bits of a factor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy import golden
from deploy.golden import GREATEST, REQUEST, RESPONSE
from deploy.predictor import Predictor
from deploy.runtime import open_session
from deploy.signature import MISSING, NUMPY, Signature, Tensor
from tasks.core import files
from tasks.core.errors import IntegrityError
from tasks.core.log import log

if TYPE_CHECKING:
    from deploy.variants import Variant

Arrays = Mapping[str, np.ndarray]

#: Rounding steps of a sum's order, each a share of the largest answer: 64 half units in the last place of float32, and
#: 16 of TF32 (https://docs.nvidia.com/cuda/cublas: ten explicit bits).
_FLOAT32, _TF32 = 64 * 2.0**-24, 16 * 2.0**-11
_ROUNDING = {"CPUExecutionProvider": _FLOAT32, "CUDAExecutionProvider": _TF32, "TensorrtExecutionProvider": _TF32}
#: Test rows that a tolerance is measured on.
MEASURED_ROWS = 1024
#: A golden file stays small, however wide a row is.
_MOST_VALUES, _MOST_ODD = 200_000, 64
_UNSEEN = "no such value \N{SNOWMAN}"


def write(out: Path, variant: Variant, columns: Arrays, count: int) -> None:
    """Write the golden cases of a variant into its folder.

    Args:
        out: the bundle's folder.
        variant: whose folder in it holds ``model.onnx`` and ``signature.json``.
        columns: the exported model's inputs for the test rows, by name.
        count: test rows of the typical case; of wide rows fewer are taken.
    """
    folder = out / variant.folder
    predictor = Predictor.open(folder, variant.device, variant.threads)
    rows = predictor.signature.tensors({name: array[:MEASURED_ROWS] for name, array in columns.items()})
    odd = _answered(predictor, _odd(predictor.signature, rows))
    plain = Predictor(open_session(folder / "model.onnx", variant.device, 1, optimized=False), predictor.signature)
    usual = _tolerances(predictor, plain, rows)
    cases = [("typical", _slice(rows, min(count, _most_rows(rows))), usual), ("single", _slice(rows, 1), usual)]
    if odd:  # extremes may have extreme answers, and rounding to match
        cases.append(("odd", odd, _tolerances(predictor, plain, odd, usual)))
    for name, asked, tolerances in cases:
        answers = predictor.predict(asked)
        case = folder / golden.FOLDER / name
        case.parent.mkdir(exist_ok=True)
        inputs = [_tensor(tensor, asked[tensor.name]) for tensor in predictor.signature.inputs]
        outputs = list(_outputs(predictor.signature, answers, tolerances))
        files.write_json(case.with_name(name + REQUEST), {"inputs": inputs})
        files.write_json(case.with_name(name + RESPONSE), {"model_name": "model", "outputs": outputs})


def prove(folder: Path, variant: Variant) -> None:
    """Answer every golden case of a bundle's variant as a server would.

    Raises:
        IntegrityError: if an answer is not the one that is written there.
    """
    predictor = Predictor.open(folder / variant.folder, variant.device, variant.threads)
    wrong = [
        said
        for case in golden.read(folder / variant.folder)
        for said in case.differences(predictor.predict(case.columns), predictor.provider)
    ]
    if wrong:
        raise IntegrityError("a bundled model answers its golden cases", "; ".join(wrong), "export again; report it")


def _slice(rows: Arrays, count: int) -> dict[str, np.ndarray]:
    return {name: array[:count] for name, array in rows.items()}


def _most_rows(rows: Arrays) -> int:
    """Rows of a case, of which there is one however wide it is."""
    return max(1, _MOST_VALUES // sum(array[:1].size for array in rows.values()))


def _odd(signature: Signature, rows: Arrays) -> Iterator[dict[str, np.ndarray]]:
    """Odd rows, each alone, by input."""
    ordinary = _slice(rows, 1)
    odd = [(tensor.name, value) for tensor in signature.inputs for value in _values(tensor)]
    most = min(_MOST_ODD, _most_rows(rows))
    for index in np.unique(np.linspace(0, len(odd) - 1, min(most, len(odd))).astype(int)):
        name, value = odd[index]
        yield ordinary | {name: np.full_like(ordinary[name], value)}
    absent = {t.name: MISSING[t.datatype] for t in signature.inputs if t.datatype in MISSING}
    if absent:
        yield ordinary | {name: np.full_like(ordinary[name], value) for name, value in absent.items()}


def _values(tensor: Tensor) -> list[Any]:
    """Odd values of an input, by its datatype."""
    absent = [MISSING[tensor.datatype]] if tensor.datatype in MISSING else []
    dtype = np.dtype(NUMPY[tensor.datatype])
    if dtype.kind == "f":
        largest = min(float(np.finfo(dtype).max), GREATEST)
        return [*absent, largest, -largest]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return [*absent, limits.max, -1 if limits.min else 0]
    return [*absent, _UNSEEN] if dtype.kind == "O" else [False, True]


def _answered(predictor: Predictor, odd: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
    """Those odd rows, together, that the model answers with finite numbers; None if there is none."""
    kept = [row for row in odd if _is_answered(predictor, row)]
    return {name: np.concatenate([row[name] for row in kept]) for name in kept[0]} if kept else None


def _is_answered(predictor: Predictor, row: Arrays) -> bool:
    try:
        first = predictor.predict(row)[predictor.signature.outputs[0].name]
    except Exception as error:  # noqa: BLE001 (of onnxruntime's dozen types: the row is no valid request)
        log.debug("export: an odd row is no golden one: %s", error)
        return False
    return first.dtype.kind != "f" or bool(np.isfinite(first).all())


def _tolerances(
    predictor: Predictor, plain: Predictor, rows: Arrays, least: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, dict[str, float]]:
    """Largest absolute difference that is allowed, by output of floats and provider; at least ``least``."""
    optimized, other = predictor.predict(rows), plain.predict(rows)
    found = {}
    for output in predictor.signature.outputs:
        if np.dtype(NUMPY[output.datatype]).kind == "f":
            name = output.name
            moved, size = _distance(optimized[name], other[name]), _size(optimized[name])
            found[name] = {
                provider: max(_round_up(max(2 * moved, step * size)), (least or {}).get(name, {}).get(provider, 0.0))
                for provider, step in _ROUNDING.items()
            }
    return found


def _known(array: np.ndarray) -> np.ndarray:
    return np.asarray(np.isfinite(array) & (np.abs(array) < GREATEST))


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    both = _known(one) & _known(other)
    return float(np.abs(one[both].astype(np.float64) - other[both]).max(initial=0.0))


def _size(array: np.ndarray) -> float:
    return float(np.abs(array[_known(array)]).max(initial=0.0))


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... so that a difference in the last digit measured is none in the bundle."""
    if value <= 0:
        return 1e-9
    power = math.floor(math.log10(value))
    digits = next(step for step in (1, 2, 5, 10) if step * 10.0**power >= value * (1 - 1e-9))
    return float(f"{digits}e{power}")


def _outputs(signature: Signature, answers: Arrays, tolerances: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The first output and all others of floats; what else there is may be a decision between near equals."""
    first = signature.outputs[0]
    for tensor in signature.outputs:
        answer = answers[tensor.name]
        if tensor.name in tolerances:
            yield _tensor(tensor, answer) | {"parameters": {"absolute_tolerance": tolerances[tensor.name]}}
        elif tensor is first:
            by = [name for name in tolerances if answers[name].shape == answer.shape and answer.ndim == 2]
            yield _tensor(tensor, answer) | ({"parameters": {"ordered_by": by[0]}} if by else {})


def _tensor(tensor: Tensor, array: np.ndarray) -> dict[str, Any]:
    """The JSON of a tensor. A missing number is ``null``, and the greatest float32 is infinity: JSON has neither."""
    data = [_plain(value) for value in array.ravel().tolist()]
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(array.shape), "data": data}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else float(np.clip(value, -GREATEST, GREATEST))
    return value.decode() if isinstance(value, bytes) else value
