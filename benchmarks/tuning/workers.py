"""Two local workers against one, same trials: speed-up, and the memory that both need together.

    python benchmarks/tuning/workers.py [--params FILE] [--trials 8] [--rounds 3]

Each trial uses one thread (`base.threads: 1`). Memory is the proportional set size, in which a page that n processes
share counts 1/n for each, of all workers together in the middle of the search; Linux only.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path

import psutil
import setting

from tasks.core.settings import Params
from tasks.tune import study, workers
from tasks.tune.objective import Objective
from tasks.tune.processes import Worker
from tasks.tune.search import search


def memory() -> float:
    """MiB of this process's children."""
    held = 0
    for child in psutil.Process().children(recursive=True):
        try:
            held += child.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return held / (1 << 20)


def once(params: Params, root: Path, count: int, number: int) -> tuple[float, float]:
    """Seconds of a search with so many workers, and the most MiB that these held."""
    job = setting.job(params, root)
    workers.share(job, Objective.prepare(job))
    runners = [Worker(job) for _ in range(count)]
    peaks, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            peaks.append(memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        opened = study.open_study(params.tune, root / f"study-{count}-{number}")
        search(opened, params.tune, params.base.seed, runners)
        return time.perf_counter() - began, max(peaks)
    finally:
        over.set()
        watcher.join()
        for runner in runners:
            runner.close()


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
    seconds: dict[int, list[float]] = {1: [], 2: []}
    held: dict[int, list[float]] = {1: [], 2: []}
    for number in range(options.rounds):
        for count in (1, 2) if number % 2 else (2, 1):
            taken, most = once(params, options.out, count, number)
            seconds[count].append(taken)
            held[count].append(most)
    rows = sum(path.stat().st_size for path in (options.out / "scratch" / "rows").glob("*.npy")) / (1 << 20)
    speed = statistics.median(one / two for one, two in zip(seconds[1], seconds[2], strict=True))
    print(
        f"{options.trials} trials: 1 worker {statistics.median(seconds[1]):.1f} s, 2 workers "
        f"{statistics.median(seconds[2]):.1f} s: {speed:.2f} times as fast"
    )
    print(
        f"memory: 1 worker {statistics.median(held[1]):.0f} MiB, 2 workers {statistics.median(held[2]):.0f} MiB; "
        f"the shared rows are {rows:.0f} MiB, held once"
    )


if __name__ == "__main__":
    main()
