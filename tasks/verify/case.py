"""Two models and the rows that they are compared on: what every check is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.metrics import Metric
from tasks.core.scoring import Exported, score
from tasks.core.statistics import Comparison, paired

if TYPE_CHECKING:
    from tasks.verify.stored import Column


@dataclass(frozen=True)
class Scorer:
    """An exported model: ``model.onnx`` and ``signature.json`` in a folder, and the device that it is judged on."""

    folder: Path
    device: str = "auto"

    def answers(
        self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
    ) -> np.ndarray:
        """Its first output for raw rows, [rows, ...], in a process that holds nothing but deploy's code.

        A process takes about half a second to start: ask for many rows at once.

        Args:
            columns: name -> array [rows, ...].
            batch: rows given to the model at once; None leaves the choice to the predictor.
            threads: inside an operator; None leaves the choice to onnxruntime.

        Raises:
            MachineError: if the device or the disk refuses.
            IntegrityError: if the process fails in another way, with what it said.
        """
        return self.score(columns, batch, threads).answers

    def score(
        self, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
    ) -> Exported:
        """:meth:`answers`, and the provider that ran the model."""
        return score(self.folder, columns, self.device, batch, threads)


@dataclass(frozen=True)
class Case:
    """Answers of an original and of one exported file to the same rows.

    Attributes:
        labels: the target, [n].
        original: answers of the original, [n, ...].
        shipped: answers of the exported file, [n, ...].
        metric: what decides.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        classes: the target's values.
        columns: the raw rows, name -> [n, ...]: arrays, or what is read when rows of it are asked for.
        groups: which rows belong together, [n], or None where each stands alone.
        original_file: the original as float ONNX; None if there is none.
        shipped_file: the exported file.
        seed: of everything random.
        confidence: of each one-sided bound.
    """

    labels: np.ndarray
    original: np.ndarray
    shipped: np.ndarray
    metric: Metric
    task: str
    classes: tuple[Any, ...]
    columns: Mapping[str, np.ndarray | Column]
    groups: np.ndarray | None
    original_file: Scorer | None
    shipped_file: Scorer
    seed: int = 0
    confidence: float = 0.95

    def compare(self, resamples: int) -> Comparison:
        """The metric of both, with bounds of the loss: :func:`tasks.core.statistics.paired`."""
        return paired(
            self.metric, self.labels, self.original, self.shipped, self.groups, self.confidence, resamples, self.seed
        )
