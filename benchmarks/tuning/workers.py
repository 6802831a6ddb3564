"""Two local workers against one, same trials: speed-up, and the memory that both need together.

    python benchmarks/tuning/workers.py [--params FILE] [--trials 8] [--rounds 3]

Each trial uses one thread (`base.threads: 1`); the clock runs once all workers are warm. Memory is the proportional set
size, in which a page that n processes share counts 1/n for each, of all workers together, and of the rows alone that
they map: the most that was seen while they trained. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import setting

from tasks.core.settings import Params
from tasks.tune import study, workers
from tasks.tune.objective import Objective
from tasks.tune.processes import Worker
from tasks.tune.search import search
from tasks.tune.trial import Report, Task

#: A number that no trial of a search has.
_NO_TRIAL = 1_000_000


def memory(rows: Path) -> tuple[float, float]:
    """MiB of this process's children, and MiB of these that are pages of the rows' files."""
    held = shared = 0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            for found in child.memory_maps():
                held += found.pss
                shared += found.pss if Path(found.path).parent == rows else 0
    return held / (1 << 20), shared / (1 << 20)


def warm(runner: Worker, params: Params) -> None:
    """Let a worker load everything, and train an epoch."""
    first = workers.middle(params.tune.space)
    assert isinstance(runner.begin(Task(_NO_TRIAL, params.base.seed, first.values)), Report)
    runner.go_on(True)


def once(params: Params, root: Path, count: int, number: int) -> tuple[float, float, float]:
    """Seconds of a search with so many workers, and the most MiB that these held: all, and of the rows."""
    job = setting.job(params, root)
    setting.forget(job)
    workers.share(job, Objective.prepare(job))
    runners = [Worker(job) for _ in range(count)]
    found, over = [(0.0, 0.0)], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            found.append(memory(job.folder / "rows"))

    watcher = threading.Thread(target=watch)
    try:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda runner: warm(runner, params), runners))
        watcher.start()
        began = time.perf_counter()
        search(study.open_study(params.tune, root / f"study-{count}-{number}"), params.tune, params.base.seed, runners)
        seconds = time.perf_counter() - began
    finally:
        over.set()
        for runner in runners:
            runner.close()
    watcher.join()
    return seconds, *(max(column) for column in zip(*found, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("build/workers"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    params = setting.world(
        options.params, options.out, trials=options.trials, epochs=options.epochs, pruner="none", sampler="random",
        base={"threads": 1},
    )  # fmt: skip
    runs: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    for number in range(options.rounds):
        for count in (1, 2) if number % 2 else (2, 1):
            runs[count].append(once(params, options.out, count, number))
    one, two = ([statistics.median(column) for column in zip(*runs[count], strict=True)] for count in (1, 2))
    speed = statistics.median(alone[0] / both[0] for alone, both in zip(runs[1], runs[2], strict=True))
    print(f"{options.trials} trials: 1 worker {one[0]:.1f} s, 2 workers {two[0]:.1f} s: {speed:.2f} times as fast")
    print("| MiB | 1 worker | 2 workers | ratio |\n|---|---|---|---|")
    for name, alone, both in zip(("in all", "mapped rows"), one[1:], two[1:], strict=True):
        print(f"| {name} | {alone:.0f} | {both:.0f} | {both / alone:.2f} |")


if __name__ == "__main__":
    main()
