"""Rows in one .npz file: what the graph takes, and the labels. Shared by the benchmark's scripts; not run itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_INPUT, _LABELS = "input.", "labels"


@dataclass(frozen=True)
class Rows:
    """Rows with their labels.

    Attributes:
        inputs: the graph's inputs by name, each [rows, ...].
        labels: [rows], as the metric takes them.
    """

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Rows:
        """The first rows, at most ``count``."""
        return Rows({name: array[:count] for name, array in self.inputs.items()}, self.labels[:count])

    def batches(self, size: int) -> Iterator[dict[str, np.ndarray]]:
        """The inputs, ``size`` rows at a time (the last ones may be fewer)."""
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}

    def write(self, path: Path) -> None:
        """Write a file that :meth:`read` takes; texts are stored as plain Unicode arrays."""
        arrays = {f"{_INPUT}{name}": array for name, array in self.inputs.items()} | {_LABELS: self.labels}
        plain = {name: array.astype(str) if array.dtype == object else array for name, array in arrays.items()}
        np.savez(path, **plain)

    @staticmethod
    def read(path: Path) -> Rows:
        """Rows that :meth:`write` wrote."""
        with np.load(path) as stored:
            inputs = {name.removeprefix(_INPUT): stored[name] for name in stored.files if name.startswith(_INPUT)}
            return Rows(inputs, stored[_LABELS])
