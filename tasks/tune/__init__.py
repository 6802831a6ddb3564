"""Room `tune`: search hyperparameters, keep the best checkpoints; the best one is the original model."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import files, manifest, record, workloads
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
    identity = f"{settings.hash[:16]}-{manifest.identity(inputs['validate'])[:16]}-{_code(settings)[:16]}"
    scratch = settings.scratch / "tune" / identity
    _forget_other_studies(scratch)
    started = time.perf_counter()
    objective = Objective.prepare(settings, data.facts, inputs["validate"], scratch)
    study = studies.open_study(settings.own, scratch, objective.metric.higher_is_better)
    trials = studies.search(study, settings.own, settings.base.seed, objective)
    settings.measured["search_seconds"] = round(time.perf_counter() - started, 2)

    studies.write_trials(trials, out / "trials.csv", max if objective.metric.higher_is_better else min)
    result = _keep_best(settings, objective, trials, out)
    return manifest.build("tune", settings.hash, inputs, out, *result)


def _code(settings: StageSettings) -> str:
    """Hash of what else decides a trial's result: the core's and this room's code, plug-ins', and libraries."""
    workload = workloads.find(settings.base.workload)
    plugins = [_sources(found) for found in (workload, workloads.model(workload, settings.own.model))]
    own = [sorted(folder.rglob("*.py")) for folder in (Path(__file__).parent, Path(record.__file__).parent)]
    digest = hashlib.sha256(json.dumps(record.versions(), sort_keys=True).encode())
    for path in (path for family in (*own, *plugins) for path in family):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(plugin: object) -> list[Path]:
    """The files of the package that a workload or model is written in; a module outside of any is alone."""
    name = type(plugin).__module__
    path = Path(str(sys.modules[name].__file__))
    return sorted(path.parent.glob("*.py")) if path.name == "__init__.py" or "." in name else [path]


def _forget_other_studies(study: Path) -> None:
    if study.parent.is_dir():
        for other in study.parent.iterdir():
            if other != study:
                shutil.rmtree(other)


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
