"""What each method of `compress` adds: the same search with all methods, without each of them, and with each alone.

Run it after the stages `validate` and `tune`, from the project's root, with nothing else running:
`python benchmarks/compression/ablation.py examples/retail/params.yaml --minutes 2`.

Every search gets the same minutes, and its own race. The table has the file that was chosen: the loss of the metric on
validation against the original, the size, and the time of a call relative to the original (geometric mean over batch
sizes). Each search works on a copy of the artifacts.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from tasks.core import files
from tasks.core.settings import load

_INPUTS = ("ingest", "validate", "tune")


def variants(methods: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What a line is called, and the methods that it uses."""
    yield "all", methods
    for name in methods:
        yield f"without {name}", tuple(other for other in methods if other != name)
    for name in methods:
        yield f"{name} alone", (name,)


def searched(params: Path, artifacts: Path, methods: tuple[str, ...], minutes: float) -> dict[str, Any]:
    """Run `compress` with these methods; what became of it, with the original's row under ``original``."""
    yaml = YAML()
    raw = yaml.load(params.read_text(encoding="utf-8"))
    raw["compress"] |= {"methods": list(methods), "budget_minutes": minutes}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        own, copied = folder / "params.yaml", folder / raw["base"].get("artifacts_dir", "artifacts")
        yaml.dump(raw, own)
        for name in _INPUTS:
            shutil.copytree(artifacts / name, copied / name)
        command = [sys.executable, "-P", "-m", "tasks", "compress", "--params", str(own)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{', '.join(methods)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        rows = files.read_json(copied / "runs" / "candidates.json")
    chosen = next(row for row in rows if row["chosen"])
    return {"methods": list(methods), "original": rows[0], "chosen": chosen, "candidates": len(rows)}


def line(name: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    chosen, original = found["chosen"], found["original"]
    change = chosen["value"] - original["value"]
    times = " / ".join(f"{1 / lap['ratio']:.2f}x" for lap in chosen["latency"].values())
    smaller = original["size_kib"] / chosen["size_kib"]
    return f"| {name} | {chosen['name']} | {change:+.5f} | {smaller:.1f}x | {times} | {found['candidates']} |"


def main() -> None:
    """Print the table, write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("params", type=Path, help="params file whose stages up to `tune` have run")
    parser.add_argument("--minutes", type=float, default=3, help="budget of each search for smaller networks")
    parser.add_argument("--out", type=Path, default=Path("build/ablation.json"))
    options = parser.parse_args()
    settings = load(options.params)
    artifacts = options.params.parent / settings.base.artifacts_dir
    print("| methods | chosen | metric | smaller | faster | candidates |\n|---|---|---|---|---|---|")
    results = {}
    for name, methods in variants(settings.compress.methods):
        results[name] = searched(options.params, artifacts, methods, options.minutes)
        print(line(name, results[name]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(options.out, results)


if __name__ == "__main__":
    main()
