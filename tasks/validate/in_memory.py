"""`validate.engine: pandas`: checks about the same columns share one frame; memory follows the widest group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tasks.core.log import progress
from tasks.validate.engine import Engine, Planned, Result, cheap_collection, let_go
from tasks.validate.expectations import columns_read
from tasks.validate.snapshot import Mask, Snapshot


class InMemory:
    """All rows at once, a group of columns at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def validate(
        self, snapshot: Snapshot, planned: Sequence[Planned], keep: Mask | None = None, most: int = 0
    ) -> Iterator[tuple[Planned, Result]]:
        """See :class:`~tasks.validate.engine.Judging`."""
        with cheap_collection():
            for columns, group in _grouped(planned, snapshot.columns):
                yield from judged(self._engine, snapshot.frame(columns, keep), group, most)
                let_go()

    def distinct(self, snapshot: Snapshot, column: str) -> int:
        """See :class:`~tasks.validate.engine.Judging`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        values = snapshot.column(column)
        if pa.types.is_floating(values.type):
            values = pc.add(values.filter(pc.invert(pc.is_nan(values))), 0.0)  # -0.0 is 0.0
        count: int = pc.count_distinct(values, mode="only_valid").as_py()
        return count


def judged(engine: Engine, frame: Any, planned: Sequence[Planned], most: int) -> list[tuple[Planned, Result]]:
    """Each check with its result on one frame.

    Args:
        engine: Great Expectations.
        frame: ``pandas.DataFrame``, whose index is the rows' numbers if failing rows are asked for.
        planned: the checks.
        most: name the failing rows of a check that fails on so many at most.
    """
    results = engine.validate(frame, {one.number: one.expectation for one in planned})
    found = []
    for one in planned:
        result = results[one.number]
        count = int(result.details.get("unexpected_count") or 0)
        if 0 < count <= most:
            result = replace(result, failing=engine.failing_rows(frame, one.number, one.expectation, count))
        found.append((one, result))
    return found


def _grouped(planned: Sequence[Planned], columns: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], list[Planned]]]:
    groups: dict[tuple[str, ...], list[Planned]] = {}
    for one in planned:
        groups.setdefault(columns_read(one.check, columns), []).append(one)
    yield from progress(groups.items(), "checking", total=len(groups))
