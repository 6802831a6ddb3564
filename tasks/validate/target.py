"""What is to be predicted: which kind of problem the target's values make, and whether they are fit for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.settings import Base
from tasks.validate.outcome import Outcome, rule
from tasks.validate.snapshot import Mask, Snapshot

#: Types of a target column.
KINDS = ("int64", "float64", "bool", "string")
MOST_CLASSES = 1_000
_SHOWN = 5
_PIECE = 1 << 20


@dataclass(frozen=True)
class Target:
    """The target of every row.

    Attributes:
        codes: int16 [rows]: -1 for none, else the index of the row's class; of a quantity or an item 0.
        classes: the values, sorted; of two the second one is the positive class. Empty for a quantity or an item.
        task: "binary", "multiclass", "regression" or "ranking".
        quantity: float64 [rows], NaN for none; None unless the task is regression.
    """

    codes: NDArray[np.int16]
    classes: tuple[Any, ...]
    task: str = "binary"
    quantity: NDArray[np.float64] | None = None

    def counts(self, rows: Mask) -> NDArray[np.int64]:
        """Rows of each class among ``rows`` (bool [rows]), int64 [classes]; of a quantity or an item one count."""
        found = np.zeros(max(1, len(self.classes)) + 1, np.int64)
        for first in range(0, len(rows), _PIECE):  # it makes int64 of what it counts
            piece = slice(first, first + _PIECE)
            found += np.bincount(self.codes[piece][rows[piece]] + 1, minlength=len(found))
        return found[1:]


def listed(values: Sequence[Any], most: int = _SHOWN) -> str:
    """Some values as text, and how many more there are."""
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more


def read_target(snapshot: Snapshot, base: Base, keep: Mask) -> tuple[Target | None, list[Outcome]]:
    """The target, or None if its values make no problem that can be learnt, and what the rules say of it.

    Args:
        snapshot: the rows; the target's column is there.
        base: names the target, the workload and the task.
        keep: bool [rows], the rows that are left.
    """
    name, count = base.target, int(np.count_nonzero(keep))
    missing = sum(values.null_count for values in snapshot.kept(name, keep))
    rules = [
        rule(
            "every row that is left has a target",
            missing == 0,
            f"{missing:,} of {count:,} rows have none",
            "set them aside: a check `expect_column_values_to_not_be_null` on the target with `rows: quarantine`",
            name,
        )
    ]
    kind = snapshot.columns[name]
    # Two fractions are more likely two classes that were read as such: only base.task makes them a quantity.
    quantity = kind == "float64" and len(snapshot.distinct(name, keep, most=2)) != 2
    if base.task == "regression" or (base.task == "auto" and quantity):
        target, more = _quantity(snapshot, keep, name)
        return target, [*rules, *more]
    classes = sorted(snapshot.distinct(name, keep).to_pylist())
    way_out = _way_out(base, kind, classes)
    found = f"a column of {kind} with {len(classes):,} distinct values" + (f": {listed(classes)}" if classes else "")
    rules.append(rule("the target's values say what is predicted", not way_out, found, way_out, name))
    if way_out:
        return None, rules
    task = "binary" if len(classes) == 2 else "multiclass"
    return Target(_codes(snapshot, name, classes), tuple(classes), task), rules


def _codes(snapshot: Snapshot, name: str, classes: Sequence[Any]) -> NDArray[np.int16]:
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pa.array(classes, snapshot.schema().field(name).type)
    pieces = (pc.fill_null(pc.index_in(values, value_set=known), -1) for values in snapshot.kept(name))
    return np.concatenate([codes.to_numpy().astype(np.int16) for codes in pieces])


def _way_out(base: Base, kind: str, classes: Sequence[Any]) -> str:
    """What to do if the values make no classes, or not those that base.task says; empty if they do."""
    count = len(classes)
    numbers = kind == "int64" and base.workload != "array" and classes != [0, 1]
    classed = "binary" if count == 2 else "multiclass"
    obstacles = {
        "items are ranked by base.workload: recommender; choose another base.task": base.task == "ranking",
        "give it int64, bool or string under ingest.types, or say base.task: regression": kind == "float64",
        "choose a base.target that has two values at least": count < 2,
        f"merge values in the source: {MOST_CLASSES:,} classes at most can be told apart": count > MOST_CLASSES,
        "map the values to two in the source, or say base.task: multiclass": base.task == "binary" and count > 2,
        "two values are two classes: say base.task: binary": base.task == "multiclass" and count == 2,
        f"whole numbers may be classes or a quantity: say base.task: {classed}, or base.task: regression": (
            base.task == "auto" and numbers
        ),
    }
    return next((way_out for way_out, stands in obstacles.items() if stands), "")


def _quantity(snapshot: Snapshot, keep: Mask, name: str) -> tuple[Target | None, list[Outcome]]:
    kind, count = snapshot.columns[name], int(np.count_nonzero(keep))
    if kind not in ("float64", "int64"):
        way_out = "give it float64 or int64 under ingest.types, or leave base.task out"
        return None, [rule("a quantity is a number", False, f"a column of {kind}", way_out, name)]
    quantity, missing = _numbers(snapshot, name)
    wrong = int(np.count_nonzero(~np.isfinite(quantity) & ~missing & keep))
    finite = rule(
        "a quantity is finite",
        wrong == 0,
        f"{wrong:,} of {count:,} rows hold NaN or infinity",
        "correct the source, or set such rows aside with a check `expect_column_values_to_be_between`",
        name,
    )
    if wrong or not count:
        return None, [finite]
    return Target(-missing.astype(np.int16), (), "regression", quantity), [finite]


def _numbers(snapshot: Snapshot, name: str) -> tuple[NDArray[np.float64], Mask]:
    """A column as float64 [rows], and where it has no value, bool [rows]; NaN there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers, missing = np.empty(snapshot.rows), np.empty(snapshot.rows, np.bool_)
    first = 0
    for values in snapshot.kept(name):
        here = slice(first, first + len(values))
        numbers[here] = pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")).to_numpy()
        missing[here] = pc.is_null(values).to_numpy()
        first += len(values)
    return numbers, missing
