"""A tiny world for the rooms after `validate`: learnable rows with every column type, as that room leaves them.

``write`` fills a folder with a params file and finished ``ingest`` and ``validate`` stages; :data:`PARAMS` is small
enough for the rest of the pipeline to run in seconds. The race decides nothing there (``max_slowdown``), so that two
runs choose alike whatever the machine does meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from tasks.core import files, manifest
from tasks.core.manifest import settings_hash
from tasks.core.settings import Params, parse

TARGET = "late"
COLUMNS = {
    "distance": "float64",  # with NaN
    "pressure": "float64",  # with NaN
    "seats": "int64",  # a quantity, with missing values
    "route": "int64",  # a name, with missing values
    "carrier": "string",  # with missing values and letters outside ASCII
    "holiday": "bool",  # with missing values
    "constant": "float64",  # nothing to learn from
    "when": "timestamp",
    TARGET: "int64",
}
ARROW = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
CARRIERS = np.array(["AA", "Ünï", "東京", "a,b", 'say "hi"', "DL"])
PARAMS: dict[str, Any] = {
    "base": {"name": "tiny", "target": TARGET, "seed": 5, "threads": 1, "device": "cpu"},
    "ingest": {"source": "rows.csv"},
    "validate": {"suite": "suite.yaml", "split": {"by": "random"}},
    "tune": {
        "trials": 3,
        "epochs": 3,
        "batch_size": 128,
        "top_k": 2,
        "precision": "fp32",
        "features": {"categorical": ["route"], "min_count": 5, "bins": 6},
        "space": {
            "learning_rate": {"low": 0.003, "high": 0.02, "log": True},
            "weight_decay": 0.01,
            "hidden": {"choices": [48, 64]},
            "layers": 2,
            "dropout": {"low": 0.0, "high": 0.2},
            "feature_dropout": 0.1,
            "number_dim": 8,
            "category_dim": 8,
        },
    },
    "compress": {"methods": ["int8"], "max_metric_drop": 0.02, "max_slowdown": 1000.0, "rounds": 40},
    "verify": {"margin": 0.02, "resamples": 3000, "checks": []},
    "export": {"golden_rows": 5, "description": "A tiny world.", "data_licence": "CC0-1.0"},
    "promote": {},
    "monitor": {},
    "retrain": {},
}
SIZES = {"train": 1800, "validation": 500, "test": 600, "fresh": 100}


def params(changes: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """:data:`PARAMS` with some keys of some sections replaced."""
    raw = copy.deepcopy(PARAMS)
    for section, values in (changes or {}).items():
        raw[section].update(values)
    return raw


def write(
    root: Path,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    table: pa.Table | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Params:
    """Fill ``root`` with ``params.yaml`` and finished ``ingest`` and ``validate`` stages; return the settings.

    ``tensors`` is the fact of that name about the table's columns of arrays.
    """
    root.mkdir(parents=True, exist_ok=True)
    settings = write_params(root, changes)
    hashes = [settings_hash(settings.base, settings.section(stage)) for stage in ("ingest", "validate")]
    finish_validate(root / settings.base.artifacts_dir, rows() if table is None else table, hashes, tensors or {})
    return settings


def write_params(root: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Params:
    """Write ``params.yaml`` alone."""
    raw = params(changes)
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(raw, file)
    return parse(raw)


def rows(count: int = sum(SIZES.values()), seed: int = 7) -> pa.Table:
    """Learnable rows with the columns of :data:`COLUMNS`."""
    random = np.random.default_rng(seed)
    distance, pressure = random.normal(1000, 300, count), random.normal(1013, 9, count)
    seats, route = random.integers(20, 400, count), random.integers(1, 30, count)
    carrier, holiday = random.integers(0, len(CARRIERS), count), random.random(count) < 0.2
    logit = (distance - 1000) / 200 + 1.5 * np.sin(pressure) + (route % 3 - 1) + (carrier - 2) / 2 + holiday - 0.5
    late = random.random(count) < 1 / (1 + np.exp(-1.5 * logit))

    def with_gaps(values: np.ndarray, share: float, kind: str) -> pa.Array:
        return pa.array(values.tolist(), ARROW[kind], mask=random.random(count) < share)

    return pa.table(
        {
            "distance": with_gaps(distance, 0.1, "float64"),
            "pressure": with_gaps(pressure, 0.4, "float64"),
            "seats": with_gaps(seats, 0.05, "int64"),
            "route": with_gaps(route, 0.05, "int64"),
            "carrier": with_gaps(CARRIERS[carrier], 0.05, "string"),
            "holiday": with_gaps(holiday, 0.05, "bool"),
            "constant": pa.array(np.full(count, 3.5)),
            "when": pa.array(1_370_000_000_000_000 + 3_600_000_000 * np.arange(count), ARROW["timestamp"]),
            TARGET: pa.array(late.astype(np.int64)),
        }
    )


def finish_validate(artifacts: Path, table: pa.Table, settings: list[str], tensors: Mapping[str, Any]) -> None:
    """Write ``ingest`` and ``validate`` as those rooms would leave the table, split in order by :data:`SIZES`.

    ``settings`` are the two stages' settings hashes.
    """
    columns = {field.name: _kind(field.type) for field in table.schema if field.name not in tensors}
    ingest, validate = artifacts / "ingest", artifacts / "validate"
    ingest.mkdir(parents=True)
    validate.mkdir()
    pq.write_table(table, ingest / "rows.parquet")
    files.write_json(ingest / "schema.json", {"columns": columns})
    source = {"kind": "csv", "files": ["rows.csv"]}
    facts = {"rows": table.num_rows, "content_hash": "c0ffee", "columns": columns, "source": source}
    roles = {"rows.parquet": "rows", "schema.json": "schema"}
    finished = manifest.build("ingest", settings[0], {}, ingest, roles, {"ingest.rows": table.num_rows}, facts)
    manifest.write(finished, ingest)

    numbered = table.add_column(0, "row", pa.array(np.arange(table.num_rows)))
    start, counts = 0, {}
    for name, size in SIZES.items():
        part = numbered.slice(start, size)
        start += size
        counts[name] = part.num_rows
        pq.write_table(part, validate / f"{name}.parquet")
    pq.write_table(numbered.slice(0, SIZES["train"]).slice(10, 256), validate / "calibration.parquet")
    facts = {
        "columns": columns,
        "target": TARGET,
        "task": "binary",
        "classes": [0, 1],
        "tensors": dict(tensors),
        "user": None,
        "time": None,
        "rows": counts,
        "split": {"by": "random", "validation": 0.15, "test": 0.15},
        "time_column": "when" if "when" in columns else None,
        "content_hash": "c0ffee",
    }
    roles = {f"{name}.parquet": "rows" for name in (*SIZES, "calibration")}
    finished = manifest.build(
        "validate", settings[1], {"ingest": ingest}, validate, roles, {"validate.quarantined_share": 0.0}, facts
    )
    manifest.write(finished, validate)


def _kind(data_type: pa.DataType) -> str:
    return next(kind for kind, arrow in ARROW.items() if arrow == data_type)
