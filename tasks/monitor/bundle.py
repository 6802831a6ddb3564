"""What a bundle says of the rows that it was made for, and of how good it was shown to be on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploy import bins
from deploy.bundle import check, manifest_digest
from deploy.signature import Signature
from tasks.core import files
from tasks.core.errors import IntegrityError
from tasks.core.metrics import Metric, find


@dataclass(frozen=True)
class Shown:
    """A metric as the gate `verify` found it.

    Attributes:
        metric: that decides.
        task: binary, multiclass or regression.
        figure: on test.
        interval: two-sided; NaN where there is none.
        confidence: of it.
    """

    metric: Metric
    task: str
    figure: float
    interval: tuple[float, float]
    confidence: float


@dataclass(frozen=True)
class Champion:
    """A bundle that rows are held against.

    Attributes:
        folder: where it lies.
        version: its folder's name.
        digest: SHA-256 of its manifest.
        signature: what it takes and gives.
        spreads: of inputs and of its answer, with one value a row, by name.
        answer: name of the first output.
        hidden: what a count of 0 in the reference stands for.
        shown: how good it was; None for a ranking, whose answers cannot be judged here.
        target: column of the labels.
    """

    folder: Path
    version: str
    digest: str
    signature: Signature
    spreads: dict[str, bins.Spread]
    answer: str
    hidden: float
    shown: Shown | None
    target: str

    @staticmethod
    def read(folder: Path) -> Champion:
        """Check a bundle's hashes, and read it.

        Raises:
            UsageError: if it is no bundle.
            IntegrityError: if it is not whole, or its evidence does not follow its schema.
        """
        check(folder)
        signature = Signature.read(folder / "signature.json")
        spreads = {
            spread.name: spread
            for several in bins.read(folder, signature).values()
            for spread in several
            if spread.each_row
        }
        try:
            hidden = files.read_json(folder / bins.NAME)["least_count"] / 2
            provenance = files.read_json(folder / "provenance.json")
            return Champion(
                folder, provenance["version"], manifest_digest(folder), signature, spreads, signature.outputs[0].name,
                hidden, _shown(folder, signature, provenance["params"]), provenance["params"]["base"]["target"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            rule, found = "a bundle's evidence follows its schemas", f"{folder}: {type(error).__name__}: {error}"
            raise IntegrityError(rule, found, "export it again") from error

    def is_answer(self, spread: str) -> bool:
        """Whether a spread is one of the answer's."""
        return self.spreads[spread].tensor == self.answer

    def reference(self, spread: str) -> np.ndarray:
        """Counts of the rows that it learnt from; of answers, those of validation."""
        return np.array(next(iter(self.spreads[spread].counts.values())))


def _shown(folder: Path, signature: Signature, params: Any) -> Shown | None:
    task = _task(signature)
    if task is None:
        return None
    line = files.read_json(folder / "metrics.json")["intervals"][0]
    low, high = (np.nan if end is None else float(end) for end in line["shipped_interval"])
    return Shown(find(line["metric"], task), task, line["shipped"], (low, high), params["verify"]["confidence"])


def _task(signature: Signature) -> str | None:
    output = signature.outputs[0]
    if output.datatype not in ("FP16", "FP32", "FP64"):
        return None
    if output.labels is None:
        return "regression"
    return "binary" if output.is_column else "multiclass"
