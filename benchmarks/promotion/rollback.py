"""Seconds from `assay rollback` to the moved pointer, and to the server that answers with the old version.

`python benchmarks/promotion/rollback.py [--times 20]`, from the project's root, with the extra `dev`: the tests' tiny
project has two versions promoted to staging; a server follows that stage as it does by default; the command goes from
one version to the other and back. Its process is started for each, with both gates, the log and the tag in Git. The
processor's time, with that of the server that the gate asks, says what a machine with nothing else to do would need.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from kill import NAME, STAGE, project, promote_world, start

from deploy.store import read_pointer
from tasks.promote.server import started

_LOOK = 0.005
_MOST = 120.0


def main() -> None:
    """Print a line for each moment that was waited for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    found: dict[str, list[float]] = defaultdict(list)
    with TemporaryDirectory(prefix="assay-rollback-") as scratch:
        root = project(Path(scratch))
        versions = [promote_world.bundle_of(root, number) for number in (1, 2)]
        for bundle in versions:
            promote_world.export_of(root, bundle)
            if code := start(root, bundle.name).wait():
                raise SystemExit(f"the promotion of {bundle.name} ends with {code}")
        store = root / "store"
        serve = [sys.executable, "-P", "-m", "deploy.server", "--store", str(store), "--name", NAME, "--stage", STAGE]
        serve += ["--key", str(root / "keys" / "assay.pub"), "--port", "0"]
        with started(serve, _MOST) as server:
            address = f"http://{server.host}:{server.port}/v2/models/{NAME}"
            for number in range(times):
                for name, seconds in _once(root, versions[number % 2].name, address).items():
                    found[name].append(seconds)
    for name, seconds in found.items():
        print(f"{name}: median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s, of {times} rollbacks")


def _once(root: Path, version: str, address: str) -> dict[str, float]:
    """Seconds from the start of one command."""
    begun, before = time.perf_counter(), _spent()
    command = [sys.executable, "-P", "-m", "flows.cli", "rollback", NAME, version, "--to", STAGE]
    command += ["--params", str(root / "params.yaml"), "--reason", "a measurement"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    found: dict[str, float] = {}

    def wait(name: str, holds: Callable[[], bool]) -> None:
        while not holds():
            if time.perf_counter() - begun > _MOST:
                return
            time.sleep(_LOOK)
        found[name] = time.perf_counter() - begun

    def pointed() -> bool:
        pointer = read_pointer(root / "store", NAME, STAGE)
        return pointer is not None and pointer.version == version

    waiting = [
        threading.Thread(target=wait, args=("pointer moved", pointed)),
        threading.Thread(target=wait, args=("server answers with it", lambda: _answers(address) == version)),
    ]
    for thread in waiting:
        thread.start()
    said = process.communicate()[1]
    found["command ended"] = time.perf_counter() - begun
    found["processor"] = _spent() - before
    for thread in waiting:
        thread.join()
    if process.returncode or len(found) != 4:
        raise SystemExit(f"exit code {process.returncode}, after {_MOST:g} s at most: {said[-2000:]}")
    return found


def _spent() -> float:
    """Seconds of the processor, of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _answers(address: str) -> str:
    with urllib.request.urlopen(address, timeout=_MOST) as response:
        return str(json.load(response)["parameters"]["version"])


if __name__ == "__main__":
    main()
