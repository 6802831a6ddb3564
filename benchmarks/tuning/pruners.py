"""What each pruner buys: random configurations are trained to the end once, then searched through again and again.

    python benchmarks/tuning/pruners.py [--params FILE] [--space FILE] [--rows N] [--configurations 60] [--budget 60]

Every replay draws the configurations in another order and stops them as Optuna's own pruner says; a budget is a number
of epochs, which is what a search's time is made of. The target of a replay is what a search without a pruner, in an
order of its own, has found by the end of the budget. The curves are kept in the folder, and not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from pathlib import Path

import optuna
import setting
from ruamel.yaml import YAML

from tasks.core.settings import Params
from tasks.tune import methods, proposals
from tasks.tune.objective import Objective
from tasks.tune.trial import Local, Report, Task

_PRUNERS = ("none", "median", "wilcoxon", "hyperband", "asha")


def curves(options: argparse.Namespace, params: Params) -> list[list[float]]:
    """The scores after each epoch of random configurations; those that diverge are left out."""
    kept = options.out / "curves.json"
    if kept.is_file():
        found: list[list[float]] = json.loads(kept.read_text())
        return found
    job = setting.job(params, options.out / "world")
    if options.rows is not None:
        setting.thin(options.out / "world", options.rows)
    runner = Local(Objective.prepare(job).train)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    told = [
        curve(runner, Task(n, n, proposals.suggest(drawn.ask(), params.tune.space)))
        for n in range(options.configurations)
    ]
    found = [scores for scores in told if len(scores) == params.tune.epochs]
    kept.write_text(json.dumps(found))
    return found


def curve(runner: Local, task: Task) -> list[float]:
    """The scores after each epoch, as far as it came."""
    scores: list[float] = []
    event = runner.begin(task)
    while isinstance(event, Report):
        scores.append(event.score)
        event = runner.go_on(False)
    print(f"configuration {task.number}: {scores}", flush=True)
    return scores


def replay(
    known: list[list[float]], params: Params, name: str, budget: int, seed: int
) -> tuple[list[tuple[int, float]], int]:
    """Epochs at which a search found something better, with what; and how many configurations it tried."""
    own = params.tune.model_copy(update={"pruner": name})
    study = optuna.create_study(direction="maximize", pruner=methods.pruner(own))
    order = random.Random(seed).sample(known, len(known))  # noqa: S311 - an order, not a secret
    found: list[tuple[int, float]] = []
    spent = 0
    for tried, scores in enumerate(order):
        trial = study.ask()
        for epoch, score in enumerate(scores, 1):
            if spent == budget:
                return found, tried
            spent += 1
            trial.report(score, epoch)
            if epoch < len(scores) and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, scores[-1])
            if not found or scores[-1] > found[-1][1]:
                found.append((spent, scores[-1]))
    return found, len(order)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--space", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/pruners"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--configurations", type=int, default=60)
    parser.add_argument("--budget", type=int, default=60, help="epochs of a replayed search")
    parser.add_argument("--replays", type=int, default=200)
    options = parser.parse_args()
    changes = {} if options.space is None else {"space": YAML(typ="safe").load(options.space.read_text())}
    options.out.mkdir(parents=True, exist_ok=True)
    params = setting.world(options.params, options.out / "world", epochs=options.epochs, pruner="none", **changes)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = curves(options, params)
    targets = [replay(known, params, "none", options.budget, -1 - seed)[0][-1][1] for seed in range(options.replays)]
    print(f"{len(known)} configurations, {options.budget} epochs, {options.replays} replays")
    print(
        "| pruner | configurations tried | best (median) | reached the target | share of the budget by then (median) |"
    )
    print("|---|---|---|---|---|")
    for name in _PRUNERS:
        runs = [replay(known, params, name, options.budget, seed) for seed in range(options.replays)]
        best = statistics.median(found[-1][1] if found else -math.inf for found, _ in runs)
        reached = [
            next((spent / options.budget for spent, score in found if score >= target), math.inf)
            for (found, _), target in zip(runs, targets, strict=True)
        ]
        tried = statistics.mean(count for _, count in runs)
        share = sum(map(math.isfinite, reached)) / len(reached)
        print(f"| {name} | {tried:.1f} | {best:.5f} | {100 * share:.0f} % | {statistics.median(reached):.2f} |")


if __name__ == "__main__":
    main()
