"""Two processes that train one network together against one process: difference of the losses' curves, throughput.

    python benchmarks/tuning/ddp.py [--params FILE] [--epochs 4]

The same configuration, seed and global batch, one thread to a process. With dropout, which
each process draws for its own rows, the curves differ by chance; `--no-dropout` sets every hyperparameter that is
called so to 0.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import setting

from tasks.tune import workers
from tasks.tune.elsewhere import Elsewhere
from tasks.tune.objective import Objective
from tasks.tune.processes import Worker
from tasks.tune.together import Together
from tasks.tune.trial import Report, Task


def curve(runner: Elsewhere | Together, task: Task) -> tuple[list[float], float]:
    """The scores after each epoch, and the seconds of all epochs but the first, which loads and warms up."""
    scores: list[float] = []
    event = runner.begin(task)
    began = time.perf_counter()
    while isinstance(event, Report):
        scores.append(event.score)
        event = runner.go_on(False)
    assert event.state == "complete", event.error
    return scores, time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("build/ddp"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--no-dropout", action="store_true")
    options = parser.parse_args()
    found: dict[int, tuple[list[float], float]] = {}
    for count in (1, 2):
        root = options.out / str(count)
        params = setting.world(
            options.params, root, epochs=options.epochs, processes=count, base={"threads": 1}, pruner="none"
        )
        job = setting.job(params, root)
        workers.share(job, Objective.prepare(job))
        values = dict(workers.middle(params.tune.space).values)
        if options.no_dropout:
            values |= dict.fromkeys((name for name in values if "dropout" in name), 0.0)
        runner = Together(job) if count > 1 else Worker(job)
        try:
            found[count] = curve(runner, Task(0, params.base.seed, values))
        finally:
            runner.close()
    (alone, seconds), (together, both) = found[1], found[2]
    print("| epoch | 1 process | 2 processes |\n|---|---|---|")
    for epoch, pair in enumerate(zip(alone, together, strict=True), 1):
        print(f"| {epoch} | {pair[0]:.6f} | {pair[1]:.6f} |")
    worst = max(abs(one - two) for one, two in zip(alone, together, strict=True))
    print(f"largest difference {worst:.2e}; throughput of 2 processes over 1: {seconds / both:.2f}")


if __name__ == "__main__":
    main()
