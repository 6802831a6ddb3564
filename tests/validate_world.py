"""A tiny world for the tests of `validate`: a finished ingest folder, a suite and a params file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core import manifest
from tasks.core.settings import Base, Ingest, load
from tasks.core.stage import run_stage

TYPES = {
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
START = datetime(2020, 1, 1, tzinfo=UTC)
NOT_NULL = {"expect": "expect_column_values_to_not_be_null", "column": "y", "rows": "quarantine"}


def days(count: int) -> list[datetime]:
    """One moment a day."""
    return [START + timedelta(days=day) for day in range(count)]


def rows(count: int = 100) -> dict[str, Sequence[Any]]:
    """A small table: a time, a number, a text, a group and a balanced target."""
    return {
        "t": days(count),
        "x": [float(i) for i in range(count)],
        "c": ["ab"[i % 2] for i in range(count)],
        "g": [i // 5 for i in range(count)],
        "y": [(i // 2) % 2 for i in range(count)],
    }


def make(
    root: Path,
    table: Mapping[str, Sequence[Any]],
    checks: Sequence[Mapping[str, Any]] = (),
    columns: Mapping[str, str] | None = None,
    types: Mapping[str, str] | None = None,
    group_rows: int = 16,
    base: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Mapping[str, Any]] | None = None,
    **validate: Any,
) -> Path:
    """Write the world into ``root`` and return the params file.

    Args:
        root: an empty folder.
        table: column -> values; types follow from the values unless ``types`` says so.
        checks: the suite's checks.
        columns: the suite's columns.
        types: column -> type.
        group_rows: rows in a row group.
        base: keys of the section base.
        tensors: dtype and shape of the columns that hold arrays; their values are ``pyarrow`` arrays of bytes.
        validate: keys of the section validate.
    """
    ingest = root / "artifacts/ingest"
    ingest.mkdir(parents=True)
    arrays = {
        name: pa.array(values, TYPES[types[name]]) if types and name in types else _array(values)
        for name, values in table.items()
    }
    arrays = {n: a.cast(TYPES["timestamp"]) if pa.types.is_timestamp(a.type) else a for n, a in arrays.items()}
    pq.write_table(pa.table(arrays), ingest / "rows.parquet", row_group_size=group_rows)
    names = {arrow: name for name, arrow in TYPES.items()}
    shapes = dict(tensors or {})
    kinds = {name: names[array.type] for name, array in arrays.items() if name not in shapes}
    (ingest / "schema.json").write_text(json.dumps({"columns": kinds, "tensors": shapes}))
    facts = {
        "rows": len(next(iter(arrays.values()))),
        "content_hash": "c0ffee",
        "columns": kinds,
        "tensors": shapes,
        "source": {},
    }
    roles = {"rows.parquet": "rows", "schema.json": "schema"}
    write_suite(root, checks, columns)
    split = {"by": "random", "validation": 0.2, "test": 0.2}
    params = {
        "base": {"name": "tiny", "target": "y", "seed": 1, **(base or {})},
        "ingest": {"source": "rows.csv"},
        "validate": {"suite": "suite.yaml", "split": split, "calibration_rows": 16, **validate},
    }
    (root / "params.yaml").write_text(json.dumps(params, default=str))  # JSON is YAML
    sections = [kind.model_validate_json(json.dumps(params[key])) for key, kind in (("base", Base), ("ingest", Ingest))]
    finished = manifest.build("ingest", manifest.settings_hash(*sections), {}, ingest, roles, facts=facts)
    manifest.write(finished, ingest)
    return root / "params.yaml"


def _array(values: Sequence[Any]) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def write_suite(root: Path, checks: Sequence[Mapping[str, Any]] = (), columns: Mapping[str, str] | None = None) -> Path:
    """Write the suite alone."""
    path = root / "suite.yaml"
    path.write_text(json.dumps({"columns": dict(columns or {}), "checks": list(checks)}, indent=1, default=str))
    return path


def run(params: Path) -> manifest.Manifest:
    """Run the stage in this process, as `python -m tasks validate` does."""
    return run_stage("validate", load(params), params.parent)


def part(params: Path, name: str) -> pa.Table:
    """One of the stage's Parquet files."""
    return pq.read_table(params.parent / "artifacts/validate" / f"{name}.parquet")


def results(params: Path, rejected: bool = False) -> dict[str, Any]:
    """The stage's ``results.json``."""
    folder = params.parent / "artifacts" / ("rejected/validate" if rejected else "validate")
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def outcome(found: Mapping[str, Any], name: str, column: str | None = None) -> dict[str, Any]:
    """The one outcome of that name (and column)."""
    matching = [o for o in found["outcomes"] if o["name"] == name and column in (None, o["column"])]
    assert len(matching) == 1, [o["name"] for o in found["outcomes"]]
    one: dict[str, Any] = matching[0]
    return one
