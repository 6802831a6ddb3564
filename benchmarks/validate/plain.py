"""Speed and memory of `validate` on a bootstrap of the flights, beside plain Great Expectations on one pandas frame.

    python benchmarks/validate/plain.py                          0.3 million rows, interleaved, medians
    python benchmarks/validate/plain.py --rows 300000 10000000   also 10 million

Both ask the same checks of the same Parquet file, each in a process of its own; the stage also sets rows aside, splits
and writes them, and makes its report. The whole frame is skipped where it would not fit into memory, as far as the
smallest size tells. The flights come from `artifacts/ingest` if they are there, else from the packaged example.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "examples/flights/suite.yaml"
GROUP_ROWS = 65_536
PARAMS = """\
base: {name: flights, target: late, seed: 2013}
ingest: {source: rows.parquet}
validate:
  suite: suite.yaml
  split: {by: time, column: time_hour, validation_from: 2013-09-01, test_from: 2013-10-01, fresh_from: 2013-11-01}
"""


def flights(folder: Path):
    """The flights as a table, by the stage that makes them."""
    import pyarrow.parquet as pq

    made = ROOT / "artifacts/ingest/rows.parquet"
    if not made.is_file():
        params = folder / "params.yaml"
        params.write_text(PARAMS.replace("rows.parquet", str(ROOT / "examples/flights/source.yaml")))
        subprocess.run([sys.executable, "-m", "tasks", "ingest", "--params", str(params)], cwd=ROOT, check=True)
        made = folder / "artifacts/ingest/rows.parquet"
    return pq.read_table(made)


def bootstrap(table, rows: int, folder: Path) -> None:
    """Write a finished ingest folder of ``rows`` flights drawn with replacement, in row groups.

    The k-th copy of a flight gets another flight number, so that the key stays unique.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ingest = folder / "artifacts/ingest"
    ingest.mkdir(parents=True)
    random, seen = np.random.default_rng(0), np.zeros(len(table), dtype=np.int64)
    place = table.schema.get_field_index("flight")
    with pq.ParquetWriter(ingest / "rows.parquet", table.schema) as writer:
        for first in range(0, rows, GROUP_ROWS):
            drawn = np.sort(random.integers(0, len(table), min(GROUP_ROWS, rows - first)))
            again = np.arange(len(drawn)) - np.searchsorted(drawn, drawn)  # earlier copies in this group
            copy = seen[drawn] + again
            np.add.at(seen, drawn, 1)
            taken = table.take(drawn)
            number = pc.add(taken["flight"], pa.array(copy * 10_000))
            writer.write_table(taken.set_column(place, table.schema.field(place), number))
    finish(ingest, table.schema, rows, PARAMS)
    (folder / "params.yaml").write_text(PARAMS)
    suite = SUITE.read_text()
    limits = {"max_value: 9999": "max_value: 999999999", "min_value: 300000": "min_value: 1", "400000": "400000000"}
    for one, other in limits.items():
        suite = suite.replace(f"{one}\n", f"{other}\n")
    (folder / "suite.yaml").write_text(suite)


def finish(ingest: Path, schema, rows: int, params: str) -> None:
    """Make a folder with `rows.parquet` one that `ingest` has left with these params (YAML or JSON)."""
    import yaml

    from tasks.core import manifest
    from tasks.core.settings import Base, Ingest

    names = {"int64": "int64", "double": "float64", "string": "string", "bool": "bool"}
    columns = {field.name: names.get(str(field.type), "timestamp") for field in schema}
    (ingest / "schema.json").write_text(json.dumps({"columns": columns}))
    given = yaml.safe_load(params)
    settings = manifest.settings_hash(Base.model_validate(given["base"]), Ingest.model_validate(given["ingest"]))
    facts = {"rows": rows, "content_hash": "0" * 64, "columns": columns, "source": {"kind": "synthetic"}}
    roles = {"rows.parquet": "rows", "schema.json": "schema"}
    manifest.write(manifest.build("ingest", settings, {}, ingest, roles, facts=facts), ingest)


def plain(folder: Path) -> None:
    """What one would write without Assay: the whole frame, all expectations, the default result format."""
    import great_expectations as gx
    import pandas as pd

    from tasks.core.sections import check, read_yaml
    from tasks.validate.expectations import build
    from tasks.validate.suite import Expectation, Suite

    columns = json.loads((folder / "artifacts/ingest/schema.json").read_text())["columns"]
    suite, _ = check(Suite, read_yaml(folder / "suite.yaml", "suite", ""), "")
    expectations = [build(c.expect, c.arguments, columns) for c in suite.checks if isinstance(c, Expectation)]
    frame = pd.read_parquet(folder / "artifacts/ingest/rows.parquet")
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    results = batch.validate(gx.ExpectationSuite(name="suite", expectations=expectations)).results
    assert len(results) == len(expectations)
    assert not any("raised_exception': True" in str(result.exception_info) for result in results)


class Cost(NamedTuple):
    """Wall seconds, seconds of processors, and peak resident MiB."""

    wall: float
    processor: float
    peak: float


def measured(command: list[str]) -> Cost:
    """What a process that ends well costs."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=os.environ | {"GX_ANALYTICS_ENABLED": "false", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert os.waitstatus_to_exitcode(status) == 0, said
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def race(folder: Path, repeats: int, with_plain: bool) -> dict[str, list[tuple[float, float]]]:
    """Interleaved runs of both: name -> (seconds, peak MiB) of each run; the stage's checks alone besides."""
    found: dict[str, list[tuple[float, float]]] = {"validate (all of it)": [], "its checks alone": []}
    for _ in range(repeats):
        command = [sys.executable, "-m", "tasks", "validate", "--params", str(folder / "params.yaml")]
        cost = measured(command)
        found["validate (all of it)"].append((cost.wall, cost.peak))
        record = json.loads((folder / "artifacts/runs/validate.json").read_text())
        found["its checks alone"].append((record["measured"]["seconds"]["checks"], 0.0))
        if with_plain:
            plainly = measured([sys.executable, __file__, "--plain", str(folder)])
            found.setdefault("plain GX, one frame", []).append((plainly.wall, plainly.peak))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each at sizes up to a million (default: 3)")
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        plain(options.plain)
        return
    import psutil

    imports = "import great_expectations, pyarrow.parquet"
    idle = measured([sys.executable, "-c", imports]).peak
    print("| rows | what | seconds | rows/s | peak MiB |\n|---|---|---|---|---|")
    print(f"| 0 | {imports} | | | {idle:,.0f} |", flush=True)
    per_row = 0.0  # MiB that the whole frame needs for each row, from the size before
    with tempfile.TemporaryDirectory() as name:
        table = flights(Path(name))
        for rows in sorted(options.rows):
            folder = Path(name) / str(rows)
            bootstrap(table, rows, folder)
            fits = per_row * rows < 0.6 * psutil.virtual_memory().available / (1 << 20)
            runs = race(folder, options.repeats if rows <= 1_000_000 else 1, fits)
            for what, figures in runs.items():
                seconds, peak = (statistics.median(values) for values in zip(*figures, strict=True))
                memory = f"{peak:,.0f}" if peak else ""
                print(f"| {rows:,} | {what} | {seconds:.1f} | {rows / seconds:,.0f} | {memory} |", flush=True)
            if fits:
                per_row = (runs["plain GX, one frame"][0][1] - idle) / rows
            else:
                needs = per_row * rows / 1024
                print(f"| {rows:,} | plain GX, one frame | skipped: needs about {needs:.0f} GiB | | |", flush=True)


if __name__ == "__main__":
    main()
