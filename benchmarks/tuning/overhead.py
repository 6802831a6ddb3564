"""What a trial costs beyond its training: Optuna, storage, checkpoints, reports, and the hand-over to a process.

    python benchmarks/tuning/overhead.py [--params FILE] [--rows N] [--trials 5] [--rounds 3]

Per round, interleaved: the bare training function, called for the same configurations one after the other; the search
in this process; the search in one worker process (started and warm before the clock runs). Medians of the paired
differences and ratios. Pruning is off, so that all three do the same epochs. Where noise hides the overhead, ``--rows
1000`` makes trials so short that it is seen.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from pathlib import Path

import setting

from tasks.core.training import train
from tasks.tune import study
from tasks.tune.objective import Objective
from tasks.tune.processes import Worker
from tasks.tune.search import search
from tasks.tune.trial import Local, Runner, Task


def bare(objective: Objective, tasks: list[Task]) -> float:
    """Seconds of the training function alone."""
    began = time.perf_counter()
    for task in tasks:
        network = objective.model.build(objective.encoder, task.values).to(objective.device)
        recipe = objective.recipe(task.values)
        train(network, recipe, objective.examples, objective.loss, objective.evaluate, task.seed, lambda *_: None)
    return time.perf_counter() - began


class Noting:
    """A runner that notes what it is given."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.tasks = runner, list[Task]()

    def begin(self, task: Task) -> object:
        self.tasks.append(task)
        return self.runner.begin(task)

    def go_on(self, stop: bool) -> object:
        return self.runner.go_on(stop)

    def close(self) -> None:
        self.runner.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("build/overhead"))
    parser.add_argument("--rows", type=int, help="train and choose by so few rows that the overhead is most of it")
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    params = setting.world(options.params, options.out, trials=options.trials, epochs=options.epochs, pruner="none")
    job = setting.job(params, options.out)
    if options.rows is not None:
        for split in ("train", "validation"):
            setting.thin(options.out, options.rows, split)
    objective = Objective.prepare(job)
    here, there = Noting(Local(objective.train)), Worker(job)
    seconds: dict[str, list[float]] = {"bare": [], "here": [], "worker": []}
    for number in range(options.rounds + 1):
        for name, runner in (("here", here), ("worker", there)):
            folder = options.out / f"{name}-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            setting.forget(job)
            began = time.perf_counter()
            search(study.open_study(params.tune, folder), params.tune, params.base.seed, [runner])
            seconds[name].append(time.perf_counter() - began)
        seconds["bare"].append(bare(objective, here.tasks[-options.trials :]))
    for times in seconds.values():
        del times[0]  # the first round warms up
    there.close()
    print("| | seconds a trial | over the bare training | its share | least and most |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        more = statistics.median(own - plain for own, plain in zip(times, seconds["bare"], strict=True))
        over = [100 * (own / plain - 1) for own, plain in zip(times, seconds["bare"], strict=True)]
        middle = f"{statistics.median(times) / options.trials:.3f} | {more / options.trials:+.3f} s"
        print(f"| {name} | {middle} | {statistics.median(over):+.1f} % | {min(over):+.1f}, {max(over):+.1f} % |")


if __name__ == "__main__":
    main()
