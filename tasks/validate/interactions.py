"""Interactions of users with items: rules, repeats, the k-core, and the split by each user's last ones.

A row says that a user took an item at a time. What is set aside here is so by design, not because rows are unfit: it
does not count against ``validate.max_quarantine_share``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.sections import nearest
from tasks.core.settings import Base
from tasks.core.splitting import LeaveLastSplit, Split, TimeSplit
from tasks.validate.outcome import Outcome, rule
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.splits import ASIDE, TEST, TRAIN, VALIDATION, Parts, by_time, microseconds

#: Column that some files get: see :mod:`tasks.validate.histories`.
HISTORY = "history"
_REPEATS = "repeats an earlier interaction"
#: Fewer leave nothing to train on once the last one is for the test and the one before it for validation.
_LEAST_FOR_ALL_PARTS = 3


@dataclass(frozen=True)
class Interactions:
    """The rows as numbers.

    Attributes:
        users: int64 [rows], code of the user, -1 for none.
        items: int64 [rows], code of the item, -1 for none.
        names: the items' ids by code, ``pyarrow.Array`` of string or int64.
        times: int64 [rows], microseconds since 1970 in UTC.
        ties: float64 [rows], seeded: the order of a user's interactions of one moment.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    names: Any
    times: NDArray[np.int64]
    ties: NDArray[np.float64]


def read(snapshot: Snapshot, base: Base) -> Interactions:
    """The snapshot's interactions; the three columns are there, and of the right types."""
    users, _ = _coded(snapshot.column(str(base.user)))
    items, names = _coded(snapshot.column(base.target))
    ties = np.random.default_rng([base.seed, 2]).random(snapshot.rows)
    return Interactions(users, items, names, microseconds(snapshot, str(base.time)), ties)


def _coded(column: Any) -> tuple[NDArray[np.int64], Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    codes = pc.fill_null(encoded.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return codes, encoded.dictionary


def about_table(snapshot: Snapshot, base: Base, split: Split) -> Iterator[Outcome]:
    """Rules that the schema and the settings decide, beside those of every table."""
    for key, name, kinds in (
        ("base.user", str(base.user), ("string", "int64")),
        ("base.target", base.target, ("string", "int64")),
        ("base.time", str(base.time), ("timestamp",)),
    ):
        kind = snapshot.columns.get(name)
        yield rule(
            f"{key} is there, as {' or '.join(kinds)}",
            kind in kinds,
            f"found {kind}" if kind else "no such column",
            f"give it `{kinds[0]}` under ingest.types" if kind else f"correct {key}: {nearest(name, snapshot.columns)}",
            name,
        )
    yield rule(
        f"no column has the name that Assay adds ({HISTORY})",
        HISTORY not in snapshot.columns,
        "found one" if HISTORY in snapshot.columns else "none has",
        "rename it in the source",
    )
    yield rule(
        "interactions are split by leave_last or by time",
        isinstance(split, LeaveLastSplit | TimeSplit),
        f"validate.split.by is {split.by}",
        "choose one of the two",
    )


def about_values(snapshot: Snapshot, base: Base, keep: Mask) -> Iterator[Outcome]:
    """The rule that every row has a user, an item and a time.

    The empty text and the least int64 count as missing: they are what a model is given where there is none.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in (str(base.user), base.target, str(base.time)):
        values = snapshot.column(name).filter(pa.array(keep))
        missing = values.null_count
        if pa.types.is_string(values.type):
            missing += pc.sum(pc.equal(values, "")).as_py() or 0
        elif values.type == pa.int64():
            missing += pc.sum(pc.equal(values, int(np.iinfo(np.int64).min))).as_py() or 0
        yield rule(
            "every interaction that is left has a user, an item and a time",
            missing == 0,
            f"{missing:,} of {len(values):,} rows have none",
            "set them aside: a check `expect_column_values_to_not_be_null` on the column with `rows: quarantine`",
            name,
        )


def set_aside(found: Interactions, keep: Mask, least: int) -> dict[str, NDArray[np.int64]]:
    """Reason -> int64 row numbers, ascending: repeats of a pair (the first in time stays), then the k-core.

    Args:
        found: the interactions.
        keep: bool [rows], the rows that are left; those set aside here are taken out of it, in place.
        least: the k of the k-core: partners that every user and every item that stays has.
    """
    rows = np.flatnonzero(keep)
    order = rows[np.lexsort((rows, found.times[rows], found.items[rows], found.users[rows]))]
    same = (np.diff(found.users[order]) == 0) & (np.diff(found.items[order]) == 0)
    repeats = np.sort(order[1:][same])
    keep[repeats] = False
    sparse = np.sort(_outside_core(found, np.flatnonzero(keep), least))
    keep[sparse] = False
    core = f"its user or item has fewer than {least} partners (validate.min_interactions)"
    return {reason: gone for reason, gone in ((_REPEATS, repeats), (core, sparse)) if len(gone)}


def _outside_core(found: Interactions, rows: NDArray[np.int64], least: int) -> NDArray[np.int64]:
    """Rows of distinct pairs that no subgraph holds in which everybody has ``least`` partners."""
    left = rows
    while len(left):
        of_user = np.bincount(found.users[left])[found.users[left]]
        of_item = np.bincount(found.items[left])[found.items[left]]
        fit = (of_user >= least) & (of_item >= least)
        if fit.all():
            break
        left = left[fit]
    return np.setdiff1d(rows, left, assume_unique=True)


def about_size(found: Interactions, keep: Mask) -> Iterator[Outcome]:
    """There is no ranking to learn with one user or one item."""
    for what, codes in (("users", found.users), ("items", found.items)):
        count = len(np.unique(codes[keep]))
        yield rule(
            f"at least two {what} are left",
            count >= 2,
            f"{count:,}",
            "give more interactions, lower validate.min_interactions, or correct base.user and base.target",
        )


def assign(split: Split, snapshot: Snapshot, found: Interactions, keep: Mask) -> Parts:
    """The part of every row, int8 [rows]: index in ``PARTS``, or ``ASIDE``.

    ``leave_last``: a user's last interaction is for the test and the one before it for validation; interactions of one
    moment are in a seeded order. Users with fewer than three are in train as a whole.
    """
    rows = np.flatnonzero(keep)
    parts = np.full(len(keep), ASIDE, dtype=np.int8)
    if isinstance(split, TimeSplit):
        parts[rows] = by_time(split, snapshot)[rows]
        return parts
    order = in_time(found, rows)
    users = found.users[order]
    ends = np.flatnonzero(np.append(users[1:] != users[:-1], True))
    ends = ends[np.diff(ends, prepend=-1) >= _LEAST_FOR_ALL_PARTS]
    parts[rows] = TRAIN
    parts[order[ends]] = TEST
    parts[order[ends - 1]] = VALIDATION
    return parts


def in_time(found: Interactions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows by user, each user's in order of time, ties in their seeded order."""
    return rows[np.lexsort((found.ties[rows], found.times[rows], found.users[rows]))]


def about_parts(found: Interactions, parts: Parts, calibration_rows: int) -> Iterator[Outcome]:
    """Rules about the finished split; how many test items train does not know is said, and rejects nothing."""
    counts = np.bincount(parts[parts != ASIDE], minlength=TEST + 1)
    for name, part in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        way_out = "give users more interactions, or move the boundaries of validate.split"
        yield rule(f"{name} has rows", bool(counts[part]), f"{counts[part]:,} rows", way_out)
    yield rule(
        f"train has the {calibration_rows:,} rows that validate.calibration_rows asks for",
        bool(counts[TRAIN] >= calibration_rows),
        f"train has {counts[TRAIN]:,} rows",
        "lower validate.calibration_rows, or give train more rows",
    )
    strangers = unseen(found, parts)
    said = f"{strangers:,} of {counts[TEST]:,} test rows; each counts as a miss"
    yield rule("test items that train never saw are counted", True, said, "")


def unseen(found: Interactions, parts: Parts) -> int:
    """Number of test rows whose item is not in train."""
    return int(np.count_nonzero(~np.isin(found.items[parts == TEST], found.items[parts == TRAIN])))


def split_facts(found: Interactions, parts: Parts, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows, share, users, items, first and last moment of every part; JSON values."""
    kept = int(np.count_nonzero(parts != ASIDE))
    facts = []
    for index, part in enumerate(names):
        rows = parts == index
        count = int(np.count_nonzero(rows))
        moments = [f"{np.datetime64(int(f(found.times[rows])), 'us').astype('datetime64[s]')}Z" if count else None
                   for f in (np.min, np.max)]  # fmt: skip
        facts.append(
            {
                "name": part,
                "rows": count,
                "share": count / kept if kept else 0.0,
                "classes": {},
                "positive_share": None,
                "users": len(np.unique(found.users[rows])),
                "items": len(np.unique(found.items[rows])),
                "from": moments[0],
                "to": moments[1],
            }
        )
    return facts
