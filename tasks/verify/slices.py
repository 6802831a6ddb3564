"""Loss by class and by slice: what an average may hide, tested all together without crying wolf."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import UsageError
from tasks.core.log import progress
from tasks.core.margins import absolute
from tasks.core.measured import Measured
from tasks.core.metrics import Metric, find
from tasks.core.statistics import bootstrap, planning, proportions
from tasks.verify.case import Case

Array = NDArray[Any]

#: A numeric column with no more values than quartiles is cut by value.
_FEW_VALUES = 4
_QUARTILES = (0.25, 0.5, 0.75)
#: So many names are given of parts that are not tested.
_NAMED = 5


def measure(
    case: Case,
    columns: Mapping[str, Array],
    margin: float | str | None,
    class_margin: float | str | None,
    fewest_rows: int,
) -> list[Measured]:
    """The recall of each class, and the case's metric in each slice, with bounds of the loss (rule ``no_harm``).

    All classes and slices are one family of tests. Holm's procedure (Scandinavian Journal of Statistics 6, 1979,
    65-70) keeps the chance of any false alarm among them at most 1 - ``case.confidence``: the bounds of each line are
    at the level that the procedure tests it at.

    Shares of rows that stand alone have Tango's score interval. Anything else has a delete-a-group jackknife's error
    and Student's t: quantiles of resamples do not reach as far out as many tests need.

    A numeric column is cut at its quartiles, any other by value; what is missing (None, NaN, NaT) is a slice of its
    own. A last line counts the parts that could not be tested.

    Args:
        case: answers of both models.
        columns: name -> a value for each row of the case, [n] or [n, 1].
        margin: largest acceptable loss of the metric in a slice, as :func:`tasks.core.margins.absolute` takes it.
        class_margin: that of a class's recall.
        fewest_rows: a slice with fewer rows is not tested.

    Raises:
        UsageError: if a column has not one value for each row.
    """
    parts = [*_classes(case, class_margin), *_slices(case, columns, margin)]
    tests, left = [], _Untested()
    impossible = []
    for part in progress(parts, "slices", len(parts)):
        if len(part.rows) < (fewest_rows if part.kind == "slice" else 1):
            left.small.append(part)
            continue
        test = _test(case, part)
        if math.isnan(test.original):
            left.without_value.append(part)
        elif math.isnan(test.shipped):
            impossible.append(_measured(test, test.paired.loss, math.nan, math.nan))
        elif math.isnan(test.chance):
            left.without_bound.append(part)
        else:
            tests.append(test)
    return [*_family(tests, case.confidence), *impossible, *left.line(case.metric, fewest_rows)]


@dataclass(frozen=True)
class _Part:
    """Rows of a class or a slice, by index, and what is measured on them."""

    kind: str
    name: str
    metric: Metric
    rows: NDArray[np.int64]
    margin: float | str | None


class _Paired(Protocol):
    """A test of the loss."""

    @property
    def loss(self) -> float: ...

    def bounds(self, confidence: float) -> tuple[float, float]: ...

    def chance(self, margin: float) -> float: ...


@dataclass(frozen=True)
class _Test:
    """A part's figures, and the p of a loss of no more than its margin, in the metric's unit, on independent units."""

    part: _Part
    original: float
    shipped: float
    margin: float
    paired: _Paired
    chance: float
    units: int


def _classes(case: Case, margin: float | str | None) -> Iterator[_Part]:
    """The recall of a class is the accuracy on its rows."""
    if case.task not in ("binary", "multiclass"):
        return
    accuracy = find("accuracy", case.task)
    for index, value in enumerate(case.classes):
        yield _Part("class", f"recall of {value}", accuracy, np.flatnonzero(case.labels == index), margin)


def _slices(case: Case, columns: Mapping[str, Array], margin: float | str | None) -> Iterator[_Part]:
    for name, values in columns.items():
        flat = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if flat.shape != case.labels.shape:
            raise UsageError(
                "a column that slices the test rows must have one value for each",
                f"`{name}` has the shape {values.shape}, and there are {len(case.labels)} rows",
                "name a column of a plain type",
            )
        for words, rows in _cut(flat):
            yield _Part("slice", f"{case.metric.name} where {name} {words}", case.metric, rows, margin)


def _cut(values: Array) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """What is said of a slice's values, and its rows; each row is in one slice."""
    missing = _missing(values)
    if missing.any():
        yield "is missing", np.flatnonzero(missing)
    known = np.flatnonzero(~missing)
    if len(known) == 0:
        return
    words, place = _bins(values[known])
    order = np.argsort(place, kind="stable")
    borders = np.cumsum(np.bincount(place, minlength=len(words)))[:-1]
    for said, rows in zip(words, np.split(known[order], borders), strict=True):
        if len(rows):
            yield said, rows


def _bins(values: Array) -> tuple[list[str], NDArray[np.int64]]:
    """The bins in words, and the bin of each value: quartiles of many numbers or times, else a bin for each value."""
    if values.dtype.kind == "O":
        values = values.astype(str)
    distinct, place = np.unique(values, return_inverse=True)
    if values.dtype.kind not in "iufmM" or len(distinct) <= _FEW_VALUES:
        return [f"is {_said(value)}" for value in distinct], place
    # The least values that a quarter, a half, three quarters of the rows do not exceed.
    edges = np.unique(np.sort(values)[[math.ceil(share * len(values)) - 1 for share in _QUARTILES]])
    said = [_said(edge) for edge in edges]
    between = [f"is over {low}, up to {high}" for low, high in itertools.pairwise(said)]
    return [f"is up to {said[0]}", *between, f"is over {said[-1]}"], np.searchsorted(edges, values, side="left")


def _missing(values: Array) -> NDArray[np.bool_]:
    """None, and whatever does not equal itself: NaN and NaT."""
    if values.dtype.kind == "O":
        return np.array([value is None or value != value for value in values], dtype=np.bool_)  # noqa: PLR0124
    return np.asarray(values != values, dtype=np.bool_)  # noqa: PLR0124


def _said(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _test(case: Case, part: _Part) -> _Test:
    labels, original, shipped = (each[part.rows] for each in (case.labels, case.original, case.shipped))
    groups = None if case.groups is None else case.groups[part.rows]
    paired: _Paired
    if groups is None and proportions.is_share(part.metric):
        first, second = (proportions.right(part.metric, labels, answers) for answers in (original, shipped))
        figures, units = (float(first.mean()), float(second.mean())), len(labels)
        paired = proportions.Flips.between(first, second)
    else:
        pair = bootstrap.Pair(part.metric, labels, original, shipped, groups)
        figures, units = pair.figures(), pair.units
        paired = bootstrap.Jackknife.of(pair, case.seed)
    margin = absolute(part.margin, part.metric, figures[0])
    return _Test(part, *figures, margin, paired, paired.chance(margin), units)


def _family(tests: Sequence[_Test], confidence: float) -> Iterator[Measured]:
    for test, error in zip(tests, _holm([test.chance for test in tests], 1 - confidence), strict=True):
        lower, upper = test.paired.bounds(1 - error)
        least = planning.least_shown(test.margin, test.paired.loss, lower, 1 - error)
        size = 1.0 if test.part.metric.bounded else abs(test.original)
        least = max(least, planning.least_share(test.units, planning.POWER) * size)
        note = f"one of {len(tests)} tests; a loss below {least:.3g} could go unseen in {len(test.part.rows)} rows"
        yield _measured(test, test.paired.loss, lower, upper, note)


def _holm(chances: Sequence[float], error: float) -> list[float]:
    """The level that each of several tests is held to, so that any false alarm has the chance ``error``.

    From the least p on, each is tested at the share of ``error`` that is left to those not yet rejected; with the first
    one that is not rejected the procedure stops, and the others are held to its level.
    """
    levels = [error] * len(chances)
    level, stopped = error, False
    for rank, index in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        level = level if stopped else error / (len(chances) - rank)
        levels[index] = level
        stopped = stopped or chances[index] > level
    return levels


def _measured(test: _Test, loss: float, lower: float, upper: float, note: str = "") -> Measured:
    part = test.part
    return Measured(
        kind=part.kind,
        name=part.name,
        rule="no_harm",
        n=len(part.rows),
        original=test.original,
        shipped=test.shipped,
        loss=loss,
        lower=lower,
        upper=upper,
        margin=test.margin,
        note=note,
    )


class _Untested:
    """Parts that no test could be made of, and why."""

    def __init__(self) -> None:
        self.small: list[_Part] = []
        self.without_value: list[_Part] = []
        self.without_bound: list[_Part] = []

    def line(self, metric: Metric, fewest_rows: int) -> Iterator[Measured]:
        """One line that says so, if there are any."""
        reasons = (
            (self.small, f"with fewer than {fewest_rows} rows, or of a class without any"),
            (self.without_value, f"where {metric.name} has no value"),
            (self.without_bound, "whose rows are too few or too much alike to say how far they vary"),
        )
        parts = [part for found, _ in reasons for part in found]
        if not parts:
            return
        note = "; ".join(f"{len(found)} {why}: {_names(found)}" for found, why in reasons if found)
        rows = sum(len(part.rows) for part in parts)
        yield Measured(kind="slice", name="not tested", rule="nothing_found", n=rows, note=note)


def _names(parts: Sequence[_Part]) -> str:
    named = ", ".join(part.name for part in parts[:_NAMED])
    return f"{named} and {len(parts) - _NAMED} more" if len(parts) > _NAMED else named
