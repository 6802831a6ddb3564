"""Kill the search at random moments: no finished trial is lost, and the end is that of the undisturbed search.

    python benchmarks/tuning/kill.py [--params FILE] [--kills 20] [--trials 10] [--epochs 6]

`--params` is a file after `ingest` and `validate`. The undisturbed search gives the expected table, and the time from
which the moments are drawn. Every kill is SIGKILL to the whole process group. Between two kills the study's journal is
read: it must hold every trial that it held before, unchanged.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import setting
from optuna.storages.journal import JournalFileBackend, JournalStorage

from tasks.core import files


def start(root: Path) -> subprocess.Popen[bytes]:
    """The stage as a process group of its own."""
    command = [sys.executable, "-P", "-m", "tasks", "tune", "--params", str(root / "params.yaml")]
    with (root / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def finished(root: Path) -> dict[int, Any]:
    """The finished trials in the journal, by number."""
    for path in (root / "artifacts" / "scratch" / "tune").glob("*/study.log"):
        copy = root / "copy.log"  # the journal may end in half a line, which only the stage itself may cut
        copy.write_bytes(path.read_bytes()[: path.read_bytes().rfind(b"\n") + 1])
        storage = JournalStorage(JournalFileBackend(str(copy)))
        if not optuna.get_all_study_names(storage):
            return {}
        trials = optuna.load_study(study_name="tune", storage=storage).trials
        return {trial.number: (trial.params, trial.values) for trial in trials if trial.state.is_finished()}
    return {}


def outcome(root: Path) -> tuple[str, list[tuple[int, str]]]:
    """The table of trials, and the kept models with the hashes of their weights."""
    tuned = root / "artifacts" / "tune"
    models = files.read_json(tuned / "models.json")
    kept = [(model["trial"], files.sha256(tuned / model["file"])) for model in models]
    return (tuned / "trials.csv").read_text(), kept


def main() -> None:
    """Print how it went; exit 1 if anything was lost or came out otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("build/kill"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)  # noqa: S311 - moments, not secrets
    about = {"trials": options.trials, "epochs": options.epochs}
    undisturbed, killed = options.out / "undisturbed", options.out / "killed"
    setting.world(options.params, undisturbed, **about)
    began = time.monotonic()
    assert start(undisturbed).wait() == 0, (undisturbed / "log.txt").read_text()
    whole = time.monotonic() - began
    kills = lost = searches = 0
    same = True
    while kills < options.kills or searches == 0:
        more, gone = disturbed(killed, options, about, moments, whole, options.kills - kills)
        kills, lost, searches = kills + more, lost + gone, searches + 1
        same = same and outcome(killed) == outcome(undisturbed)
    print(
        f"{kills} kills in {searches} searches; finished trials lost: {lost}; "
        f"same table and same weights as undisturbed: {same}"
    )
    sys.exit(0 if same and not lost else 1)


def disturbed(
    root: Path, options: argparse.Namespace, about: dict[str, Any], moments: random.Random, whole: float, most: int
) -> tuple[int, int]:
    """One search to its end, with at most so many kills; return the kills, and the finished trials that they cost."""
    setting.world(options.params, root, **about)
    known: dict[int, Any] = {}
    kills = lost = 0
    while True:
        process = start(root)
        try:
            code = process.wait(timeout=moments.uniform(0, whole) if kills < most else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            assert code == 0, (root / "log.txt").read_text()
            return kills, lost
        kills += 1
        now = finished(root)
        lost += sum(now.get(number) != trial for number, trial in known.items())
        known = now or known
        print(f"kill {kills}: {len(now)} of {options.trials} trials finished", flush=True)


if __name__ == "__main__":
    main()
