"""Servers as processes on one core, for the scripts beside this file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy import golden

ROOT = Path(__file__).parents[2]


@contextmanager
def process(command: list[str], url: str, core: int | None, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """Run a server until the block ends; yields its process id when ``url`` answers."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | (env or {}), start_new_session=True)
        try:
            if core is not None:
                os.sched_setaffinity(running.pid, {core})
            end = time.monotonic() + 120
            while not _answers(url):
                if running.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{command[:4]} did not come up:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield running.pid
        finally:
            running.terminate()
            try:
                running.wait(20)
            except subprocess.TimeoutExpired:
                running.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def assay(folder: Path, port: int, core: int | None, log: Path, *options: str) -> Iterator[int]:
    """This project's server, unsigned and without tokens, on a port of this machine."""
    command = [sys.executable, "-P", "-m", "deploy.server", str(folder), "--unsigned", "--port", str(port), *options]
    with process(command, f"http://127.0.0.1:{port}/v2/health/ready", core, log, {"PYTHONPATH": str(ROOT)}) as pid:
        yield pid


def one_row(bundle: Path) -> dict[str, Any]:
    """The first row of the bundle's typical golden request, as a request."""
    request = dict(next(case for case in golden.read(bundle) if case.name == "typical").request)
    rows = request["inputs"][0]["shape"][0]
    request["inputs"] = [
        item | {"shape": [1, *item["shape"][1:]], "data": item["data"][: len(item["data"]) // rows]}
        for item in request["inputs"]
    ]
    return json.loads(json.dumps(request))
