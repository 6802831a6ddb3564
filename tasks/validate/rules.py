"""Rules that hold whatever the suite says: what the later stages count on. Breaking one rejects the rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.core.sections import nearest
from tasks.core.settings import Base
from tasks.core.splitting import GroupSplit, LeaveLastSplit, PredefinedSplit, Split, TimeSplit
from tasks.validate.outcome import Outcome, rule, share
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.target import KINDS, Target, listed

RESERVED = ("row", "reason")
PARTS = ("train", "validation", "test", "fresh")


def about_table(snapshot: Snapshot, base: Base, split: Split) -> Iterator[Outcome]:
    """Rules that the schema and the row count decide."""
    columns, target = snapshot.columns, base.target
    yield rule("the table has rows", snapshot.rows > 0, f"{snapshot.rows:,} rows", "name a source that has rows")
    reserved = [name for name in RESERVED if name in columns or name in snapshot.tensors]
    yield rule(
        "no column has a name that Assay adds (row, reason)",
        not reserved,
        f"found {', '.join(reserved)}" if reserved else "none has",
        "rename it in the source",
    )
    kind = columns.get(target)
    yield rule(
        "the target is there, as int64, float64, bool or string",
        kind in KINDS,
        f"found {kind}" if kind else "no such column",
        "give it one of these types under ingest.types" if kind else f"correct base.target: {nearest(target, columns)}",
        target,
    )
    if isinstance(split, TimeSplit | GroupSplit | PredefinedSplit):
        yield _split_column(columns.get(split.column), split, list(columns))
    if isinstance(split, PredefinedSplit) and split.group:
        found, way_out = columns.get(split.group), f"correct validate.split.group: {nearest(split.group, columns)}"
        yield rule("the column of groups is there", bool(found), found or "no such column", way_out, split.group)
    if isinstance(split, LeaveLastSplit) and base.workload != "recommender":
        way_out = "split in another way, or set base.workload: recommender"
        yield rule("leave_last is for interactions", False, f"base.workload is {base.workload}", way_out)


def _split_column(kind: str | None, split: TimeSplit | GroupSplit | PredefinedSplit, columns: list[str]) -> Outcome:
    wanted = {"time": ("timestamp",), "predefined": ("string",), "group": (kind,)}[split.by]
    way_out = f"correct validate.split.column: {nearest(split.column, columns)}"
    if kind:
        way_out = f"give it `{wanted[0]}` under ingest.types, or split by another column"
    name = "the split's column is there" + (f", as {wanted[0]}" if split.by != "group" else "")
    return rule(name, kind in wanted and kind is not None, f"found {kind or 'no such column'}", way_out, split.column)


def about_split_column(snapshot: Snapshot, split: Split, keep: Mask) -> Iterator[Outcome]:
    """Rules about the values that decide which rows go where."""
    if not isinstance(split, TimeSplit | GroupSplit | PredefinedSplit):
        return
    import pyarrow.compute as pc

    missing = sum(values.null_count for values in snapshot.kept(split.column, keep))
    yield rule(
        "every row that is left has a value to split by",
        missing == 0,
        f"{missing:,} of {np.count_nonzero(keep):,} rows have none",
        "set them aside: a check `expect_column_values_to_not_be_null` on the column with `rows: quarantine`",
        split.column,
    )
    if isinstance(split, PredefinedSplit):
        yield from _about_group_column(snapshot, split, keep)
        unknown = sorted(set(snapshot.distinct(split.column, keep).to_pylist()) - set(PARTS))
        yield rule(
            "the split's column says train, validation, test or fresh",
            not unknown,
            f"found {', '.join(unknown[:4])}" if unknown else "nothing else",
            "correct the source, or set such rows aside with a check `expect_column_values_to_be_in_set`",
            split.column,
        )
        if split.validation is not None:
            pieces = snapshot.kept(split.column, keep)
            named = sum(pc.sum(pc.equal(values, "validation")).as_py() or 0 for values in pieces)
            yield rule(
                "validation is named by the column or drawn as a share, not both",
                named == 0,
                f"validate.split.validation is {split.validation}, and {named:,} rows say validation",
                "leave out validate.split.validation, or call those rows train in the source",
                split.column,
            )


def _about_group_column(snapshot: Snapshot, split: PredefinedSplit, keep: Mask) -> Iterator[Outcome]:
    if not split.group:
        return
    nulls = sum(values.null_count for values in snapshot.kept(split.group, keep))
    way_out = "set them aside: a check `expect_column_values_to_not_be_null` on the column with `rows: quarantine`"
    yield rule("every row that is left has a group", nulls == 0, f"{nulls:,} rows have none", way_out, split.group)


def about_groups(snapshot: Snapshot, column: str, parts: NDArray[np.int8]) -> Outcome:
    """The rule that no group has rows in two parts.

    Args:
        snapshot: the rows.
        column: names each row's group.
        parts: int8 [rows]: index in :data:`PARTS`, -1 for rows set aside.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = parts >= 0
    pairs = pa.table({"group": snapshot.column(column).filter(pa.array(kept)), "part": parts[kept]})
    where = pairs.group_by("group").aggregate([("part", "min"), ("part", "max")])
    torn = where.filter(pc.not_equal(where["part_min"], where["part_max"]))["group"].to_pylist()
    found = f"{len(torn):,} groups are in two: {listed(sorted(torn))}" if torn else f"{len(where):,} groups"
    way_out = "correct the column of validate.split, or split by group"
    return rule("no group is in two parts", not torn, found, way_out, column)


def about_parts(parts: NDArray[np.int8], target: Target, calibration_rows: int) -> Iterator[Outcome]:
    """Rules about the finished split.

    Args:
        parts: int8 [rows]: index in :data:`PARTS`, -1 for rows set aside.
        target: the target.
        calibration_rows: rows that will be drawn from train.
    """
    way_out = "move the boundaries or shares of validate.split, or split in another way"
    for index, part in enumerate(PARTS[:3]):
        if target.classes:
            holds, found = _every_class(target, parts == index)
            yield rule(f"{part} has rows of every class", holds, found, way_out)
        else:
            count = int(np.count_nonzero(parts == index))
            yield rule(f"{part} has rows", count > 0, f"{count:,} rows", way_out)
    train = int(np.count_nonzero(parts == 0))
    if target.quantity is not None and train:
        low, high = (float(end(target.quantity[parts == 0])) for end in (np.min, np.max))
        yield rule(
            "the target varies in train",
            low < high,
            f"from {low:.6g} to {high:.6g}",
            "choose another base.target: a constant needs no model",
        )
    yield rule(
        f"train has the {calibration_rows:,} rows that validate.calibration_rows asks for",
        train >= calibration_rows,
        f"train has {train:,} rows",
        "lower validate.calibration_rows, or give train more rows",
    )


def _every_class(target: Target, rows: Mask) -> tuple[bool, str]:
    """Whether a part has rows of every class, and what it has."""
    counts = target.counts(rows)
    absent = [value for value, count in zip(target.classes, counts, strict=True) if not count]
    if len(target.classes) == 2:
        return not absent, ", ".join(f"{n:,} of {value}" for n, value in zip(counts, target.classes, strict=True))
    if absent:
        return False, f"none of {listed(absent)}"
    return True, f"from {counts.min():,} to {counts.max():,} rows of a class"


def about_quarantine(aside: Mask, max_share: float) -> Outcome:
    """The rule about how many rows may be set aside in all."""
    count = int(np.count_nonzero(aside))
    of = count / len(aside)
    return rule(
        f"at most {share(max_share)} of the rows are set aside",
        of <= max_share,
        f"{count:,} of {len(aside):,} rows ({share(of)})",
        "correct the source, or raise validate.max_quarantine_share if so many rows may go",
    )
