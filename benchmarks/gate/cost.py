"""What the gate costs: seconds as a share of a pipeline's, and memory by the number of test rows.

Run it from the project's root (README.md beside it says what it shows):

    python benchmarks/gate/cost.py share params.yaml examples/fashion/params.yaml
    python benchmarks/gate/cost.py memory 100000 1000000 5000000
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core import files, manifest
from tasks.core.settings import STAGES, load, parse
from tasks.core.stage import run_stage

_TRAIN, _PART, _MIB = 20_000, 500_000, 1 << 20
_COLUMNS = 10
PARAMS: dict[str, dict[str, Any]] = {
    "base": {"name": "cost", "target": "y", "threads": 1, "device": "cpu"},
    "ingest": {"source": "rows.parquet"},
    "validate": {"suite": "suite.yaml", "split": {"by": "random"}},
    "tune": {
        "trials": 1, "top_k": 1, "epochs": 1, "precision": "fp32", "space": {"hidden": 64, "layers": 2},
    },
    "compress": {
        "methods": ["int8"], "max_metric_drop": 0.1, "max_slowdown": 1000.0, "rounds": 20, "batch_sizes": [64],
        "pick": "smallest",
    },
    "verify": {"margin": 0.01},
}  # fmt: skip


def share(params: Path) -> str:
    """Seconds of each stage of a finished pipeline, and which share of them the gate took."""
    settings = load(params)
    artifacts = params.parent / settings.base.artifacts_dir
    seconds = {
        stage: float(files.read_json(path)["seconds"])
        for stage in STAGES
        if (path := artifacts / "runs" / f"{stage}.json").is_file()
    }
    rows = pq.read_metadata(artifacts / "validate" / "test.parquet").num_rows
    total = sum(seconds.values())
    cells = (settings.base.name, f"{rows:,}", f"{seconds['verify']:.1f} s", f"{total:.0f} s")
    return f"| {' | '.join(cells)} | {seconds['verify'] / total:.1%} |"


def rows_of(count: int, seed: int) -> pa.Table:
    """Ten numbers, and a class that depends on some of them."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, _COLUMNS))
    logit = values[:, 0] + values[:, 1] * values[:, 2] + np.abs(values[:, 3])
    columns = {f"x{index}": values[:, index] for index in range(_COLUMNS)}
    return pa.table(columns | {"y": (random.random(count) < 1 / (1 + np.exp(-logit))).astype(np.int64)})


def prepare(root: Path) -> None:
    """A finished pipeline up to `compress`, small but for what its test will be."""
    pq.write_table(rows_of(_TRAIN, 0), root / "rows.parquet")
    (root / "suite.yaml").write_text("checks:\n  - expect: expect_table_row_count_to_be_between\n    min_value: 1\n")
    for stage in ("ingest", "validate", "tune", "compress"):
        run_stage(stage, parse(PARAMS), root)


def enlarge(root: Path, count: int) -> None:
    """Give test so many rows, and manifests that agree: written in parts, as no table of them is ever whole."""
    path = root / "artifacts" / "validate" / "test.parquet"
    schema = pq.read_schema(path)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _PART):
            part = rows_of(min(_PART, count - start), start + 1)
            numbers = pa.array(np.arange(start, start + part.num_rows) + _TRAIN)
            writer.write_table(part.append_column("row", numbers).select(schema.names).cast(schema))
    for stage in ("validate", "tune", "compress"):
        folder = root / "artifacts" / stage
        before = files.read_json(folder / manifest.NAME)
        (folder / manifest.NAME).unlink()
        upstream = {name: root / "artifacts" / name for name in before["upstream"]}
        roles = {name: entry["role"] for name, entry in before["files"].items()}
        made = manifest.build(stage, before["settings"], upstream, folder, roles, before["metrics"], before["facts"])
        manifest.write(replace(made, params=before["params"]), folder)


def memory(root: Path, count: int, own: Mapping[str, Any]) -> tuple[float, float]:
    """Peak of memory (bytes) and seconds of `verify` on so many rows, in a process of its own."""
    enlarge(root, count)
    code = (
        "import json, sys; from pathlib import Path; from tasks.core.settings import parse\n"
        "from tasks.core.stage import run_stage\n"
        "run_stage('verify', parse(json.loads(sys.argv[2])), Path(sys.argv[1]))"
    )
    raw = PARAMS | {"verify": PARAMS["verify"] | dict(own)}
    subprocess.run([sys.executable, "-c", code, str(root), files.canonical_json(raw)], check=True, capture_output=True)
    record = files.read_json(root / "artifacts" / "runs" / "verify.json")
    return record["peak_rss_mib"] * _MIB, record["seconds"]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True, dest="what")
    shares = what.add_parser("share", help="of finished pipelines")
    shares.add_argument("params", type=Path, nargs="+")
    memories = what.add_parser("memory", help="by test rows")
    memories.add_argument("rows", type=int, nargs="+")
    memories.add_argument("--resamples", type=int, default=200, help="they cost time and no memory")
    options = parser.parse_args()
    if options.what == "share":
        print("| pipeline | test rows | gate | whole pipeline | share |\n|---|---|---|---|---|")
        print("\n".join(share(path) for path in options.params))
        return
    root = Path(tempfile.mkdtemp(prefix="assay-cost-"))
    try:
        prepare(root)
        print("| test rows | peak of memory | seconds | bytes for each further row |\n|---|---|---|---|")
        before: tuple[int, float] | None = None
        for count in options.rows:
            peak, seconds = memory(root, count, {"resamples": options.resamples})
            more = "" if before is None else f"{(peak - before[1]) / (count - before[0]):.0f}"
            print(f"| {count:,} | {peak / _MIB:,.0f} MiB | {seconds:.0f} | {more} |", flush=True)
            before = count, peak
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
