"""The serving image without a Docker daemon: its packages alone, their size, and the time from start to ready.

    python benchmarks/serving/start.py BUNDLE [--packages build/serving/image] [--key PUB] [--starts 5]

Installs ``deploy/docker/requirements.txt`` into the folder, if it is not there, and runs the server with these packages
and no others (``python -S``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--packages", type=Path, default=ROOT / "build" / "serving" / "image")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    wanted = ROOT / "deploy" / "docker" / "requirements.txt"
    if not options.packages.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", options.packages, "--requirement", wanted], check=True)
    size = sum(path.stat().st_size for path in options.packages.rglob("*") if path.is_file())
    count = sum(not line.startswith("#") for line in wanted.read_text().splitlines())
    print(f"{count} packages, {size / 2**20:.0f} MiB")
    checked = ["--unsigned"] if options.key is None else ["--key", str(options.key.resolve())]
    command = [
        sys.executable,
        "-S",
        "-P",
        "-m",
        "deploy.server",
        str(options.bundle.resolve()),
        *checked,
        "--port",
        "0",
    ]
    took, worked = zip(*(start(command, options.packages) for _ in range(options.starts)), strict=True)
    print(f"start to ready: {statistics.median(took):.2f} s, {statistics.median(worked):.2f} s of processor time")


def start(command: list[str], packages: Path) -> tuple[float, float]:
    """Seconds until the server says that it is ready, and of processor time until it has stopped."""
    before = os.times()
    started = time.perf_counter()
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{packages}"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as running:
        assert running.stdout is not None
        ready = any('"ready"' in line for line in running.stdout)
        took = time.perf_counter() - started
        running.terminate()
        running.stdout.read()
    if not ready or running.returncode:
        raise RuntimeError(f"the server ended with {running.returncode}")
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return took, spent


if __name__ == "__main__":
    main()
