"""Room `tune`: search hyperparameters, keep the best checkpoints; the best one is the original model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import files, manifest, resume, workloads
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.original import ENCODER, SPEC
from tasks.core.original import write as write_original
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tasks.tune.objective import Objective


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``trials.csv``, ``best.json``, ``encoder.json``, ``original.json``, ``models.json``, the top-k checkpoints.

    A model under ``tune.start_from`` takes the place of the search (:mod:`tasks.tune.brought`).

    The first entry of ``models.json`` is the original model. The study itself is scratch, kept under
    ``<artifacts>/scratch/tune`` until the stage is complete, so that a killed search goes on where it stopped. A study
    of other data, settings, code or libraries is never resumed.

    Raises:
        DataRejected: if the target holds a value that no class is.
        UsageError: if features, metric or model do not fit the data.
        MachineError: if CUDA was asked for and is not there.
        NotProven: if no trial completed.
    """
    if settings.own.start_from:
        from tasks.tune import brought

        return brought.run(settings, inputs, out)
    from tasks.tune import study as studies
    from tasks.tune.objective import Objective

    data = manifest.read(inputs["validate"])
    workload = workloads.find(settings.base.workload)
    plugins = (workload, workloads.model(workload, settings.own.model))
    scratch = resume.folder(settings, "tune", inputs["validate"], plugins)
    started = time.perf_counter()
    objective = Objective.prepare(settings, data.facts, inputs["validate"], scratch)
    study = studies.open_study(settings.own, scratch, objective.metric.higher_is_better)
    trials = studies.search(study, settings.own, settings.base.seed, objective)
    settings.measured["search_seconds"] = round(time.perf_counter() - started, 2)

    studies.write_trials(trials, out / "trials.csv", max if objective.metric.higher_is_better else min)
    result = _keep_best(settings, objective, trials, out)
    return manifest.build("tune", settings.hash, inputs, out, *result)


def _keep_best(
    settings: StageSettings, objective: Objective, trials: list[FrozenTrial], out: Path
) -> tuple[dict[str, str], dict[str, float], dict[str, object]]:
    from tasks.tune import checkpoints

    completed = {trial.number: trial for trial in trials if trial.state.name == "COMPLETE"}
    metric = objective.metric
    best = checkpoints.best(objective.folder, list(completed), settings.own.top_k, metric.higher_is_better)
    models = []
    for checkpoint in best:
        name = f"trial-{checkpoint.trial}.safetensors"
        shutil.copyfile(objective.folder / name, out / name)
        model = {key: getattr(checkpoint, key) for key in ("trial", "score", "values")}
        models.append({"file": name, **model})
    original = best[0]
    files.write_json(out / "models.json", models)
    kind = settings.own.model or objective.workload.default_model
    write_original(out, settings.base, objective.encoder, kind, str(models[0]["file"]), original.values)
    files.write_json(out / "best.json", {"trial": original.trial, "params": completed[original.trial].params})
    settings.measured["training_seconds"] = original.seconds
    log.info("tune: best of %d trials is %d: %s %.4f", len(trials), original.trial, metric.name, original.score)
    roles = {
        "trials.csv": "trials",
        "best.json": "hyperparameters",
        "models.json": "spec",
        ENCODER: "encoder",
        SPEC: "spec",
        **{model["file"]: "checkpoint" for model in models},
    }
    metrics = {
        f"tune.validation_{metric.name}": original.score,
        "tune.trials": len(trials),
        "tune.completed": len(completed),
        "tune.parameters": objective.parameters(original.values),
    }
    return roles, metrics, {"features": objective.encoder.columns, "metric": metric.name, "model": kind}
