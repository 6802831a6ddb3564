"""The golden cases of a bundle: requests that the model must answer, their answers, and how far off it may be.

``golden/<case>.request.json`` and ``golden/<case>.response.json``, in the JSON of the Open Inference Protocol. A
missing number is ``null``. An output of floats has a parameter ``absolute_tolerance``, by provider; any other must be
equal. One with a parameter ``ordered_by`` is an order by the output of that name, and may differ where two neighbours'
values are closer than their tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import IntegrityError
from deploy.signature import MISSING, NUMPY

#: JSON has no infinity: the greatest float32 stands for it.
GREATEST = float(np.finfo(np.float32).max)
FOLDER, REQUEST, RESPONSE = "golden", ".request.json", ".response.json"


@dataclass(frozen=True)
class Answer:
    """One output of a golden case.

    Attributes:
        expected: [rows, ...].
        tolerance: largest absolute difference by provider; empty for what must be equal.
        ordered_by: name of the output whose values, of the same shape, this one is an order by.
    """

    expected: np.ndarray
    tolerance: Mapping[str, float]
    ordered_by: str | None = None

    def tolerated(self, provider: str) -> float:
        """The largest difference on a provider: on one that nobody thought of, the largest of all."""
        return self.tolerance.get(provider, max(self.tolerance.values(), default=0.0))


@dataclass(frozen=True)
class Case:
    """A request and its answer.

    Attributes:
        name: of the case.
        request: its body, as it is sent.
        columns: the request's inputs by name, each [rows, ...], as
            :meth:`deploy.predictor.Predictor.predict` takes them.
        answers: expected outputs, by name.
    """

    name: str
    request: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]
    answers: Mapping[str, Answer]

    def differences(self, outputs: Mapping[str, np.ndarray], provider: str) -> list[str]:
        """What is wrong with the outputs that a model gave on a provider; empty if nothing is."""
        found = ((name, self._difference(name, outputs, provider)) for name in self.answers)
        return [f"golden case {self.name}, output {name}: {said}" for name, said in found if said]

    def _difference(self, name: str, outputs: Mapping[str, np.ndarray], provider: str) -> str:
        answer = self.answers[name]
        if name not in outputs:
            return "not given"
        given = np.asarray(outputs[name])
        if given.shape != answer.expected.shape:
            return f"shape {list(given.shape)}, expected {list(answer.expected.shape)}"
        if answer.tolerance:
            most = answer.tolerated(provider)
            given, expected = (np.clip(a.astype(np.float64), -GREATEST, GREATEST) for a in (given, answer.expected))
            same = np.isnan(given) & np.isnan(expected)
            worst = float(np.max(np.where(same, 0.0, np.nan_to_num(np.abs(given - expected), nan=np.inf)), initial=0.0))
            return f"off by {worst:.3g} on {provider}, of at most {most:.3g}" if worst > most else ""
        wrong = given != answer.expected
        if answer.ordered_by is not None:
            wrong &= ~self._close(answer.ordered_by, provider)
        return f"{int(wrong.sum())} of {wrong.size} values differ" if wrong.any() else ""

    def _close(self, name: str, provider: str) -> np.ndarray:
        """Where a value and the one before or behind it in its row could change places, bool [rows, k]."""
        values = self.answers[name]
        gaps = np.abs(np.diff(values.expected, axis=-1)) <= 2 * values.tolerated(provider)
        edge = np.zeros((len(gaps), 1), bool)
        # Behind the last place stands one that is not given: it could have taken that place.
        return np.asarray(np.concatenate([edge, gaps], axis=-1) | np.concatenate([gaps, ~edge], axis=-1))


def read(folder: Path) -> tuple[Case, ...]:
    """The golden cases of a bundle, or of a variant in it, by name.

    Args:
        folder: holds ``golden/``.

    Raises:
        IntegrityError: if there is none, or one is not a request with its answer.
    """
    requests = sorted((folder / FOLDER).glob(f"*{REQUEST}"))
    if not requests:
        found = f"no {FOLDER}/*{REQUEST} in {folder}"
        raise IntegrityError("a bundle has golden requests and their answers", found, "export it again")
    return tuple(_read(path, path.name.removesuffix(REQUEST)) for path in requests)


def _read(request: Path, name: str) -> Case:
    try:
        asked = json.loads(request.read_text(encoding="utf-8"))
        told = json.loads(request.with_name(name + RESPONSE).read_text(encoding="utf-8"))
        columns = {item["name"]: array(item) for item in asked["inputs"]}
        return Case(name, asked, columns, {item["name"]: _answer(item) for item in told["outputs"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        found = f"{request}: {type(error).__name__}: {error}"
        rule = "a golden case is a request and its answer in the JSON of the inference protocol"
        raise IntegrityError(rule, found, "fetch or build the bundle anew") from error


def _answer(item: Mapping[str, Any]) -> Answer:
    parameters = item.get("parameters", {})
    tolerance = {str(name): float(value) for name, value in parameters.get("absolute_tolerance", {}).items()}
    expected = array(item)
    if (expected.dtype.kind == "f") != bool(tolerance) or not all(0 <= most < np.inf for most in tolerance.values()):
        raise ValueError(f"{item['name']}: floats, and only they, have a tolerance, from 0 and finite")
    return Answer(expected, tolerance, parameters.get("ordered_by"))


def array(item: Mapping[str, Any]) -> np.ndarray:
    """The array of a tensor in JSON, of its datatype and shape; ``null`` is what stands for "missing".

    Raises:
        KeyError, TypeError, ValueError, OverflowError: if it is no tensor.
    """
    dtype, absent = np.dtype(NUMPY[item["datatype"]]), MISSING.get(item["datatype"])
    values = [absent if value is None else value for value in item["data"]]
    wanted: Any = {"O": str, "b": bool, "f": (int, float)}.get(dtype.kind, int)
    if wrong := [value for value in values if not isinstance(value, wanted) or (dtype.kind != "b" and value is True)]:
        raise TypeError(f"{item['name']}: {wrong[0]!r} is no {item['datatype']}")
    return np.array(values, dtype).reshape(item["shape"])
