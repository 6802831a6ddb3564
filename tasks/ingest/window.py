"""The rows of a source before a moment: a snapshot that stays what it is while the source grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import DataRejected, UsageError
from tasks.core.log import log


class Window:
    """Takes the rows of batches whose time lies before ``as_of``, and counts the others.

    Attributes:
        later: rows at ``as_of`` or after it.
        untimed: rows without a time, which are left out as well.
    """

    def __init__(self, column: str, as_of: datetime) -> None:
        self._column, self._as_of = column, as_of
        self._first: datetime | None = None
        self.later = self.untimed = 0

    def check(self, columns: Mapping[str, str]) -> None:
        """Look at the columns (name -> kind) before anything is read.

        Raises:
            UsageError: if the column cannot tell a time, or the moment is yet to come.
            DataRejected: if it holds nothing at all.
        """
        kind = columns.get(self._column)
        if kind == "null":
            found = f"`{self._column}` holds no value: there are no rows, or none with a time"
            raise DataRejected("a source that grows has rows with times", found, "check how it was written")
        if kind != "timestamp":
            found = f"`{self._column}` holds {kind} values" if kind else f"the source has no column `{self._column}`"
            way_out = "name another column, or give it the type timestamp under ingest.types"
            raise UsageError("ingest.time_column names a timestamp column", found, way_out)
        if self._as_of > datetime.now(UTC):
            raise UsageError(
                "ingest.as_of is a moment that has passed: rows before it may still come otherwise",
                f"{self._as_of.isoformat()} is yet to come",
                "choose an earlier one",
            )

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches with the rows before the moment, in order.

        Raises:
            UsageError: at the end, if there were rows, and none of them before it.
        """
        limit, kept = pa.scalar(self._as_of, pa.timestamp("us", "UTC")), 0
        self._first, self.later, self.untimed = None, 0, 0
        for batch in batches:
            times = batch.column(self._column)
            before = pc.less(times, limit)
            taken = batch.filter(before)  # a missing time is no row before it
            kept += len(taken)
            self.untimed += times.null_count
            self.later += len(batch) - len(taken) - times.null_count
            if (first := pc.min(times).as_py()) is not None:
                self._first = min(first, self._first or first)
            yield taken
        if not kept and self._first is not None:
            raise UsageError(
                "ingest.as_of lies after the first row of the source",
                f"{self._as_of.isoformat()}; the first row is of {self._first.isoformat()}",
                "choose a later moment",
            )
        if self.untimed:
            log.warning("ingest: %d rows without a value in `%s` are left out", self.untimed, self._column)
