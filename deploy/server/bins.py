"""The bins of a bundle's ``drift_reference.json``: which of them the values of a tensor lie in.

A bin is called by its place among the reference's counts, ``missing`` and ``other`` by these words; where a tensor has
several spreads (a picture's mean and contrast, a list's length and items), their names come before it: ``mean:3``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import IntegrityError
from deploy.signature import MISSING, Signature

NAME = "drift_reference.json"

#: Array [rows, ...] -> how many of its values lie in each bin that is not empty.
Count = Callable[[np.ndarray], dict[str, int]]

_DAY, _THURSDAY = 86_400_000_000, 3
_EACH_ROW: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=1),
    "deviation": lambda rows: rows.std(axis=1),
    "contrast": lambda rows: rows.max(axis=1) - rows.min(axis=1),
}


def read(folder: Path, signature: Signature) -> dict[str, Count]:
    """How to count each input, and the first output, that a bundle has a reference for; none if it has no such file.

    Raises:
        IntegrityError: if the file is not a reference.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        labels = signature.outputs[0].labels
        return {name: _count(spread, labels) for name, spread in (raw["features"] | raw["predictions"]).items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{path}: {type(error).__name__}: {error}"
        raise IntegrityError("a drift reference says how each tensor is binned", found, "export it again") from error


def _count(spread: Mapping[str, Any], labels: tuple[Any, ...] | None = None) -> Count:
    match spread["kind"]:
        case "number":
            edges = np.array(spread["edges"], np.float64)
            return lambda array: _numbers(array.ravel().astype(np.float64), edges)
        case "category":
            places = {value: str(place) for place, value in enumerate(spread["values"])}
            return lambda array: _categories(array.ravel(), places)
        case "weekday":
            return _weekdays
        case "identifier":
            return lambda array: _categories(array.ravel(), {})
        case "array":
            each = {name: _count(spread[name]) for name in _EACH_ROW}
            return lambda array: _rows(array, each)
        case "list":
            length, items = _count(spread["length"]), _count(spread["items"])
            return lambda array: _lists(array, length, items)
        case "labels":
            label, probability = _count(spread["label"]), _count(spread["probability"])
            return lambda array: _labels(array, labels, label, probability)
        case kind:
            raise ValueError(f"kind {kind!r}")


def _numbers(values: np.ndarray, edges: np.ndarray) -> dict[str, int]:
    known = values[~np.isnan(values) & (values != MISSING["INT64"])]
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1).tolist()
    return _named(counts, missing=len(values) - len(known))


def _categories(values: np.ndarray, places: Mapping[Any, str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    absent = MISSING.get("INT64" if values.dtype.kind == "i" else "BYTES")
    for value, count in Counter(values.tolist()).items():
        found["missing" if value == absent else places.get(value, "other")] += count
    return dict(found)


def _weekdays(array: np.ndarray) -> dict[str, int]:
    moments = array.ravel()
    known = moments[moments != MISSING["INT64"]]
    days = np.bincount((known // _DAY + _THURSDAY) % 7, minlength=7).tolist()
    return _named(days, missing=len(moments) - len(known))


def _rows(array: np.ndarray, each: Mapping[str, Count]) -> dict[str, int]:
    flat = array.reshape(len(array), -1).astype(np.float64)
    return _prefixed({name: count(_EACH_ROW[name](flat)) for name, count in each.items()})


def _lists(array: np.ndarray, length: Count, items: Count) -> dict[str, int]:
    flat = array.reshape(len(array), -1)
    given = flat != MISSING["INT64" if flat.dtype.kind == "i" else "BYTES"]
    return _prefixed({"length": length(given.sum(axis=1)), "items": items(flat[given])})


def _labels(array: np.ndarray, labels: tuple[Any, ...] | None, label: Count, probability: Count) -> dict[str, int]:
    flat = array.reshape(len(array), -1)
    names = np.array([str(name) for name in labels or range(flat.shape[1])], np.object_)
    return _prefixed({"label": label(names[flat.argmax(axis=1)]), "probability": probability(flat.max(axis=1))})


def _named(counts: list[int], missing: int) -> dict[str, int]:
    found = {str(place): count for place, count in enumerate(counts) if count}
    return found | {"missing": missing} if missing else found


def _prefixed(parts: Mapping[str, dict[str, int]]) -> dict[str, int]:
    return {f"{part}:{name}": count for part, counts in parts.items() for name, count in counts.items()}
