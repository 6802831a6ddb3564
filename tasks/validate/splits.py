"""Which row goes where: by time, at random, within classes, by whole groups, or as a column says."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.splitting import GroupSplit, PredefinedSplit, RandomSplit, Shares, Split, StratifiedSplit, TimeSplit
from tasks.validate.rules import PARTS
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.target import Target

ASIDE = -1
TRAIN, VALIDATION, TEST = 0, 1, 2

Parts = NDArray[np.int8]


def assign(split: Split, snapshot: Snapshot, keep: Mask, target: Target, seed: int) -> Parts:
    """The part of every row.

    Args:
        split: how to split.
        snapshot: the rows; the split's column is there, of the right type, with a value in each row that is left.
        keep: bool [rows], the rows that are left.
        target: the target, for a stratified split.
        seed: seed of whatever is random.

    Returns:
        int8 [rows]: index in :data:`~tasks.validate.rules.PARTS`, or :data:`ASIDE` for a row that is set aside.
    """
    random = np.random.default_rng([seed, 0])
    rows = _numbers(keep)
    parts = np.full(len(keep), ASIDE, dtype=np.int8)
    match split:
        case TimeSplit():
            parts[keep] = by_time(split, snapshot)[keep]
        case RandomSplit():
            _at_random(split, rows, parts, random)
        case StratifiedSplit():
            for code in range(max(1, len(target.classes))):
                _at_random(split, rows[target.codes[rows] == code], parts, random)
        case GroupSplit():
            parts[rows] = _by_group(split.column, (split.validation, split.test), snapshot, rows, random)
        case PredefinedSplit():
            parts[keep] = _predefined(split, snapshot)[keep]
            if split.validation is not None:
                _draw_validation(split, split.validation, snapshot, parts, target, random)
    return parts


def draw_calibration(parts: Parts, count: int, seed: int) -> Mask:
    """bool [rows]: exactly ``count`` rows out of train, drawn with a seed (they stay in train too)."""
    random = np.random.default_rng([seed, 1])
    drawn = np.zeros(len(parts), dtype=np.bool_)
    drawn[random.choice(_numbers(parts == TRAIN), count, replace=False, shuffle=False)] = True
    return drawn


def microseconds(snapshot: Snapshot, column: str) -> NDArray[np.int64]:
    """A timestamp column as int64 [rows], microseconds since 1970 in UTC; 0 where there is none."""
    return np.concatenate([_microseconds(values) for values in snapshot.kept(column)])


def _microseconds(values: Any) -> NDArray[np.int64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    times: NDArray[np.int64] = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
    return times


def by_time(split: TimeSplit, snapshot: Snapshot) -> Parts:
    """The part of every row by its moment, int8 [rows]."""
    # Rows of the same moment fall between the same two boundaries, so ties stay together.
    boundaries = [np.datetime64(moment.replace(tzinfo=None), "us").astype(np.int64) for moment in split.boundaries]
    pieces = (_microseconds(values) for values in snapshot.kept(split.column))
    return np.concatenate([np.searchsorted(boundaries, times, side="right").astype(np.int8) for times in pieces])


def spans(snapshot: Snapshot, column: str, parts: Parts) -> dict[int, tuple[np.int64, np.int64]]:
    """First and last moment (microseconds since 1970 in UTC) of each part that has rows, by a timestamp column."""
    found: dict[int, tuple[np.int64, np.int64]] = {}
    first = 0
    for values in snapshot.kept(column):
        times, here = _microseconds(values), parts[first : first + len(values)]
        first += len(values)
        for part in np.unique(here).tolist():
            of = times[here == part]
            low, high = found.get(part, (of[0], of[0]))
            found[part] = min(low, of.min()), max(high, of.max())
    return found


def _numbers(mask: Mask) -> NDArray[Any]:
    """Row numbers where the mask holds, ascending, in the smallest type: a draw from them is the same in any."""
    return np.flatnonzero(mask).astype(np.min_scalar_type(len(mask)))


def _at_random(split: Shares, rows: NDArray[Any], parts: Parts, random: np.random.Generator) -> None:
    shuffled = random.permutation(rows)
    validation = _rounded(len(rows) * split.validation)
    test = _rounded(len(rows) * split.test)
    parts[shuffled] = TRAIN
    parts[shuffled[:validation]] = VALIDATION
    parts[shuffled[validation : validation + test]] = TEST


def _by_group(
    column: str,
    shares: tuple[float, float],
    snapshot: Snapshot,
    rows: NDArray[Any],
    random: np.random.Generator,
) -> Parts:
    """Part of each of ``rows``; ``shares`` of them are for validation and for the test."""
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = snapshot.column(column).take(pa.array(rows)).combine_chunks().dictionary_encode()
    # In sorted order, so that the draw depends on the groups and not on the order of the rows.
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.arange(len(order))
    group_of_row = group[encoded.indices.to_numpy()]
    sizes = np.bincount(group_of_row, minlength=len(order))
    shuffled = random.permutation(len(order))
    # A group belongs where its middle falls: as near to the wanted shares of rows as whole groups allow.
    middles = np.cumsum(sizes[shuffled]) - sizes[shuffled] / 2
    ends = np.cumsum(shares) * len(rows)
    part = np.empty(len(order), dtype=np.int8)
    part[shuffled] = np.array([VALIDATION, TEST, TRAIN], dtype=np.int8)[np.searchsorted(ends, middles, side="right")]
    found: Parts = part[group_of_row]
    return found


def _predefined(split: PredefinedSplit, snapshot: Snapshot) -> Parts:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pa.array(PARTS)
    pieces = (pc.fill_null(pc.index_in(v, value_set=names), ASIDE) for v in snapshot.kept(split.column))
    return np.concatenate([codes.to_numpy().astype(np.int8) for codes in pieces])


def _draw_validation(
    split: PredefinedSplit,
    share: float,
    snapshot: Snapshot,
    parts: Parts,
    target: Target,
    random: np.random.Generator,
) -> None:
    """Move a share of train to validation, in place: whole groups, or rows within each class."""
    train = _numbers(parts == TRAIN)
    if split.group:
        parts[train] = _by_group(split.group, (share, 0.0), snapshot, train, random)
        return
    for code in range(max(1, len(target.classes))):
        shuffled = random.permutation(train[target.codes[train] == code])
        parts[shuffled[: _rounded(len(shuffled) * share)]] = VALIDATION


def _rounded(value: float) -> int:
    return int(value + 0.5)
