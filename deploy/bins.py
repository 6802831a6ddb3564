"""The bins of a bundle's ``drift_reference.json``: which of them the values of a tensor lie in.

A bin is called by its place among the reference's counts, ``missing`` and ``other`` by these words; where a tensor has
several spreads (a picture's mean and contrast, a list's length and items), their names come before it: ``mean:3``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import IntegrityError
from deploy.signature import MISSING, Signature

NAME = "drift_reference.json"

#: Array [rows, ...] of a tensor -> places of its values' bins, int64 [values].
Place = Callable[[np.ndarray], np.ndarray]

_DAY, _THURSDAY = 86_400_000_000, 3
_EACH_ROW: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=1),
    "deviation": lambda rows: rows.std(axis=1),
    "contrast": lambda rows: rows.max(axis=1) - rows.min(axis=1),
}


@dataclass(frozen=True)
class Spread:
    """How one thing about a tensor is spread.

    Attributes:
        tensor: its name.
        part: what of it is looked at, where it has several spreads; else empty.
        bins: their names, in the order of the counts; the last one is ``missing``.
        counts: split -> how many of the reference's values lie in each bin; small ones are given as 0.
        place: which bin each value lies in.
        ordered: whether the bins, but the last, rise with the value.
        each_row: whether a row has one value.
    """

    tensor: str
    part: str
    bins: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    place: Place
    ordered: bool = False
    each_row: bool = True

    @property
    def name(self) -> str:
        """The tensor's, and after a colon the part's."""
        return f"{self.tensor}:{self.part}" if self.part else self.tensor

    def count(self, array: np.ndarray) -> dict[str, int]:
        """How many of the values of an array [rows, ...] lie in each bin that is not empty."""
        found = np.bincount(self.place(array), minlength=len(self.bins)).tolist()
        named = zip(self.bins, found, strict=True)
        return {f"{self.part}:{name}" if self.part else name: count for name, count in named if count}


#: Name of a tensor -> its spreads, at least one.
Reference = Mapping[str, tuple[Spread, ...]]


def read(folder: Path, signature: Signature) -> Reference:
    """The spreads of each input, and of the first output, that a bundle has a reference for; none without the file.

    Raises:
        IntegrityError: if the file is not a reference.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        labels = signature.outputs[0].labels
        both = raw["features"] | raw["predictions"]
        return {name: tuple(_spreads(name, spread, labels)) for name, spread in both.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{path}: {type(error).__name__}: {error}"
        raise IntegrityError("a drift reference says how each tensor is binned", found, "export it again") from error


def digest(folder: Path) -> str:
    """SHA-256 of a bundle's reference, in hexadecimal: places mean something beside this very file alone."""
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def count(spreads: tuple[Spread, ...], array: np.ndarray) -> dict[str, int]:
    """How many values of a tensor [rows, ...] lie in each bin of its spreads that is not empty."""
    return {name: count for spread in spreads for name, count in spread.count(array).items()}


def _spreads(name: str, raw: Mapping[str, Any], labels: tuple[Any, ...] | None) -> list[Spread]:
    match raw["kind"]:
        case "array":
            parts = {part: _of_rows(of) for part, of in _EACH_ROW.items()}
            return [_single(name, part, raw[part], of) for part, of in parts.items()]
        case "list":
            length = _single(name, "length", raw["length"], lambda array: _given(array).sum(axis=1))
            items = _single(name, "items", raw["items"], lambda array: _flat(array)[_given(array)], each_row=False)
            return [length, items]
        case "labels":
            label = _single(name, "label", raw["label"], lambda array: _answered(array, labels))
            return [label, _single(name, "probability", raw["probability"], lambda array: _flat(array).max(axis=1))]
        case _:
            return [_single(name, "", raw, np.ravel)]


def _single(
    tensor: str, part: str, raw: Mapping[str, Any], values: Callable[[np.ndarray], np.ndarray], each_row: bool = True
) -> Spread:
    """A spread of values that ``values`` makes of a tensor's array [rows, ...]."""
    bins, place = _PLACES[raw["kind"]](raw) if raw["kind"] in _PLACES else _no_kind(raw["kind"])
    counts = {split: tuple(given) for split, given in raw["counts"].items()}
    if wrong := [split for split, given in counts.items() if len(given) != len(bins)]:
        raise ValueError(f"{tensor}: {len(bins)} bins, and other numbers of counts for {', '.join(wrong)}")
    return Spread(tensor, part, bins, counts, lambda array: place(values(array)), raw["kind"] == "number", each_row)


def _no_kind(kind: Any) -> Any:
    raise ValueError(f"kind {kind!r}")


def _numbers(raw: Mapping[str, Any]) -> tuple[tuple[str, ...], Place]:
    edges = np.array(raw["edges"], np.float64)

    def place(values: np.ndarray) -> np.ndarray:
        numbers = values.astype(np.float64)
        absent = np.isnan(numbers) | (numbers == MISSING["INT64"])
        return np.where(absent, len(edges) + 1, np.searchsorted(edges, numbers, side="right"))

    return (*map(str, range(len(edges) + 1)), "missing"), place


def _categories(raw: Mapping[str, Any]) -> tuple[tuple[str, ...], Place]:
    values = raw.get("values", [])  # an identifier has none
    places = {value: place for place, value in enumerate(values)}
    other = len(values)

    def place(given: np.ndarray) -> np.ndarray:
        known = places | {MISSING["INT64" if given.dtype.kind == "i" else "BYTES"]: other + 1}
        return np.array([known.get(value, other) for value in given.tolist()], np.int64)

    return (*map(str, range(other)), "other", "missing"), place


def _weekdays(_raw: Mapping[str, Any]) -> tuple[tuple[str, ...], Place]:
    def place(moments: np.ndarray) -> np.ndarray:
        return np.where(moments == MISSING["INT64"], 7, (moments // _DAY + _THURSDAY) % 7)

    return (*map(str, range(7)), "missing"), place


_PLACES: Mapping[str, Callable[[Mapping[str, Any]], tuple[tuple[str, ...], Place]]] = {
    "number": _numbers,
    "category": _categories,
    "identifier": _categories,
    "weekday": _weekdays,
}


def _flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1)


def _given(array: np.ndarray) -> np.ndarray:
    """Which places of rows of any length hold something, bool [rows, places]."""
    flat = _flat(array)
    return np.asarray(flat != MISSING["INT64" if flat.dtype.kind == "i" else "BYTES"])


def _of_rows(of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: of(_flat(array).astype(np.float64))


def _answered(array: np.ndarray, labels: tuple[Any, ...] | None) -> np.ndarray:
    flat = _flat(array)
    names = np.array([str(name) for name in labels or range(flat.shape[1])], np.object_)
    return np.asarray(names[flat.argmax(axis=1)])
