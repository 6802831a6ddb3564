"""Room `tune`: search hyperparameters, keep the best checkpoints; the best one is the original model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import files, manifest, resume, workloads
from tasks.core.errors import MachineError
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.original import ENCODER, SPEC
from tasks.core.original import write as write_original
from tasks.core.stage import StageSettings
from tasks.tune import choose

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tasks.core.settings import Tune
    from tasks.tune.choose import Candidate
    from tasks.tune.objective import Objective
    from tasks.tune.trial import Runner


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave the trials' tables and page (:mod:`tasks.tune.tables`), ``best.json``, and the original model.

    It is ``encoder.json``, ``original.json``, ``models.json`` and the top-k checkpoints. A model under
    ``tune.start_from`` takes the place of the search (:mod:`tasks.tune.brought`).

    The first entry of ``models.json`` is the original model. The study itself is scratch, kept under
    ``<artifacts>/scratch/tune`` until the stage is complete, so that a killed search goes on where it stopped, be it
    with another budget or in another place. A study of other data, settings, code or libraries is never resumed.

    Raises:
        DataRejected: if the target holds a value that no class is.
        UsageError: if features, metric or model do not fit the data.
        MachineError: if CUDA was asked for and is not there, or the study's database does not answer.
        NotProven: if no trial completed, or none keeps to ``tune.limits``.
    """
    if settings.own.start_from:
        from tasks.tune import brought

        return brought.run(settings, inputs, out)
    return _search(settings, inputs, out)


def _search(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    from tasks.tune import database, proposals, search, tables, workers
    from tasks.tune import study as studies
    from tasks.tune.objective import Objective
    from tasks.tune.trial import Job

    data = manifest.read(inputs["validate"])
    own: Tune = settings.own
    workload = workloads.find(settings.base.workload)
    plugins = (workload, workloads.model(workload, own.model))
    scratch = resume.folder(settings, "tune", inputs["validate"], plugins, studies.FREE)
    started = time.perf_counter()
    job = Job.of(settings, data.facts, inputs["validate"], scratch)
    objective = Objective.prepare(job)
    better = objective.metric.higher_is_better
    about = {"the data": manifest.identity(inputs["validate"]), "base.seed": str(settings.base.seed)}
    about |= {"base.metric": objective.metric.name, "the code or a library": scratch.name.rpartition("-")[2]}
    study = studies.open_study(own, scratch, better, about)
    first = proposals.earlier(own, settings.root, better)
    if not own.runs_here:
        objective = workers.share(job, objective)
    with workers.runners(own, job, objective) as runners:
        settings.measured["workers"] = len(runners)
        trials = search.search(study, own, settings.base.seed, runners, first)
        settings.measured["search_seconds"] = round(time.perf_counter() - started, 2)
        ranking = choose.ranked(tables.candidates(trials), own, better)
        _train_again(settings, runners[0], scratch, ranking[: own.top_k], trials)
    roles, metrics, told = _keep_best(settings, objective, trials, ranking, out)
    with database.errors():
        tables.write(study, trials, ranking[0].trial, own, objective.metric.name, out)
    roles |= {name: role for name, role in tables.FILES.items() if (out / name).is_file()}
    _keep_study(settings, scratch)
    return manifest.build("tune", settings.hash, inputs, out, roles, metrics, told)


def _keep_study(settings: StageSettings, scratch: Path) -> None:
    """The study itself holds times, so it lies beside the records of runs: for `optuna-dashboard`."""
    from tasks.tune import study as studies

    if (path := studies.file_of(settings.own, scratch)) is not None:
        kept = settings.artifacts / "runs" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)


def _keep_best(
    settings: StageSettings, objective: Objective, trials: list[FrozenTrial], ranking: list[Candidate], out: Path
) -> tuple[dict[str, str], dict[str, float], dict[str, object]]:
    from tasks.tune import checkpoints

    params = {trial.number: trial.params for trial in trials}
    metric, models = objective.metric, []
    best = checkpoints.load(objective.folder, [one.trial for one in ranking[: settings.own.top_k]])
    for checkpoint in best:
        name = f"trial-{checkpoint.trial}.safetensors"
        shutil.copyfile(objective.folder / name, out / name)
        model = {key: getattr(checkpoint, key) for key in ("trial", "score", "values")}
        models.append({"file": name, **model})
    original = best[0]
    files.write_json(out / "models.json", models)
    kind = settings.own.model or objective.workload.default_model
    write_original(out, settings.base, objective.encoder, kind, str(models[0]["file"]), original.values)
    files.write_json(out / "best.json", {"trial": original.trial, "params": params[original.trial]})
    settings.measured["training_seconds"] = original.seconds
    log.info("tune: best of %d trials is %d: %s %.4f", len(trials), original.trial, metric.name, original.score)
    roles = {
        "best.json": "hyperparameters",
        "models.json": "spec",
        ENCODER: "encoder",
        SPEC: "spec",
        **{model["file"]: "checkpoint" for model in models},
    }
    metrics = {
        f"tune.validation_{metric.name}": original.score,
        "tune.trials": len(trials),
        "tune.completed": sum(trial.state.name == "COMPLETE" for trial in trials),
        "tune.parameters": objective.parameters(original.values),
    }
    return roles, metrics, {"features": objective.encoder.columns, "metric": metric.name, "model": kind}


def _train_again(
    settings: StageSettings, runner: Runner, scratch: Path, kept: list[Candidate], trials: list[FrozenTrial]
) -> None:
    """Train those of the kept trials whose weights are not here: a shared study may be older than this scratch.

    Raises:
        MachineError: if one breaks down.
    """
    from tasks.tune.proposals import resolve
    from tasks.tune.trial import Outcome, Report, Task

    params = {trial.number: trial.params for trial in trials}
    for number in (one.trial for one in kept if not (scratch / f"trial-{one.trial}.json").is_file()):
        log.info("tune: trial %d is trained again for its weights", number)
        values = resolve(settings.own.space, params[number].__getitem__)
        event = runner.begin(Task(number, settings.base.seed + number, values))
        while isinstance(event, Report):
            event = runner.go_on(False)
        assert isinstance(event, Outcome)  # noqa: S101 - a runner tells nothing else
        if event.state != "complete":
            raise MachineError(
                "the trials that are kept must be trained again for their weights, which are not on this machine",
                f"trial {number} {event.state}: {event.error}",
                "run again, or lower tune.top_k",
            )
