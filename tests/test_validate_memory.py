"""A table that does not fit into the memory that the stage's process may have."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from validate_world import make

ROOT = Path(__file__).resolve().parent.parent
ROWS, WIDTH = 350_000, 600
#: Memory for the rows, beside what the imported libraries take.
MIB = 448

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process's data is Linux's"),
    pytest.mark.skipif(not importlib.util.find_spec("duckdb"), reason="the extra `duckdb` is not installed"),
]

CHECKS = [
    {"expect": "expect_column_values_to_be_unique", "column": "key"},
    {"expect": "expect_column_values_to_match_regex", "column": "key", "regex": "^key-[0-9]{9}-", "rows": "quarantine"},
    {"expect": "expect_column_values_to_be_between", "column": "a", "min_value": 0, "rows": "quarantine"},
    {"expect": "expect_column_median_to_be_between", "column": "b", "min_value": 0.4, "max_value": 0.6},
    {"expect": "expect_column_pair_values_a_to_be_greater_than_b", "column_A": "n", "column_B": "m"},
    {"expect": "target_balance", "min_share": 0.4},
]

#: What `python -m tasks validate` does, with so many bytes of data left to it. What it holds at once is smaller in the
#: measure of the limit, and it has one core: each thread more would count with its stack and buffers.
STAGE = f"""
import os, resource, sys
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
import psutil, great_expectations.expectations.core, pandas, pyarrow.parquet, duckdb
from tasks.validate import on_disk, snapshot, write
from tasks.__main__ import main

on_disk.MEMORY_MIB, snapshot.BATCH_BYTES, write.GROUP_ROWS = 64, 16 << 20, 8_192
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + {MIB} * 2**20, -1))
sys.exit(main(["validate", "--params", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and two texts of hundreds of letters a row, which in memory are larger than the limit."""
    root, random = tmp_path_factory.mktemp("large"), np.random.default_rng(0)
    number = pc.utf8_lpad(pa.array(np.arange(ROWS)).cast(pa.string()), 9, "0")
    a = random.random(ROWS)
    a[[5, ROWS - 5]] = -1
    columns = {"key": pc.binary_join_element_wise("key", number, "x" * (WIDTH - 14), "-"), "a": pa.array(a)}
    columns |= {"y": pa.array(np.arange(ROWS) % 2), "b": pa.array(random.random(ROWS))}
    columns |= {name: pa.array([name * WIDTH]).take(pa.array(np.zeros(ROWS, np.int8))) for name in ("m", "n")}
    assert sum(values.nbytes for values in columns.values()) > MIB << 20
    make(root, columns, CHECKS, group_rows=8_192)
    return root


def stage(root: Path, engine: str) -> subprocess.CompletedProcess[str]:
    params = json.loads((root / "params.yaml").read_text())
    params["validate"]["engine"] = engine
    (root / f"{engine}.yaml").write_text(json.dumps(params))
    command = [sys.executable, "-c", STAGE, str(root / f"{engine}.yaml")]
    # Allocators that set memory aside for later would count as using it.
    env = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=300)


def test_pandas_says_that_it_does_not_fit_and_names_the_other_engine(world: Path) -> None:
    ended = stage(world, "pandas")
    assert ended.returncode == 2, ended.stderr
    assert "must fit into memory with validate.engine: pandas" in ended.stderr
    assert "set validate.engine: duckdb" in ended.stderr and "pip install '.[duckdb]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (world / "artifacts/validate").exists()


def test_the_whole_stage_goes_through_with_duckdb(world: Path) -> None:
    ended = stage(world, "duckdb")
    assert ended.returncode == 0, ended.stderr
    out = world / "artifacts/validate"
    rows = {name: pq.read_metadata(out / f"{name}.parquet").num_rows for name in ("train", "validation", "test")}
    assert sum(rows.values()) == ROWS - 2
    assert pq.read_table(out / "quarantine.parquet", columns=["row"])["row"].to_pylist() == [5, ROWS - 5]
    found = json.loads((out / "results.json").read_text())
    assert found["columns"][0]["distinct"] == ROWS
    assert {o["outcome"] for o in found["outcomes"] if o["kind"] == "check"} == {"passed", "quarantined"}
