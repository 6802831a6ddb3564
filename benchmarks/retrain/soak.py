"""Retrains a tiny pipeline over and over in one repository, with one server: does anything grow that should not?

`python benchmarks/retrain/soak.py [--runs 200] [--out FOLDER]`, from the project's root, with the extra `dev`. Stages
are the tests' small scripts; Prefect (server, worker, flow), DVC and Git are real. Of ten runs five are accepted, three
find nothing to do, one is refused its data, and one is killed with SIGKILL, with all that it started, in a stage that
changes from kill to kill; the next run takes it up. After each run it counts. It prints the medians of the first and of
the last runs, and ends with 1 if a run ended otherwise than it should, or if something grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import fake_pipeline  # noqa: E402 (its folder is known only now)
import retrain_world  # noqa: E402

from flows import session  # noqa: E402
from flows.retraining import Wanted  # noqa: E402
from flows.services import Services, up  # noqa: E402
from tasks.core.errors import DataRejected  # noqa: E402
from tasks.core.settings import STAGES  # noqa: E402

DAYS = 500  # of rows: they must reach past the last run
BEGIN = datetime(2020, 10, 1, tzinfo=UTC)
PLAN = ("accept", "nothing", "accept", "reject", "accept", "nothing", "accept", "nothing", "kill", "accept")
#: What may be counted more of at the end than at the beginning: so many, or such a share of what there was.
ALLOWED = {
    "processes": 0.0, "files open: server": 8.0, "files open: worker": 4.0, "files open: driver": 4.0,
    "MiB: server": 0.25, "MiB: worker": 0.25, "MiB: driver": 0.25, "files in .dvc/tmp": 0.0, "worktrees": 0.0,
    "locks": 0.0,
}  # fmt: skip
_KILL_SECONDS = 180.0


@dataclass(frozen=True)
class World:
    """The project, its params, the server's URL, and what belongs to the services."""

    root: Path
    url: str

    @property
    def services(self) -> Services:
        """Server and worker."""
        return Services(self.root)

    def run(self, number: int) -> str:
        """Do one run of the plan; return what became of it."""
        kind = PLAN[number % len(PLAN)]
        # After a kill the same snapshot is asked for again, so that what is left is taken up.
        day = number - 1 if PLAN[(number - 1) % len(PLAN)] == "kill" else number
        wanted = Wanted(
            self.root / "params.yaml",
            as_of=(BEGIN + timedelta(days=day)).isoformat(),
            because="soak" if kind in {"accept", "kill"} else None,
        )
        if kind == "kill":
            return self._kill(wanted, STAGES[number // len(PLAN) % len(STAGES)])
        if kind == "reject":
            retrain_world.grow(self.root, DAYS, skip=400)
        try:
            return str(session.retrain(wanted)["word"])
        except DataRejected:
            return "REJECTED"
        finally:
            if kind == "reject":
                retrain_world.grow(self.root, DAYS)

    def _kill(self, wanted: Wanted, stage: str) -> str:
        """SIGKILL to a run that has come as far as a stage, and to all that it started."""
        told = self.root / "pids.json"
        told.unlink(missing_ok=True)
        fake_pipeline.behave(self.root, {stage: "sleep"})
        command = [str(fake_pipeline.BIN / "assay"), "retrain", "--as-of", str(wanted.as_of), "--because", "soak"]
        environment = fake_pipeline.environment(self.root) | {"PREFECT_API_URL": self.url}
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + _KILL_SECONDS
        while not told.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        reached = told.exists()
        with suppress(ProcessLookupError):  # it has ended: that is told below
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fake_pipeline.behave(self.root, {})
        return "killed" if reached else f"did not come as far as {stage}"

    def count(self) -> dict[str, float]:
        """How much of everything there is now; in this process, without what waits to be collected."""
        gc.collect()
        pids = {one["what"]: psutil.Process(one["pid"]) for one in self.services.running()["processes"]}
        who = {"server": pids["server"], "worker": pids["worker"], "driver": psutil.Process()}
        family = {process.pid for process in (*self.services.family(), *psutil.Process().children(recursive=True))}
        temporary = [path for path in self._temporary() if path.is_file()]
        worktrees = fake_pipeline.git(self.root, "worktree", "list").splitlines()[1:]
        return {
            "processes": len(family),
            **{f"files open: {name}": process.num_fds() for name, process in who.items()},
            **{f"MiB: {name}": process.memory_info().rss / 2**20 for name, process in who.items()},
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


@contextmanager
def world(root: Path) -> Iterator[World]:
    """The project, with a server and a worker of its own."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    retrain_world.make(root, DAYS)
    os.environ |= {
        name: value
        for name, value in fake_pipeline.environment(root).items()
        if name.startswith(("GIT_", "PYTHONPATH"))
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    services = Services(root)
    try:
        up([root / "params.yaml"], port, print)
        made = World(root, services.running()["url"])
        with temporary_settings({PREFECT_API_URL: made.url}):
            yield made
    finally:
        services.down(print)


def wrong(number: int, word: str) -> str | None:
    """What is wrong with how a run ended; None if nothing is."""
    kind = PLAN[number % len(PLAN)]
    right = {"accept": "ACCEPTED", "nothing": "NOTHING", "reject": "REJECTED", "kill": "killed"}[kind]
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
            word = made.run(number)
            bad += filter(None, [wrong(number, word)])
            counted.append(made.count())
            figures = ", ".join(f"{name} {value:.0f}" for name, value in counted[-1].items())
            print(f"run {number}: {word}, {time.monotonic() - start:.1f} s: {figures}", flush=True)
    grew = table(counted, min(20, max(1, options.runs // 3)))
    print(f"\n{options.runs} runs in {(time.monotonic() - began) / 60:.1f} min")
    for line in (*bad, *grew):
        print(f"not as it should be: {line}")
    sys.exit(1 if bad or grew else 0)


if __name__ == "__main__":
    main()
