"""Places on a drawing: what the pages' SVG is made with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

#: Size of a drawing, and the room around it for its words.
WIDTH, HEIGHT, MARGIN = 640, 240, 46
_TICKS = 4
_SPELT_OUT, _MOST_DIGITS = 1e7, 17  # no two floats are the same in 17 digits


@dataclass(frozen=True)
class Axis:
    """Places numbers, or words, between two ends of a drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    words: tuple[str, ...] = ()
    whole: bool = False

    @staticmethod
    def of(values: Sequence[Any], start: float, end: float) -> Axis:
        """The axis of some values: words where one is no number; logarithmic over more than two orders."""
        if not all(isinstance(value, int | float) for value in values):
            words = tuple(sorted({str(value) for value in values}))
            return Axis(0, max(1, len(words) - 1), start, end, words=words)
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        whole = all(isinstance(value, int) for value in values)
        return Axis(low, high, start, end, log=low > 0 and high / low > 100, whole=whole)

    def __call__(self, value: Any) -> float:
        """The place of a value."""
        number = float(self.words.index(str(value))) if self.words else float(value)
        if self.log:
            share = math.log(number / self.low) / math.log(self.high / self.low)
        else:
            share = (number - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places with what to write there."""
        if self.words:
            return [(self(word), word) for word in self.words]
        shares = [index / _TICKS for index in range(_TICKS + 1)]
        if self.log:
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        if self.whole:
            values = sorted({float(round(value)) for value in values})
        return list(zip(map(self, values), _told_apart(values), strict=True))


def _told_apart(values: Sequence[float]) -> list[str]:
    """Different numbers in as few digits, three at least, as tell them apart and spell whole parts out."""
    greatest = max(map(abs, values))
    digits = max(3, len(f"{greatest:.0f}") if greatest < _SPELT_OUT else 0)
    while len({f"{value:.{digits}g}" for value in values}) < len(values) and digits < _MOST_DIGITS:
        digits += 1
    return [f"{value:.{digits}g}" for value in values]


def plane(across: Sequence[Any], up: Sequence[Any]) -> tuple[Axis, Axis]:
    """The axes of a drawing, from the left and from below, for the values that it shows."""
    return Axis.of(across, MARGIN, WIDTH - 8), Axis.of(up, HEIGHT - MARGIN / 2, 8)


def steps(across: Axis, up: Axis, values: Iterable[tuple[float, float]]) -> str:
    """The corners of a line that keeps its height until the next value: for a polyline."""
    corners: list[tuple[float, float]] = []
    for place, value in values:
        if corners:
            corners.append((across(place), corners[-1][1]))
        corners.append((across(place), up(value)))
    return " ".join(f"{x},{y}" for x, y in corners)
