"""A tiny project as a user begins it: learnable rows in a CSV file, a suite of checks and a params file.

Unlike the tiny world of worlds.py, nothing has run yet: here `ingest` and `validate` do their real work too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import worlds
from ruamel.yaml import YAML

from tasks.core.settings import Params

SUITE: dict[str, Any] = {
    "columns": {"seats": "int64", "late": "int64"},
    "checks": [
        {"expect": "expect_column_values_to_not_be_null", "column": "late", "rows": "quarantine"},
        {"expect": "expect_column_values_to_be_between", "column": "seats", "min_value": 20, "max_value": 400},
    ],
}


def write(root: Path, rows: int, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Params:
    """Fill ``root`` with the three files; return the settings.

    Args:
        root: the folder.
        rows: number of rows.
        changes: keys of the sections to replace in ``worlds.PARAMS``.
    """
    root.mkdir(parents=True, exist_ok=True)
    write_rows(root, rows)
    with (root / "suite.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(SUITE, file)
    return worlds.write_params(root, changes)


def write_rows(root: Path, rows: int, repeat: int = 1) -> None:
    """Write ``rows.csv`` alone, each of its rows ``repeat`` times; every 50th has no target."""
    from pyarrow import csv

    table = worlds.rows(rows)
    gaps = pa.array([None if row % 50 == 0 else late for row, late in enumerate(table[worlds.TARGET].to_pylist())])
    when = pc.strftime(table["when"], "%Y-%m-%dT%H:%M:%SZ")
    table = table.set_column(table.schema.get_field_index("when"), "when", when)
    table = table.set_column(table.schema.get_field_index(worlds.TARGET), worlds.TARGET, gaps)
    csv.write_csv(pa.concat_tables([table] * repeat), root / "rows.csv")
