"""What conducting costs: `dvc repro` and `assay run` of everything, over the bare stages called in one process.

    python benchmarks/orchestration.py [--params FILE] [--rounds N]

Every measurement starts in a fresh clone of the last commit, in which nothing has run. The three ways take turns, so
that the machine's moods fall on all of them alike. Figures are medians of wall time; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BARE = "from pathlib import Path; from tasks.core import settings, stage; path = Path({!r}); " \
       "stage.run_all(settings.load(path), path.parent)"  # fmt: skip


def ways(params: str) -> dict[str, list[str]]:
    """The commands to compare, by name; the first is what the others are measured against."""
    from flows.pipeline import PROJECT_FILE

    path = Path(params)
    pipeline = path.with_name(PROJECT_FILE) if path.name == "params.yaml" else path.with_suffix("") / PROJECT_FILE
    return {
        "stages in one process": [sys.executable, "-c", BARE.format(params)],
        "dvc repro": [sys.executable, "-m", "dvc", "repro", str(pipeline)],
        "assay run": [sys.executable, "-m", "flows.cli", "run", "--params", params],
    }


def clone(folder: Path, params: str) -> Path:
    """A clone of the last commit in ``folder``, with the pipeline of ``params`` in place."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    prepare = f"from pathlib import Path; from flows.pipeline import prepare; prepare(Path({params!r}))"
    subprocess.run([sys.executable, "-c", prepare], cwd=folder, check=True)
    return folder


def seconds(command: list[str], folder: Path) -> float:
    """Wall time of a command that must end well."""
    quiet = {"DO_NOT_TRACK": "1", "DVC_NO_ANALYTICS": "1", "GX_ANALYTICS_ENABLED": "false"}
    environment = os.environ | quiet | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def measure(params: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by way and round: of everything, and of nothing changed."""
    everything: dict[str, list[float]] = {name: [] for name in ways(params)}
    nothing: dict[str, list[float]] = {name: [] for name in list(everything)[1:]}
    with tempfile.TemporaryDirectory() as folder:
        # Not counted: it fills the caches of downloads and of compiled code.
        seconds(next(iter(ways(params).values())), clone(Path(folder, "warm-up"), params))
        for number in range(rounds):
            order = list(everything)[number % 3 :] + list(everything)[: number % 3]
            for name in order:
                place = clone(Path(folder, f"{number} {name}"), params)
                everything[name].append(seconds(ways(params)[name], place))
                if name in nothing:
                    nothing[name].append(seconds(ways(params)[name], place))
                print(f"round {number + 1} of {rounds}: {name}: {everything[name][-1]:.1f} s", file=sys.stderr)
    return everything, nothing


def table(everything: dict[str, list[float]], nothing: dict[str, list[float]]) -> str:
    """The result as Markdown."""
    bare = next(iter(everything.values()))
    lines = ["| way | everything, s | over the stages alone | nothing changed, s |", "|---|---|---|---|"]
    for name, times in everything.items():
        ratios = [time / base for time, base in zip(times, bare, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        still = f"{statistics.median(nothing[name]):.1f}" if name in nothing else ""
        lines.append(f"| {name} | {statistics.median(times):.1f} | {spread} | {still} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", help="params file, relative to the project (committed)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(table(*measure(options.params, options.rounds)))


if __name__ == "__main__":
    main()
