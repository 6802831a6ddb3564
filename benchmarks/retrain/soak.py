"""Retrains a tiny pipeline over and over in one repository, with one server and one worker: does anything grow?

`python benchmarks/retrain/soak.py [--runs 200] [--out FOLDER]`, from the project's root, with the extra `dev`. Stages
are the tests' small scripts; Prefect, DVC and Git are real: every run is asked for at the server, and the worker makes
it. Of ten runs five are accepted, three find nothing to do, one is refused its data, and one is killed with SIGKILL,
with all that it started, in a stage that changes from kill to kill; the next run takes it up. After each run it counts.
It prints the medians of the first and of the last runs, and ends with 1 if a run ended otherwise than it should, or if
something grew.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import fake_pipeline  # noqa: E402 (its folder is known only now)
import retrain_world  # noqa: E402

from flows.services import Services, up  # noqa: E402
from tasks.core.settings import STAGES  # noqa: E402

DAYS = 500  # of rows: they must reach past the last run
BEGIN = datetime(2020, 10, 1, tzinfo=UTC)
PLAN = ("accept", "nothing", "accept", "reject", "accept", "nothing", "accept", "nothing", "kill", "accept")
#: What may be counted more of at the end than at the beginning: so many, or such a share of what there was.
ALLOWED = {
    "processes": 0.0, "files open: server": 8.0, "files open: worker": 4.0, "MiB: server": 0.25, "MiB: worker": 0.25,
    "MiB: run": 0.25, "files in .dvc/tmp": 0.0, "worktrees": 0.0, "locks": 0.0,
}  # fmt: skip
_PATIENCE, _LOOK = 300.0, 0.2


@dataclass(frozen=True)
class World:
    """The project, with the server and the worker that run."""

    root: Path

    @property
    def services(self) -> Services:
        """Server and worker."""
        return Services(self.root)

    def run(self, number: int) -> tuple[str, float]:
        """Do one run of the plan; return what became of it, and the most memory that it took, in MiB."""
        kind = PLAN[number % len(PLAN)]
        # After a kill the same snapshot is asked for again, so that what is left is taken up.
        day = number - 1 if PLAN[(number - 1) % len(PLAN)] == "kill" else number
        because = "soak" if kind in {"accept", "kill"} else None
        stage = STAGES[number // len(PLAN) % len(STAGES)] if kind == "kill" else None
        if kind == "reject":
            retrain_world.grow(self.root, DAYS, skip=400)
        try:
            return self._scheduled((BEGIN + timedelta(days=day)).isoformat(), because, stage)
        finally:
            if kind == "reject":
                retrain_world.grow(self.root, DAYS)

    def _scheduled(self, as_of: str, because: str | None, stage: str | None) -> tuple[str, float]:
        """Ask the server for a run and wait for its end; SIGKILL to all of it when it comes as far as a stage."""
        from prefect.client.orchestration import get_client
        from prefect.deployments import run_deployment

        told = self.root / "pids.json"
        told.unlink(missing_ok=True)
        fake_pipeline.behave(self.root, {stage: "sleep"} if stage else {})
        parameters = {"params": "params.yaml", "as_of": as_of, "because": because}
        asked: Any = run_deployment("retrain/tiny", parameters=parameters, timeout=0)
        deadline, most, killed = time.monotonic() + _PATIENCE, 0.0, False
        with get_client(sync_client=True) as client:
            while time.monotonic() < deadline:
                most = max(most, sum(map(_mib, self._run_processes())))
                if stage and told.exists() and not killed:
                    killed = True
                    for process in self._run_processes():
                        with suppress(psutil.NoSuchProcess):
                            process.kill()
                    fake_pipeline.behave(self.root, {})
                state = client.read_flow_run(asked.id).state
                if state is not None and state.is_final() and not self._run_processes():
                    return str(state.name), most
                time.sleep(_LOOK)
        return "no end", most

    def _run_processes(self) -> list[psutil.Process]:
        """What the worker started, and what that started."""
        ours = {one["pid"] for one in self.services.running()["processes"]}
        worker = next(one["pid"] for one in self.services.running()["processes"] if one["what"] == "worker")
        return [one for one in psutil.Process(worker).children(recursive=True) if one.pid not in ours]

    def count(self) -> dict[str, float]:
        """How much of everything there is now."""
        who = {one["what"]: psutil.Process(one["pid"]) for one in self.services.running()["processes"]}
        temporary = [path for path in self._temporary() if path.is_file()]
        worktrees = fake_pipeline.git(self.root, "worktree", "list").splitlines()[1:]
        return {
            "processes": len(self.services.family()),
            **{f"files open: {name}": process.num_fds() for name, process in who.items()},
            **{f"MiB: {name}": _mib(process) for name, process in who.items()},
            "files in .dvc/tmp": len(temporary),
            "worktrees": len(worktrees),
            "locks": self._locks(temporary),
        }

    def _temporary(self) -> Iterator[Path]:
        """What lies under ``.dvc/tmp``, but for the server's database and logs, which grow by design."""
        folder = self.root / ".dvc" / "tmp"
        return (path for path in folder.rglob("*") if not path.is_relative_to(self.services.folder))

    def _locks(self, temporary: Sequence[Path]) -> int:
        """Stages that DVC holds for read or written now, and Git's locks."""
        held = 0
        for path in temporary:
            if path.name == "rwlock":
                held += sum(len(owners) for owners in json.loads(path.read_text() or "{}").values())
        return held + len(list((self.root / ".git").rglob("*.lock")))


def _mib(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / 2**20
    return 0.0


@contextmanager
def world(root: Path) -> Iterator[World]:
    """The project, with a server and a worker of its own."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    retrain_world.make(root, DAYS)
    os.environ |= {
        name: value
        for name, value in fake_pipeline.environment(root).items()
        if name.startswith(("GIT_", "PYTHONPATH"))
    } | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    services = Services(root)
    try:
        up([root / "params.yaml"], port, print)
        with temporary_settings({PREFECT_API_URL: services.running()["url"]}):
            yield World(root)
    finally:
        services.down(print)


def wrong(number: int, word: str) -> str | None:
    """What is wrong with how a run ended; None if nothing is."""
    kind = PLAN[number % len(PLAN)]
    right = {"accept": "Accepted", "nothing": "Nothing", "reject": "Rejected", "kill": "Crashed"}[kind]
    return None if word == right else f"run {number}: {word}, not {right}"


def table(counted: Sequence[dict[str, float]], edge: int) -> list[str]:
    """Print the medians of the first and of the last runs; return what grew."""
    grew = []
    print(f"\n| | first {edge} | last {edge} | allowed |\n|---|---|---|---|")
    for name, allowed in ALLOWED.items():
        first, last = (statistics.median(one[name] for one in part) for part in (counted[:edge], counted[-edge:]))
        limit = first * (1 + allowed) if name.startswith("MiB") else first + allowed
        print(f"| {name} | {first:.0f} | {last:.0f} | {limit:.0f} |")
        if last > limit:
            grew.append(f"{name}: {first:.0f} -> {last:.0f}")
    return grew


def main() -> None:
    """Run, count, print; exit 1 if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, help="An empty folder for the project (default: one that goes).")
    options = parser.parse_args()
    counted: list[dict[str, float]] = []
    bad: list[str] = []
    began = time.monotonic()
    with TemporaryDirectory() as folder, world((options.out or Path(folder)) / "project") as made:
        for number in range(options.runs):
            start = time.monotonic()
            word, most = made.run(number)
            bad += filter(None, [wrong(number, word)])
            counted.append(made.count() | {"MiB: run": most})
            figures = ", ".join(f"{name} {value:.0f}" for name, value in counted[-1].items())
            print(f"run {number}: {word}, {time.monotonic() - start:.1f} s: {figures}", flush=True)
    grew = table(counted, min(20, max(1, options.runs // 3)))
    print(f"\n{options.runs} runs in {(time.monotonic() - began) / 60:.1f} min")
    for line in (*bad, *grew):
        print(f"not as it should be: {line}")
    sys.exit(1 if bad or grew else 0)


if __name__ == "__main__":
    main()
