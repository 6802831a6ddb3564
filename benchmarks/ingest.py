"""Speed and memory of `ingest`, beside pandas that only reads the same file.

::

    python benchmarks/ingest.py            # the flights table (336,776 rows), CSV and Parquet, five rounds
    python benchmarks/ingest.py --large    # and 10 million rows of Parquet, drawn from it with replacement, one round

`ingest` reads, types, hashes and writes a snapshot; pandas reads. Each measurement is a process of its own, ingest and
pandas take turns, and the table shows medians. Imports are done before the clock starts; memory is the process's peak
(ru_maxrss), imports included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tasks.core.record import hardware, peak_rss_mib, versions

FLIGHTS = 336_776
LARGE = 10_000_000
SEED = 2013
CARD = Path(__file__).parent.parent / "examples/flights/source.yaml"


def make(path: Path, rows: int) -> None:
    """Write the flights table, or ``rows`` rows drawn from it (seeded), chunk by chunk."""
    import numpy as np
    import pyarrow.csv
    import pyarrow.parquet as pq

    from tasks.ingest import archive, flights
    from tasks.ingest.card import read_card

    table = flights.read(archive.content(read_card(CARD))).combine_chunks()
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
        return
    random = np.random.default_rng(SEED)
    chunk = 1 << 18
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(0, rows, chunk):
            count = min(chunk, rows - start)
            drawn = table.slice(start, count) if rows == FLIGHTS else table.take(random.integers(0, FLIGHTS, count))
            writer.write_table(drawn)


def with_ingest(path: Path) -> int:
    """Make a snapshot of the file, as `python -m tasks ingest` does; return its number of rows."""
    from tasks.core.settings import parse
    from tasks.core.stage import run_stage

    raw = {
        "base": {"name": "flights", "target": "late"},
        "ingest": {"source": path.name},
        "validate": {"suite": "suite.yaml", "split": {"by": "random"}},
    }
    return int(run_stage("ingest", parse(raw), path.parent).facts["rows"])


def with_pandas(path: Path) -> int:
    """Read the file into one frame; return its number of rows."""
    import pandas as pd

    return len(pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path))


def measure(who: str, path: Path) -> dict[str, Any]:
    """In this process: seconds, rows and peak memory of one way to read the file."""
    import pandas  # noqa: F401 (loaded before the clock starts)
    import pyarrow.csv
    import pyarrow.parquet  # noqa: F401

    started = time.perf_counter()
    rows = {"ingest": with_ingest, "pandas": with_pandas}[who](path)
    return {"rows": rows, "seconds": time.perf_counter() - started, "mib": peak_rss_mib()}


def in_process(*arguments: object) -> str:
    """Run this file in a process of its own; return what it prints."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compare(path: Path, rounds: int) -> str:
    """One line of the table."""
    found: dict[str, list[dict[str, Any]]] = {"ingest": [], "pandas": []}
    for _ in range(rounds):
        for who, results in found.items():
            results.append(json.loads(in_process("--measure", who, path)))
    cells = [f"{found['ingest'][0]['rows']:,} {path.suffix.removeprefix('.')}", f"{path.stat().st_size / 2**20:.0f}"]
    for results in found.values():
        seconds = statistics.median(result["seconds"] for result in results)
        peak = max(result["mib"] for result in results)
        cells += [f"{seconds:.2f}", f"{results[0]['rows'] / seconds:,.0f}", f"{peak:,.0f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="also 10 million rows (a minute or two, 0.5 GB of disk)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, metavar=("WHO", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--make", nargs=2, metavar=("FILE", "ROWS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]))))
        return
    if options.make:
        make(Path(options.make[0]), int(options.make[1]))
        return
    about, versions_ = hardware(), versions()
    print(
        f"{about['processor']}, {about['cores']} cores; pyarrow {versions_['pyarrow']}, pandas {versions_['pandas']}\n"
    )
    print("| rows | file MiB | ingest s | rows/s | peak MiB | pandas s | rows/s | peak MiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    cases = [("rows.csv", FLIGHTS, options.rounds), ("rows.parquet", FLIGHTS, options.rounds)]
    cases += [("large.parquet", LARGE, 1)] if options.large else []
    with tempfile.TemporaryDirectory() as folder:
        for name, rows, rounds in cases:
            path = Path(folder) / name
            in_process("--make", path, rows)
            print(compare(path, rounds), flush=True)


if __name__ == "__main__":
    main()
