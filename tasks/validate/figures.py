"""Figures of a table in DuckDB, as Great Expectations asks for them, each with the meaning that pandas gives it.

But for a sum of whole numbers that needs more than 64 bits: pandas lets it wrap around, and here it is the sum.

What may be as large as the table is grouped, joined or sorted, which DuckDB does on disk where it must; its aggregates
of quantiles and distinct values would not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.validate.engine import EXAMPLES, Engine, Planned, Result, verdict

#: Aggregates of a column of numbers.
_NUMBERS = {
    "column.mean": "avg({})",
    "column.standard_deviation": "stddev_samp({})",
    "column.sum": "coalesce(sum({}), 0)",
}
_PRESENCE = {"column_values.nonnull.unexpected_count": "missing"}
#: Which rows a check of several columns looks at, by its argument ``ignore_row_if``.
_LOOKED_AT = {"all_values_are_missing": " OR ", "any_value_is_missing": " AND "}


class Figures:
    """Figures of the table ``rows``: ``row``, then ``c0``, ``c1``, ... for the columns.

    Args:
        connection: of DuckDB.
        columns: their names.
        types: their Arrow types in the snapshot.
    """

    def __init__(self, connection: Any, columns: Sequence[str], types: Sequence[Any]) -> None:
        self._connection, self._columns, self._types = connection, columns, types

    def result(self, engine: Engine, planned: Planned, most: int = 0) -> Result:
        """What Great Expectations says of a check; its failing rows are named if they are ``most`` at most."""
        expectation = planned.expectation
        if "distinct_values" in planned.check.expect:
            plain = expectation.copy(update={"row_condition": None, "condition_parser": None})  # it holds for all rows
            return engine.validate(self._distinct_values(), {planned.number: plain})[planned.number]
        if not planned.check.expect.endswith("to_be_unique"):
            return verdict(expectation, self._figure)
        repeated = self._repeated(getattr(expectation, "ignore_row_if", "any_value_is_missing"))
        count = repeated["unexpected_count"]
        rows = self._values("SELECT row FROM repeated ORDER BY row").to_numpy() if 0 < count <= most else None
        return verdict(expectation, lambda name, _: repeated[_PRESENCE.get(name, name.rpartition(".")[2])], rows)

    def distinct(self) -> int:
        """Number of distinct values of the column."""
        return self._number("SELECT count(*) FROM (SELECT DISTINCT c0 FROM rows WHERE c0 IS NOT NULL)")

    def _figure(self, name: str, arguments: Mapping[str, Any]) -> Any:
        if name in _NUMBERS:
            return self._of_numbers(name)
        if name in ("column.median", "column.quantile_values"):
            return self._ranked(name, arguments)
        figures: dict[str, Callable[[], Any]] = {
            "table.row_count": self._rows,
            "column.distinct_values.count": self.distinct,
            "column.unique_proportion": lambda: _share(self.distinct(), self._present()),
            "column.non_null_proportion": lambda: _share(self._present(), self._rows()),
            "column.min": lambda: self._one("SELECT min(c0) FROM rows"),
            "column.max": lambda: self._one("SELECT max(c0) FROM rows"),
            "column.most_common_value": self._most_common,
        }
        return figures[name]()

    def _of_numbers(self, name: str) -> Any:
        import pyarrow as pa

        self._check_numbers(name)
        values = "c0::INTEGER" if pa.types.is_boolean(self._types[0]) else "c0"
        return self._scalar(f"SELECT {_NUMBERS[name].format(values)} FROM rows")

    def _most_common(self) -> list[Any]:
        counted = "SELECT c0, count(*) AS n FROM rows WHERE c0 IS NOT NULL GROUP BY c0"
        query = f"WITH counted AS ({counted}) SELECT c0 FROM counted WHERE n = (SELECT max(n) FROM counted) ORDER BY c0"
        # GX takes the bare values too: moments lose their time zone, and are in no set.
        return list(self._values(query).to_pandas().values)

    def _ranked(self, name: str, arguments: Mapping[str, Any]) -> Any:
        import numpy as np

        self._check_numbers(name)
        last = self._present() - 1
        if name == "column.median":
            return float(np.mean([self._at(last // 2), self._at((last + 1) // 2)])) if last >= 0 else None
        if arguments.get("allow_relative_error"):
            raise ValueError("validate.engine: duckdb takes the nearest rank: leave out allow_relative_error")
        return [self._at(int(np.around(last * share))) if last >= 0 else None for share in arguments["quantiles"]]

    def _at(self, rank: int) -> Any:
        """The value of a rank, from 0."""
        return self._one(f"SELECT c0 FROM rows WHERE c0 IS NOT NULL ORDER BY c0 LIMIT 1 OFFSET {rank}")

    def _rows(self) -> int:
        return self._number("SELECT count(*) FROM rows")

    def _present(self) -> int:
        return self._number("SELECT count(c0) FROM rows")

    def _check_numbers(self, name: str) -> None:
        import pyarrow as pa

        kind = self._types[0]
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            of = f"{name.removeprefix('column.')} is of numbers with validate.engine: duckdb"
            raise TypeError(f"{of}, and `{self._columns[0]}` holds {kind}")

    def _repeated(self, ignored: str) -> dict[str, Any]:
        """The figures of a check that rows are unique, by the last word of their name; makes the table ``repeated``."""
        names = [f"c{place}" for place in range(len(self._columns))]
        present = _LOOKED_AT[ignored].join(f"{name} IS NOT NULL" for name in names) if ignored in _LOOKED_AT else "true"
        keys = ", ".join(names)
        twice = f"SELECT {keys} FROM rows WHERE {present} GROUP BY {keys} HAVING count(*) > 1"
        same = " AND ".join(f"rows.{name} IS NOT DISTINCT FROM twice.{name}" for name in names)
        query = f"SELECT rows.* FROM rows SEMI JOIN ({twice}) AS twice ON {same} WHERE {present}"
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE repeated AS {query}")
        rows = self._rows()
        looked_at = self._number(f"SELECT count(*) FROM rows WHERE {present}")
        shown = self._frame(f"SELECT {keys} FROM repeated ORDER BY row LIMIT {EXAMPLES}")
        return {
            "row_count": rows,
            "filtered_row_count": looked_at,
            "unexpected_count": self._number("SELECT count(*) FROM repeated"),
            "unexpected_values": shown[self._columns[0]].tolist() if len(names) == 1 else shown.to_dict("records"),
            "missing": rows - looked_at,
        }

    def _distinct_values(self) -> Any:
        """A frame of the column's distinct values: these checks ask for nothing else."""
        return self._frame("SELECT DISTINCT c0 FROM rows WHERE c0 IS NOT NULL ORDER BY c0")

    def _frame(self, query: str) -> Any:
        """A query for the columns, as a frame with their names and pandas' types."""
        return self._table(query).rename_columns(list(self._columns)).to_pandas()

    def _table(self, query: str) -> Any:
        import pyarrow as pa

        found = self._connection.sql(query).to_arrow_table()
        utc = pa.timestamp("us", "UTC")
        kinds = [utc if pa.types.is_timestamp(field.type) else field.type for field in found.schema]
        return found.cast(pa.schema(zip(found.column_names, kinds, strict=True)))

    def _values(self, query: str) -> Any:
        return self._table(query).column(0)

    def _one(self, query: str) -> Any:
        """The one value of a query, None if there is none."""
        values = self._values(query)
        return None if values.null_count else values.to_pandas().iloc[0]

    def _number(self, query: str) -> int:
        return int(self._scalar(query))

    def _scalar(self, query: str) -> Any:
        return self._connection.sql(query).fetchall()[0][0]


def _share(count: int, of: int) -> float:
    return count / of if of else 0
