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


@dataclass(frozen=True)
class Target:
    """The target of every row.

    Attributes:
        codes: int32 [rows]: -1 for none, else the index of the row's class; of a quantity or an item 0.
        classes: the values, sorted; of two the second one is the positive class. Empty for a quantity or an item.
        task: "binary", "multiclass", "regression" or "ranking".
        quantity: float64 [rows], NaN for none; None unless the task is regression.
    """

    codes: NDArray[np.int32]
    classes: tuple[Any, ...]
    task: str = "binary"
    quantity: NDArray[np.float64] | None = None

    def counts(self, rows: Mask) -> NDArray[np.int64]:
        """Rows of each class among ``rows`` (bool [rows]), int64 [classes]."""
        found: NDArray[np.int64] = np.bincount(self.codes[rows] + 1, minlength=len(self.classes) + 1)[1:]
        return found


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
    import pyarrow as pa
    import pyarrow.compute as pc

    name = base.target
    values = snapshot.column(name)
    left = values.filter(pa.array(keep))
    rules = [
        rule(
            "every row that is left has a target",
            left.null_count == 0,
            f"{left.null_count:,} of {len(left):,} rows have none",
            "set them aside: a check `expect_column_values_to_not_be_null` on the target with `rows: quarantine`",
            name,
        )
    ]
    kind = snapshot.columns[name]
    # Two fractions are more likely two classes that were read as such: only base.task makes them a quantity.
    quantity = kind == "float64" and pc.count_distinct(left, mode="only_valid").as_py() != 2
    if base.task == "regression" or (base.task == "auto" and quantity):
        target, more = _quantity(values, left, kind, name)
        return target, [*rules, *more]
    classes = sorted(pc.unique(left.drop_null()).to_pylist())
    way_out = _way_out(base, kind, classes)
    found = f"a column of {kind} with {len(classes):,} distinct values" + (f": {listed(classes)}" if classes else "")
    rules.append(rule("the target's values say what is predicted", not way_out, found, way_out, name))
    if way_out:
        return None, rules
    task = "binary" if len(classes) == 2 else "multiclass"
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(classes, values.type)), -1)
    return Target(codes.to_numpy().astype(np.int32), tuple(classes), task), rules


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


def _quantity(values: Any, left: Any, kind: str, name: str) -> tuple[Target | None, list[Outcome]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind not in ("float64", "int64"):
        way_out = "give it float64 or int64 under ingest.types, or leave base.task out"
        return None, [rule("a quantity is a number", False, f"a column of {kind}", way_out, name)]
    wrong = pc.sum(pc.invert(pc.is_finite(left.cast(pa.float64(), safe=False)))).as_py() or 0
    finite = rule(
        "a quantity is finite",
        wrong == 0,
        f"{wrong:,} of {len(left):,} rows hold NaN or infinity",
        "correct the source, or set such rows aside with a check `expect_column_values_to_be_between`",
        name,
    )
    if wrong or not len(left):
        return None, [finite]
    quantity = pc.fill_null(values.cast(pa.float64(), safe=False), float("nan")).to_numpy()
    codes = np.where(pc.is_null(values).to_numpy(), -1, 0).astype(np.int32)
    return Target(codes, (), "regression", quantity), [finite]
