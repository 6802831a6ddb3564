"""Why the defaults are what they are: samplers and pruners search a model of measured curves, again and again.

    python benchmarks/tuning/defaults.py [--params FILE] [--space FILE] [--rows N] [--configurations 60]
        [--trainings 30] [--replays 40] [--searches gp+asha tpe+hyperband ...]

Random configurations are trained to their ends once; their curves are kept in the folder, and not measured again. The
model: a Gaussian process for each of the curves' first principal components, plus the residual of a measured curve of
the better half, drawn at random; an epoch's seconds by a regression. In a replay a search proposes and stops by the
stage's own samplers and pruners, until the model's clock says that time is over (a proposal takes none of it); its
target is what random search without a pruner has found by then, in a replay of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import setting
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState
from ruamel.yaml import YAML
from scipy.optimize import minimize

from tasks.core.settings import Params, Tune
from tasks.core.space import Value
from tasks.tune import methods, proposals
from tasks.tune.objective import Objective
from tasks.tune.trial import Local, Report, Task

_SEARCHES = ("random+none", "tpe+none", "tpe+hyperband", "tpe+asha", "gp+none", "gp+hyperband", "gp+asha", "gp+median")
_COMPONENTS = 5
#: Replays' seeds lie apart, since a trial's seed is its search's plus its number.
_APART = 10_007


def measured(options: argparse.Namespace, params: Params) -> list[dict[str, Any]]:
    """Values, scores and seconds since the start after each epoch of random configurations; none that diverged."""
    about = json.dumps(
        [params.base.name, options.rows, params.tune.epochs, options.configurations, str(params.tune.space)]
    )
    kept = options.out / f"curves-{hashlib.sha256(about.encode()).hexdigest()[:8]}.jsonl"
    if not kept.is_file():
        job = setting.job(params, options.out / "world")
        if options.rows is not None:
            setting.thin(options.out / "world", options.rows)
        runner = Local(Objective.prepare(job).train)
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        told = [
            curve(runner, Task(n, n, proposals.suggest(drawn.ask(), params.tune.space)))
            for n in range(options.configurations)
        ]
        kept.write_text("".join(f"{json.dumps(one)}\n" for one in told))
    found = [json.loads(line) for line in kept.read_text().splitlines()]
    return [one for one in found if len(one["scores"]) == params.tune.epochs]


def curve(runner: Local, task: Task) -> dict[str, Any]:
    """What a training said, as far as it came."""
    scores, seconds = list[float](), list[float]()
    began = time.perf_counter()
    event = runner.begin(task)
    while isinstance(event, Report):
        scores.append(event.score)
        seconds.append(time.perf_counter() - began)
        event = runner.go_on(False)
    print(f"configuration {task.number}: {scores}", flush=True)
    return {"values": dict(task.values), "scores": scores, "seconds": seconds}


class GaussianProcess:
    """A Gaussian process: Matern 5/2 with a length for each dimension (Rasmussen and Williams 2006, 4.17 and 5.8)."""

    def __init__(self, points: np.ndarray, values: np.ndarray) -> None:
        self.points, self.mean, self.scale = points, values.mean(), values.std() + 1e-12
        wanted = (values - self.mean) / self.scale
        count = points.shape[1]

        def loss(logs: np.ndarray) -> float:
            covariance = self.covariance(points, logs) + (math.exp(logs[-1]) + 1e-5) * np.eye(len(points))
            root = np.linalg.cholesky(covariance)
            solved = np.linalg.solve(root, wanted)
            return float(0.5 * solved @ solved + np.log(np.diag(root)).sum() + 0.05 * (logs[:count] ** 2).sum())

        starts = (np.r_[np.full(count, -0.5), 0, -2], np.r_[np.full(count, 0.5), 0, -4])
        bounds = [(-2.5, 2.5)] * count + [(-3, 3), (-5, 1)]
        fits = [minimize(loss, start, method="L-BFGS-B", bounds=bounds) for start in starts]
        self.logs = min(fits, key=lambda fit: fit.fun).x
        noise = (math.exp(self.logs[-1]) + 1e-5) * np.eye(len(points))
        self.weights = np.linalg.solve(self.covariance(points, self.logs) + noise, wanted)

    def covariance(self, points: np.ndarray, logs: np.ndarray) -> np.ndarray:
        """Between points, [n, d], and those that were measured: [n, measured]."""
        apart = (points[:, None] - self.points[None]) / np.exp(logs[:-2])
        far = np.sqrt(5 * (apart**2).sum(-1) + 1e-12)
        found: np.ndarray = np.exp(logs[-2]) * (1 + far + far**2 / 3) * np.exp(-far)
        return found

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """The expectation at points, [n, d]: [n]."""
        found: np.ndarray = self.mean + self.scale * (self.covariance(points, self.logs) @ self.weights)
        return found


class Model:
    """A curve and an epoch's seconds for every configuration of a space."""

    def __init__(self, known: list[dict[str, Any]], space: Mapping[str, BaseDistribution]) -> None:
        self.space = space
        points = np.stack([self.point(one["values"]) for one in known])
        curves = np.array([one["scores"] for one in known])
        self.mean = curves.mean(0)
        self.axes = np.linalg.svd(curves - self.mean, full_matrices=False)[2][:_COMPONENTS]
        self.processes = [GaussianProcess(points, (curves - self.mean) @ axis) for axis in self.axes]
        better = curves[:, -1] >= np.median(curves[:, -1])  # those of hopeless ones are larger, and nobody's target
        self.residuals = (curves - self.expected(points))[better]
        self.training = statistics.mean(one["seconds"][-1] for one in known)
        epochs = np.log([one["seconds"][-1] / curves.shape[1] for one in known])
        self.cost = np.linalg.lstsq(self._terms(points), epochs, rcond=None)[0]

    def point(self, values: Mapping[str, Value]) -> np.ndarray:
        """A configuration in the unit cube."""
        return np.array([_share(distribution, values[name]) for name, distribution in self.space.items()])

    def expected(self, points: np.ndarray) -> np.ndarray:
        """Curves, [n, epochs]."""
        found: np.ndarray = np.stack([process(points) for process in self.processes], 1) @ self.axes + self.mean
        return found

    def curve(self, values: Mapping[str, Value], chance: random.Random) -> tuple[list[float], float]:
        """The scores after each epoch, and the seconds of one."""
        point = self.point(values)[None]
        scores = self.expected(point)[0] + self.residuals[chance.randrange(len(self.residuals))]
        return scores.tolist(), math.exp((self._terms(point) @ self.cost).item())

    @staticmethod
    def _terms(points: np.ndarray) -> np.ndarray:
        return np.concatenate([np.ones((len(points), 1)), points, points**2], 1)


def _share(distribution: Any, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    low, high = distribution.low, distribution.high
    return math.log(value / low) / math.log(high / low) if distribution.log else (value - low) / (high - low)


def replay(model: Model, settings: Tune, seconds: float, seed: int) -> tuple[list[tuple[float, float]], int]:
    """Shares of the time at which a search found something better, with what; and how many trials it began."""
    chance, spent, found = random.Random(seed), 0.0, list[tuple[float, float]]()  # noqa: S311 - no secret
    study = optuna.create_study(study_name=str(seed), direction="maximize", pruner=methods.pruner(settings))
    while spent < seconds:
        study.sampler = methods.sampler(settings, _APART * seed, len(study.trials))
        trial = study.ask()
        scores, epoch_seconds = model.curve(proposals.suggest(trial, settings.space), chance)
        state = None
        for epoch, score in enumerate(scores, 1):
            spent += epoch_seconds
            if spent > seconds:
                break
            trial.report(score, epoch)
            if epoch < len(scores) and trial.should_prune():
                state = TrialState.PRUNED
                break
        else:
            state = TrialState.COMPLETE
            if not found or scores[-1] > found[-1][1]:
                found.append((spent / seconds, scores[-1]))
        if state is not None:
            study.tell(trial, scores[-1] if state == TrialState.COMPLETE else None, state=state)
    return found, len(study.trials)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--space", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/defaults"))
    parser.add_argument("--rows", type=int)
    parser.add_argument("--configurations", type=int, default=60)
    parser.add_argument("--trainings", type=float, default=30, help="full trainings that a search has time for")
    parser.add_argument("--replays", type=int, default=40)
    parser.add_argument("--searches", nargs="+", default=_SEARCHES, help="sampler+pruner")
    options = parser.parse_args()
    changes = {} if options.space is None else {"space": YAML(typ="safe").load(options.space.read_text())}
    options.out.mkdir(parents=True, exist_ok=True)
    params = setting.world(options.params, options.out / "world", pruner="none", **changes)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = measured(options, params)
    model = Model(known, proposals.distributions(params.tune.space))

    def search(name: str, seed: int) -> tuple[list[tuple[float, float]], int]:
        sampler, pruner = name.split("+")
        settings = params.tune.model_copy(update={"sampler": sampler, "pruner": pruner})
        return replay(model, settings, options.trainings * model.training, seed)

    targets = [search("random+none", 1 + options.replays + seed)[0] for seed in range(options.replays)]
    goals = [found[-1][1] if found else -math.inf for found in targets]
    print(f"{len(known)} curves, time for {options.trainings:g} trainings, {options.replays} replays")
    print("| search | trials begun | best (median) | reached the target | share of the time by then: median | 75 % |")
    print("|---|---|---|---|---|---|")
    for name in options.searches:
        runs = [search(name, seed) for seed in range(options.replays)]
        best = statistics.median(found[-1][1] if found else -math.inf for found, _ in runs)
        reached = sorted(
            next((share for share, score in found if score >= goal), math.inf)
            for (found, _), goal in zip(runs, goals, strict=True)
        )
        ever = 100 * sum(map(math.isfinite, reached)) / len(reached)
        begun = statistics.mean(count for _, count in runs)
        quartile = reached[3 * len(reached) // 4]
        print(
            f"| {name} | {begun:.1f} | {best:.5f} | {ever:.0f} % | {statistics.median(reached):.2f} | {quartile:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
