"""The tiny project of fake_pipeline with a source that grows by 40 rows a day, for retrainings."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import time
from contextlib import redirect_stderr
from datetime import UTC, datetime, timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import fake_pipeline

from flows.retraining import Wanted, plain
from tasks.core import files

START = datetime(2020, 1, 1, tzinfo=UTC)
PARAMS = fake_pipeline.PARAMS.replace("{source: rows.csv}", "{source: rows.csv, time_column: when}")


def make(root: Path, days: int = 100) -> Path:
    """The project, committed; its source is not kept by Git, as one that grows by itself."""
    fake_pipeline.make(root)
    (root / "params.yaml").write_text(f"# A comment that stays.\n{PARAMS}")
    fake_pipeline.git(root, "rm", "-q", "--cached", "rows.csv")
    with (root / ".gitignore").open("a") as file:
        file.write("rows.csv\nstore/\nkeys/\n")
    with (root / ".dvc" / "config").open("a") as file:
        file.write("    remote = shared\n['remote \"shared\"']\n    url = ../../remote\n")
    grow(root, days)
    fake_pipeline.commit(root)
    return root


def grow(root: Path, days: int, rows_a_day: int = 40, shift: int = 0, skip: int = 0) -> None:
    """Write the source anew, of so many days, all but the first ``skip`` rows."""
    lines = [
        f"{(START + timedelta(days=day, minutes=row)).strftime('%Y-%m-%dT%H:%M:%SZ')},{row % 20 + shift},{row % 2}"
        for day in range(days)
        for row in range(rows_a_day)
    ]
    (root / "rows.csv").write_text("\n".join(["when,a,late", *lines[skip:], ""]))


def copy(made: Path, root: Path) -> Path:
    """A copy of one's own."""
    return shutil.copytree(made, root, symlinks=True)


def records(root: Path) -> list[dict[str, Any]]:
    """Every record of the project, oldest first."""
    return [files.read_json(path) for path in sorted((root / "artifacts/runs/retrain").glob("*/record.json"))]


def _retrain(root: Path, as_of: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        plain(Wanted(root / "params.yaml", as_of=as_of))


def begun(root: Path, as_of: str) -> ForkServerProcess:
    """A retraining in a process of its own, to be killed; what all of them import is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "dvc.repo.reproduce"])
    process = context.Process(target=_retrain, args=(root, as_of, fake_pipeline.environment(root)))
    process.start()
    return process


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + 180
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.1)


def left_behind(root: Path) -> list[str]:
    """Folders beside the project, and its worktrees but for itself."""
    beside = [path.name for path in root.parent.iterdir() if path.name not in (root.name, "remote")]
    return (
        beside
        + fake_pipeline.git(root, "worktree", "list").splitlines()[1:]
        + [p.name for p in root.glob(".dvc/tmp/retrain-*.json")]
    )


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
