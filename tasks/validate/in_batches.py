"""`validate.engine: duckdb`: tables larger than memory.

A check that judges each row by itself is put to Great Expectations a batch of rows at a time, with pandas, so that
regular expressions, conditions and comparisons mean what they mean with ``engine: pandas``; the counts are added up.
What takes all rows at once (unique, mean, quantiles, distinct values) DuckDB computes, on disk where it must. The
verdict on either is Great Expectations' own, from these figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.log import progress
from tasks.validate.batchable import ROW_BY_ROW
from tasks.validate.engine import EXAMPLES, Engine, Planned, Result, cheap_collection, could_not, let_go, verdict
from tasks.validate.expectations import columns_named, columns_read
from tasks.validate.in_memory import judged
from tasks.validate.on_disk import ConditionError, OnDisk
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.suite import Check, Expectation, NewestRow


class InBatches:
    """A batch of rows at a time, and DuckDB for the rest.

    Args:
        engine: Great Expectations.
        scratch: a folder for what does not fit into memory; the caller removes it.
    """

    def __init__(self, engine: Engine, scratch: Path) -> None:
        self._engine = engine
        self._disk = OnDisk(scratch)

    def validate(
        self, snapshot: Snapshot, planned: Sequence[Planned], keep: Mask | None = None, most: int = 0
    ) -> Iterator[tuple[Planned, Result]]:
        """See :class:`~tasks.validate.engine.Judging`."""
        alone = [one for one in planned if one.check.expect in ROW_BY_ROW]
        yield from self._row_by_row(snapshot, alone, keep, most)
        groups: dict[tuple[tuple[str, ...], str | None], list[Planned]] = {}
        for one in planned:
            if one not in alone:
                groups.setdefault(_table_of(one.check), []).append(one)
        for (columns, condition), group in progress(groups.items(), "checking all rows at once", total=len(groups)):
            read = columns_read(group[0].check, snapshot.columns)
            try:
                with self._disk.table(snapshot, columns, keep, condition, read) as table:
                    found = [(one, table.result(self._engine, one, most)) for one in group]
            except ConditionError as error:
                found = [(one, could_not(error.args[0])) for one in group]
            yield from found

    def distinct(self, snapshot: Snapshot, column: str) -> int:
        """See :class:`~tasks.validate.engine.Judging`."""
        return self._disk.distinct(snapshot, column)

    def _row_by_row(
        self, snapshot: Snapshot, planned: Sequence[Planned], keep: Mask | None, most: int
    ) -> Iterator[tuple[Planned, Result]]:
        if not planned:
            return
        read = {name for one in planned for name in columns_read(one.check, snapshot.columns)}
        columns = [name for name in snapshot.columns if name in read]
        sums = [_Sum(one, most) for one in planned]
        with cheap_collection():
            for frame in snapshot.frames(columns, keep):
                left = [total for total in sums if total.raised is None]
                found = judged(self._engine, frame, [total.planned for total in left], most)
                for total, (_, result) in zip(left, found, strict=True):
                    total.add(result)
                let_go()
        yield from ((total.planned, total.result()) for total in sums)


def _table_of(check: Check) -> tuple[tuple[str, ...], str | None]:
    """The columns that a check is about, in its order, and the condition of the rows that it looks at."""
    if isinstance(check, Expectation):
        return tuple(columns_named(check.expect, check.arguments)), check.arguments.get("row_condition")
    return (check.column,) if isinstance(check, NewestRow) else (), None


class _Sum:
    """The result of one check over all batches."""

    def __init__(self, planned: Planned, most: int) -> None:
        self.planned, self._most = planned, most
        self.raised: Result | None = None
        self._rows = self._missing = self._failing = 0
        self._examples: list[Any] = []
        self._numbers: list[Any] = []

    def add(self, result: Result) -> None:
        """Take the result of a batch."""
        if result.raised is not None:
            self.raised = result
            return
        details = result.details
        count = int(details["unexpected_count"])
        self._rows += details["element_count"]
        # A check for nulls counts no row as missing: those are what fails, or what passes.
        self._missing += details.get("missing_count", count) or 0
        self._failing += count
        shown = EXAMPLES - len(self._examples)
        self._examples += list(details.get("partial_unexpected_list", []))[:shown]
        if result.failing is not None and self._failing <= self._most:
            self._numbers.append(result.failing)

    def result(self) -> Result:
        """What Great Expectations says of the sums."""
        if self.raised is not None:
            return self.raised
        failing = np.concatenate(self._numbers) if 0 < self._failing <= self._most else None
        return verdict(self.planned.expectation, self._metric, failing)

    def _metric(self, name: str, _: Any) -> Any:
        if name == "table.row_count":
            return self._rows
        if name.endswith(".filtered_row_count"):
            return self._rows - self._missing
        if name.endswith(".unexpected_values"):
            return self._examples
        if name == "column_values.nonnull.unexpected_count":
            return self._missing
        if name.endswith(".unexpected_count"):
            return self._failing
        raise KeyError(name)
