"""A call that may fail: its answers, or what the process said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.core.errors import DataRejected, IntegrityError
from tasks.verify.case import Scorer

if TYPE_CHECKING:
    from tasks.verify.stored import Column

_MOST_LETTERS = 300


@dataclass(frozen=True)
class Failure:
    """No answers.

    Attributes:
        said: the end of what the process said.
        refused: whether the rows were rejected in order, by the signature.
    """

    said: str
    refused: bool


def ask(
    scorer: Scorer, columns: Mapping[str, np.ndarray], batch: int | None = None, threads: int | None = None
) -> np.ndarray | Failure:
    """:meth:`Scorer.answers`, or why there are none.

    Raises:
        MachineError: if the device or the disk refuses.
    """
    try:
        return scorer.answers(columns, batch, threads)
    except IntegrityError as error:
        said = " ".join(error.found.split())[-_MOST_LETTERS:]
        return Failure(said, error.found.startswith(f"exit code {DataRejected.exit_code}:"))


def taken(columns: Mapping[str, np.ndarray | Column], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the columns, by their places."""
    return {name: array[rows] for name, array in columns.items()}
