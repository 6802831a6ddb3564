"""Rows of one stretch of time, or of one table: what is judged at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Rows.

    Attributes:
        key: what it is known by, so that it is judged once: its first moment, or the hash of a table.
        name: in words.
        rows: how many.
        counts: spread -> count of each bin, [bins].
        answers: as the metric takes them, [rows, ...]; None where the metric cannot be had of what was kept.
        labels: class index or quantity, [rows], NaN where none has come yet; None where none are known.
    """

    key: str
    name: str
    rows: int
    counts: Mapping[str, np.ndarray]
    answers: np.ndarray | None
    labels: np.ndarray | None


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        windows: that have ended, in order.
        source: in words.
        notes: what was left out, and why.
        waiting: why there is no newer window; empty for a table.
    """

    windows: Sequence[Window]
    source: str
    notes: Sequence[str]
    waiting: str = ""
