"""The best metric on validation after the same wall-clock time: Assay's default and what most people write.

    python benchmarks/tuning/compare.py [--params FILE] [--space FILE] [--minutes 10] [--rows N] [--seeds 0 1 2]

See README.md beside it. A seed's methods run one after the other, in another order for each seed. What the folder has
of the same options is not measured again: seeds may run on several cores at a time, and one more call prints the table.
Remove the folder when the code has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import setting
from ruamel.yaml import YAML

from tasks.core import devices
from tasks.core.settings import Params
from tasks.tune import proposals, study
from tasks.tune.objective import Objective
from tasks.tune.search import search
from tasks.tune.trial import Job, Local, Report, Task

#: Seconds since the start, and the best complete trial's metric by then.
History = list[tuple[float, float]]
_MANY = 100_000
#: A trial's seed is the search's plus its number: searches of neighbouring seeds would be much the same one.
_APART = 1_000_003
_METHODS: dict[str, dict[str, Any]] = {
    "Assay": {},
    "grid": {"sampler": "grid", "pruner": "none"},
    "random": {"sampler": "random", "pruner": "none"},
    "TPE": {"sampler": "tpe", "pruner": "none"},
}
_ALL = (*_METHODS, "Ray Tune")


def ours(params: Params, objective: Objective, folder: Path, seed: int) -> History:
    """A search through Assay's runner, until its time is over."""
    began = time.time()
    trials = search(study.open_study(params.tune, folder), params.tune, seed, [Local(objective.train)])
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    print(f"{len(trials)} trials begun, {len(complete)} trained to the end", flush=True)
    return best_so_far([(trial.datetime_complete.timestamp() - began, trial.values[0]) for trial in complete])


def best_so_far(scores: History) -> History:
    """The times at which the best got better, for a metric of which more is better."""
    found: History = []
    for moment, score in sorted(scores):
        if not found or score > found[-1][1]:
            found.append((moment, score))
    return found


def by_ray_tune(params: Params, job: Job, minutes: float, seed: int) -> History:
    """Ray Tune as its documentation sets it up: ASHA stops trials, Optuna proposes; one trial at a time.

    Its time begins when its worker has loaded the rows, as that of the others does.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    known, cores = proposals.distributions(params.tune.space), devices.cores()
    start = job.folder / "start"
    kept: dict[str, Objective] = {}  # a worker that is used again keeps its rows

    def train(config: dict[str, Any]) -> None:
        if "objective" not in kept:
            kept["objective"] = Objective.prepare(job)
        if not start.exists():
            start.write_text(str(time.time()))
        runner = Local(kept["objective"].train)
        values = proposals.resolve(params.tune.space, config.__getitem__)
        event = runner.begin(Task(0, seed, values))
        while isinstance(event, Report):
            moment = time.time() - float(start.read_text())
            tune.report({"score": event.score, "epoch": event.epoch, "moment": moment})
            event = runner.go_on(False)

    class Over(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return start.exists() and time.time() - float(start.read_text()) > 60 * minutes

    ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        results = tune.Tuner(
            tune.with_resources(train, {"cpu": cores}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(space=known, metric="score", mode="max", seed=seed),
                scheduler=ASHAScheduler(metric="score", mode="max", max_t=params.tune.epochs, grace_period=1),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(storage_path=str(job.folder.absolute() / "ray"), verbose=0, stop=Over()),
        ).fit()
    finally:
        ray.shutdown()
    told = [result.metrics or {} for result in results]
    ended = [one for one in told if one.get("epoch") == params.tune.epochs and one["moment"] <= 60 * minutes]
    print(f"Ray Tune: {len(told)} trials begun, {len(ended)} trained to the end", flush=True)
    return best_so_far([(metrics["moment"], metrics["score"]) for metrics in ended])


def at(history: History, target: float) -> float:
    """Seconds until the target was reached."""
    return next((moment for moment, score in history if score >= target), math.inf)


def kept(options: argparse.Namespace, name: str, seed: int) -> History:
    """A method's history, measured now unless the folder has it of the same options."""
    path = options.out / f"{name.replace(' ', '-')}-{seed}.json"
    told = ("rows", "validation_rows", "minutes", "epochs", "batch_size")
    about = {option: getattr(options, option) for option in told}
    about |= {"params": options.params.read_text(), "space": options.space and options.space.read_text()}
    if path.is_file() and (known := json.loads(path.read_text()))["about"] == about:
        return [(moment, score) for moment, score in known["history"]]
    history = measured(options, name, seed)
    path.write_text(json.dumps({"about": about, "history": history}, indent=1))
    return history


def measured(options: argparse.Namespace, name: str, seed: int) -> History:
    """A search by one method."""
    root = options.out / f"{name.replace(' ', '-')}-{seed}"
    changes = _METHODS.get(name, {}) | {"minutes": options.minutes, "trials": _MANY}
    changes |= {option: value for option in ("epochs", "batch_size") if (value := getattr(options, option)) is not None}
    if options.space is not None:
        changes["space"] = YAML(typ="safe").load(options.space.read_text(encoding="utf-8"))
    params = setting.world(options.params, root, **changes)
    job = setting.job(params, root)
    if options.rows is not None:
        setting.thin(root, options.rows)
    if options.validation_rows is not None:
        setting.thin(root, options.validation_rows, "validation")
    if name == "Ray Tune":
        return by_ray_tune(params, job, options.minutes, _APART * seed)
    objective = Objective.prepare(job)
    assert objective.metric.higher_is_better, "choose an example whose metric grows"
    return ours(params, objective, root / "study", _APART * seed)


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, History]:
    """Every method's history."""
    found: dict[str, History] = {}
    names = [name for name in _ALL if name == "random" or name in options.methods]
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        found[name] = kept(options, name, seed)
        print(f"seed {seed}: {name}: {found[name][-1] if found[name] else 'nothing complete'}", flush=True)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, default=Path("build/compare"))
    parser.add_argument("--space", type=Path, help="what is searched, instead of the params file's own `tune.space`")
    parser.add_argument("--rows", type=int, help="train on so many rows, drawn at random, so that more trials fit")
    parser.add_argument("--validation-rows", type=int, help="choose by so many rows, drawn at random")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--epochs", type=int, help="of a full training, instead of the params file's own")
    parser.add_argument("--batch-size", type=int, help="so that few rows make enough steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--methods", nargs="+", choices=_ALL, default=_ALL, help="these alone, and always random search"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [one_seed(options, seed) for seed in options.seeds]
    median: Callable[[list[float]], float] = statistics.median
    targets = [run["random"][-1][1] if run["random"] else -math.inf for run in runs]
    print(
        "| method | best on validation | minutes to random's final value | share of random's time "
        "| share of the budget |\n|---|---|---|---|---|"
    )
    for name in runs[0]:
        best = median([run[name][-1][1] if run[name] else math.nan for run in runs])
        reached = [at(run[name], target) for run, target in zip(runs, targets, strict=True)]
        shares = [mine / at(run["random"], target) for mine, run, target in zip(reached, runs, targets, strict=True)]
        minutes = median(reached) / 60
        print(f"| {name} | {best:.5f} | {minutes:.2f} | {median(shares):.2f} | {minutes / options.minutes:.2f} |")


if __name__ == "__main__":
    main()
