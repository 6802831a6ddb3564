"""Memory and time of `validate` by `validate.engine`, on a synthetic table of twelve columns.

    python benchmarks/validate/engines.py --rows 1000000 5000000

Each engine runs the whole stage (checks, quarantine, splits, files, report) in a process of its own. Seconds are those
of processors, which other work on the machine changes less than those of the clock; peak memory is what was resident,
and `idle` what the imported libraries take without a row. What both leave is compared byte by byte.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from plain import GROUP_ROWS, ROOT, finish, measured

ENGINES = ("pandas", "duckdb")
CHECKS = [
    {"expect": "expect_column_values_to_be_unique", "column": "key"},
    {"expect": "expect_column_values_to_match_regex", "column": "key", "regex": "^[a-z]{3}-[0-9]{9}$"},
    {"expect": "expect_column_values_to_be_between", "column": "a", "min_value": -4.5, "rows": "quarantine"},
    {"expect": "expect_column_values_to_not_be_null", "column": "m", "rows": "quarantine"},
    {"expect": "expect_column_values_to_be_in_set", "column": "kind", "value_set": [f"kind {i}" for i in range(20)]},
    {"expect": "expect_column_pair_values_a_to_be_greater_than_b", "column_A": "n", "column_B": "m"},
    {"expect": "expect_column_mean_to_be_between", "column": "b", "min_value": -0.1, "max_value": 0.1},
    {"expect": "expect_column_median_to_be_between", "column": "c", "min_value": -0.1, "max_value": 0.1},
    {"expect": "expect_compound_columns_to_be_unique", "column_list": ["t", "n"]},
    {"expect": "expect_column_distinct_values_to_be_in_set", "column": "day", "value_set": list(range(7))},
    {"expect": "newest_row", "column": "t", "not_older_than_days": 36_500},
    {"expect": "target_balance", "min_share": 0.2},
]
SPLIT = {"by": "stratified", "validation": 0.1, "test": 0.1}


def group(first: int, rows: int):
    """A row group: a key, a time, five fractions, three whole numbers of which one has gaps, a text and the target."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    random, numbers = np.random.default_rng(first), np.arange(first, first + rows)
    key = pc.binary_join_element_wise("abc", pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 9, "0"), "-")
    columns = {"key": key, "t": pa.array(1_600_000_000_000_000 + numbers * 1_000_000, pa.timestamp("us", "UTC"))}
    columns |= {name: pa.array(random.normal(size=rows)) for name in "abcde"}
    columns |= {"m": pa.array(numbers % 1_000, mask=random.random(rows) < 1e-4), "n": pa.array(numbers + 1_000)}
    columns |= {"day": pa.array(numbers // 86_400 % 7)}
    kinds = pa.array(random.integers(0, 20, rows)).cast(pa.string())
    columns |= {"kind": pc.binary_join_element_wise("kind", kinds, " ")}
    return pa.table(columns | {"y": pa.array((random.random(rows) < 0.3).astype(np.int64))})


def world(folder: Path, rows: int) -> None:
    """A finished ingest folder, a suite, and a params file for each engine."""
    import pyarrow.parquet as pq

    ingest = folder / "artifacts/ingest"
    ingest.mkdir(parents=True)
    schema = group(0, 1).schema
    with pq.ParquetWriter(ingest / "rows.parquet", schema) as writer:
        for first in range(0, rows, GROUP_ROWS):
            writer.write_table(group(first, min(GROUP_ROWS, rows - first)))
    (folder / "suite.yaml").write_text(json.dumps({"checks": CHECKS}))
    for engine in ENGINES:
        params = {
            "base": {"name": "synthetic", "target": "y"},
            "ingest": {"source": "rows.parquet"},
            "validate": {"suite": "suite.yaml", "split": SPLIT, "engine": engine},
        }
        (folder / f"{engine}.yaml").write_text(json.dumps(params))
    finish(ingest, schema, rows, (folder / "pandas.yaml").read_text())


def hashes(folder: Path) -> dict[str, str]:
    """Of the files that the stage left, but for its report: the last digits of a mean depend on the order."""
    listed = json.loads((folder / "artifacts/validate/manifest.json").read_text())["files"]
    return {path: file["sha256"] for path, file in listed.items() if path.endswith(".parquet")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000])
    options = parser.parse_args()
    imports = "import great_expectations.expectations.core, pyarrow.parquet, duckdb"
    idle = measured([sys.executable, "-c", imports]).peak
    print(f"idle: {idle:,.0f} MiB\n")
    print("| rows | engine | processor seconds | to pandas | peak MiB | above idle, to pandas |")
    print("|---|---|---|---|---|---|")
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            world(folder, rows)
            costs, left = {}, {}
            for engine in ENGINES:
                stage = [sys.executable, "-m", "tasks", "validate", "--params", str(folder / f"{engine}.yaml")]
                costs[engine], left[engine] = measured(stage), hashes(folder)
            assert len(left["pandas"]) == 6 and left["pandas"] == left["duckdb"]
            base = costs["pandas"]
            for engine, cost in costs.items():
                slower, more = cost.processor / base.processor, (cost.peak - idle) / (base.peak - idle)
                figures = f"{cost.processor:.0f} | {slower:.2f} | {cost.peak:,.0f} | {more:.2f} |"
                print(f"| {rows:,} | {engine} | {figures}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
