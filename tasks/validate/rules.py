"""Rules that hold whatever the suite says: what the later stages count on. Breaking one rejects the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.sections import nearest
from tasks.core.splitting import GroupSplit, PredefinedSplit, Split, TimeSplit
from tasks.validate.outcome import Outcome, rule, share
from tasks.validate.snapshot import Mask, Snapshot

RESERVED = ("row", "reason")
PARTS = ("train", "validation", "test", "fresh")


@dataclass(frozen=True)
class Target:
    """The target of every row.

    Attributes:
        codes: int8 [rows]: -1 for none, else the index of the row's class.
        classes: the two values, sorted; the second one is the positive class.
    """

    codes: NDArray[np.int8]
    classes: tuple[Any, Any]


def about_table(snapshot: Snapshot, target: str, split: Split) -> Iterator[Outcome]:
    """Rules that the schema and the row count decide."""
    columns = snapshot.columns
    yield rule("the table has rows", snapshot.rows > 0, f"{snapshot.rows:,} rows", "name a source that has rows")
    reserved = [name for name in RESERVED if name in columns]
    yield rule(
        "no column has a name that Assay adds (row, reason)",
        not reserved,
        f"found {', '.join(reserved)}" if reserved else "none has",
        "rename it in the source",
    )
    kind = columns.get(target)
    yield rule(
        "the target is there, as int64, bool or string",
        kind in ("int64", "bool", "string"),
        f"found {kind}" if kind else "no such column",
        "give it one of these types under ingest.types" if kind else f"correct base.target: {nearest(target, columns)}",
        target,
    )
    if isinstance(split, TimeSplit | GroupSplit | PredefinedSplit):
        yield _split_column(columns.get(split.column), split, list(columns))


def _split_column(kind: str | None, split: TimeSplit | GroupSplit | PredefinedSplit, columns: list[str]) -> Outcome:
    wanted = {"time": ("timestamp",), "predefined": ("string",), "group": (kind,)}[split.by]
    way_out = f"correct validate.split.column: {nearest(split.column, columns)}"
    if kind:
        way_out = f"give it `{wanted[0]}` under ingest.types, or split by another column"
    name = "the split's column is there" + (f", as {wanted[0]}" if split.by != "group" else "")
    return rule(name, kind in wanted and kind is not None, f"found {kind or 'no such column'}", way_out, split.column)


def read_target(snapshot: Snapshot, name: str, keep: Mask) -> tuple[Target | None, list[Outcome]]:
    """The target, or None if it has no two classes, and what the rules say of it.

    Args:
        snapshot: the rows; the target's column is there.
        name: the target's column.
        keep: bool [rows], the rows that are left.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = snapshot.column(name)
    left = values.filter(pa.array(keep))
    classes = sorted(pc.unique(left.drop_null()).to_pylist())
    shown = ", ".join(str(value) for value in classes[:4]) + (", ..." if len(classes) > 4 else "")
    fit = len(classes) == 2 and (snapshot.columns[name] != "int64" or classes == [0, 1])
    rules = [
        rule(
            "every row that is left has a target",
            left.null_count == 0,
            f"{left.null_count:,} of {len(left):,} rows have none",
            "set them aside: a check `expect_column_values_to_not_be_null` on the target with `rows: quarantine`",
            name,
        ),
        rule(
            "the target has two classes: false and true, 0 and 1, or two texts",
            fit,
            f"{len(classes)} distinct values{': ' if classes else ''}{shown}",
            "choose another base.target, or map the values to two in the source",
            name,
        ),
    ]
    if not fit:
        return None, rules
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(classes, values.type)), -1)
    return Target(codes.to_numpy().astype(np.int8), (classes[0], classes[1])), rules


def about_split_column(snapshot: Snapshot, split: Split, keep: Mask) -> Iterator[Outcome]:
    """Rules about the values that decide which rows go where."""
    if not isinstance(split, TimeSplit | GroupSplit | PredefinedSplit):
        return
    import pyarrow as pa
    import pyarrow.compute as pc

    values = snapshot.column(split.column).filter(pa.array(keep))
    yield rule(
        "every row that is left has a value to split by",
        values.null_count == 0,
        f"{values.null_count:,} of {len(values):,} rows have none",
        "set them aside: a check `expect_column_values_to_not_be_null` on the column with `rows: quarantine`",
        split.column,
    )
    if isinstance(split, PredefinedSplit):
        unknown = sorted(set(pc.unique(values.drop_null()).to_pylist()) - set(PARTS))
        yield rule(
            "the split's column says train, validation, test or fresh",
            not unknown,
            f"found {', '.join(unknown[:4])}" if unknown else "nothing else",
            "correct the source, or set such rows aside with a check `expect_column_values_to_be_in_set`",
            split.column,
        )


def about_parts(parts: NDArray[np.int8], target: Target, calibration_rows: int) -> Iterator[Outcome]:
    """Rules about the finished split.

    Args:
        parts: int8 [rows]: index in :data:`PARTS`, -1 for rows set aside.
        target: the target.
        calibration_rows: rows that will be drawn from train.
    """
    for index, part in enumerate(PARTS[:3]):
        counts = np.bincount(target.codes[parts == index] + 1, minlength=3)[1:]
        found = ", ".join(f"{count:,} of {value}" for count, value in zip(counts, target.classes, strict=True))
        way_out = "move the boundaries or shares of validate.split, or split in another way"
        yield rule(f"{part} has rows of both classes", bool(counts.all()), found, way_out)
    train = int(np.count_nonzero(parts == 0))
    yield rule(
        f"train has the {calibration_rows:,} rows that validate.calibration_rows asks for",
        train >= calibration_rows,
        f"train has {train:,} rows",
        "lower validate.calibration_rows, or give train more rows",
    )


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
