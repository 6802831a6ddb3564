"""The search: Optuna proposes, the training answers, and a killed study goes on where it stopped.

The trial that was running when the process died is forgotten and run again under its own number, and the sampler is
seeded anew before each proposal; so a resumed study proposes and prunes what the uninterrupted one would have.
"""

from __future__ import annotations

import csv
import functools
import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.trial import FrozenTrial, TrialState

from tasks.core.errors import NotProven
from tasks.core.sections import Section
from tasks.core.settings import Tune
from tasks.core.space import Choice, FloatRange, whole

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_REDUCTION_FACTOR = 3
_STARTUP_TRIALS = 4

_FILES = {"journal": "study.log", "sqlite": "study.db"}

Objective = Callable[[optuna.trial.Trial, Mapping[str, Any]], float]


def open_study(settings: Tune, folder: Path, higher_is_better: bool = True) -> optuna.Study:
    """The study kept in ``folder``, created if it is not there (journal or SQLite); it holds finished trials only.

    An unfinished trial is left behind, not resumed: the parameters and pruner's marks that it has already stored would
    change its own course and that of the trials after it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILES[settings.storage]
    study = _load(settings, path, higher_is_better)
    finished = study.get_trials(states=_FINISHED)
    if len(finished) < len(study.get_trials(deepcopy=False)):
        fresh = path.with_name(f"fresh-{path.name}")
        fresh.unlink(missing_ok=True)
        _load(settings, fresh, higher_is_better).add_trials(finished)
        fresh.replace(path)
        study = _load(settings, path, higher_is_better)
    return study


def _load(settings: Tune, path: Path, higher_is_better: bool) -> optuna.Study:
    return optuna.create_study(
        storage=_storage(settings.storage, path),
        study_name="tune",
        direction="maximize" if higher_is_better else "minimize",
        pruner=_pruner(settings),
        load_if_exists=True,
    )


def search(study: optuna.Study, settings: Tune, seed: int, objective: Objective) -> list[FrozenTrial]:
    """Run trials until the study holds ``settings.trials`` finished ones; return all of them, by number.

    Raises:
        NotProven: if no trial completed.
    """
    grid = _grid(settings.space, seed) if settings.sampler == "grid" else None
    wanted = settings.trials if grid is None else min(settings.trials, len(grid))
    while (number := len(study.get_trials(deepcopy=False, states=_FINISHED))) < wanted:
        study.sampler = _sampler(settings.sampler, seed + number)
        trial = _next_trial(study, None if grid is None else grid[number])
        _run_trial(study, trial, settings.space, objective)
    trials = study.get_trials(deepcopy=False, states=_FINISHED)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        first = trials[0].user_attrs.get("error", trials[0].state.name)
        raise NotProven(
            "a study needs at least one completed trial",
            f"all {len(trials)} failed or were pruned; the first: {first}",
            "narrow tune.space (smaller learning_rate), or raise tune.trials",
        )
    return trials


def _next_trial(study: optuna.Study, point: Mapping[str, Any] | None) -> optuna.trial.Trial:
    if point is not None:
        study.enqueue_trial(dict(point))
    return study.ask()


def _run_trial(study: optuna.Study, trial: optuna.trial.Trial, space: Section, objective: Objective) -> None:
    try:
        value = objective(trial, suggest(trial, space))
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except FloatingPointError as error:
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, value)


def suggest(trial: optuna.trial.Trial, space: Section) -> dict[str, Any]:
    """A value for every hyperparameter: fixed ones as they are, the others proposed by the study."""
    values: dict[str, Any] = {}
    for name in type(space).model_fields:
        option = getattr(space, name)
        if isinstance(option, FloatRange) and name in whole(type(space)):
            values[name] = trial.suggest_int(name, int(option.low), int(option.high), log=option.log)
        elif isinstance(option, FloatRange):
            values[name] = trial.suggest_float(name, option.low, option.high, log=option.log)
        elif isinstance(option, Choice):
            values[name] = trial.suggest_categorical(name, list(option.choices))
        else:
            values[name] = option
    return values


def write_trials(trials: list[FrozenTrial], path: Path, better: Callable[[float, float], float] = max) -> None:
    """The trials as CSV: trial, state, value (on validation), best so far, epochs run, and each searched parameter."""
    names = sorted({name for trial in trials for name in trial.params})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", "state", "value", "best", "epochs", *names])
        best = None
        for trial in trials:
            last = functools.reduce(better, trial.intermediate_values.values()) if trial.intermediate_values else None
            value = trial.value if trial.value is not None else last
            if trial.state == TrialState.COMPLETE and value is not None:
                best = value if best is None else better(best, value)
            parameters = [trial.params.get(name, "") for name in names]
            row: list[Any] = [trial.number, trial.state.name.lower(), value, best, len(trial.intermediate_values)]
            writer.writerow([*row, *parameters])


def _storage(kind: str, path: Path) -> optuna.storages.BaseStorage:
    if kind == "sqlite":
        from sqlalchemy.pool import NullPool

        return optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"poolclass": NullPool})
    _cut_half_line(path)
    return JournalStorage(JournalFileBackend(str(path), _NoLock(str(path))))


class _NoLock(JournalFileSymlinkLock):
    """The stage's own lock keeps other writers out; Optuna's lock file would outlive a kill, and stop the next run."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


def _cut_half_line(journal: Path) -> None:
    """Drop a last line that a full disk or a kill cut short: whatever is appended to it would be lost."""
    if not journal.is_file():
        return
    whole = journal.read_bytes().rfind(b"\n") + 1
    with journal.open("r+b") as file:
        file.truncate(whole)


def _pruner(settings: Tune) -> optuna.pruners.BasePruner:
    if settings.pruner == "none":
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=settings.epochs, reduction_factor=_REDUCTION_FACTOR
    )


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
    return optuna.samplers.RandomSampler(seed=seed)


def _grid(space: Section, seed: int) -> list[dict[str, Any]]:
    """Every combination, shuffled by seed so that a budget below the grid's size still covers all of it.

    Optuna's GridSampler is not used: outside ``Study.optimize`` it raises at its last point.
    """
    options = {name: _values(getattr(space, name), name in whole(type(space))) for name in type(space).model_fields}
    searched = {name: values for name, values in options.items() if values}
    points = [dict(zip(searched, values, strict=True)) for values in itertools.product(*searched.values())]
    random.Random(seed).shuffle(points)  # noqa: S311 - an order, not a secret
    return points


def _values(option: object, rounded: bool) -> list[Any]:
    if isinstance(option, Choice):
        return list(option.choices)
    if not isinstance(option, FloatRange):
        return []
    shares = [index / (option.points - 1) for index in range(option.points)]
    if option.log:
        values = [min(option.low * (option.high / option.low) ** share, option.high) for share in shares]
    else:
        values = [min(option.low + (option.high - option.low) * share, option.high) for share in shares]
    return sorted({round(value) for value in values}) if rounded else values
