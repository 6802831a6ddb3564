"""The study: where trials are kept, and how a killed search goes on where it stopped.

A trial that was running when the process died is put back to its place in the queue, with its own configuration, and
the sampler is seeded anew before each proposal; so a resumed study proposes and prunes what the uninterrupted one
would have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tasks.core.errors import UsageError
from tasks.core.sections import Section
from tasks.core.settings import Tune
from tasks.core.space import options
from tasks.tune import database, methods
from tasks.tune.proposals import resolve
from tasks.tune.trial import INTERRUPTED, LOSSES, counts

_FILES = {"journal": "study.log", "sqlite": "study.db"}
_NAME = "tune"
#: The attribute of a trial with which the process was killed that says after how many epochs, and how often there.
_DEATHS = "deaths"
#: The study's attribute: whether the search was left by an error or an interrupt, and not killed.
LEFT = "left"
#: Settings that say how long and where to search, and which of the trials to take: a search goes on if they change.
FREE = {"trials", "minutes", "patience", "pick", "executor", "workers", "top_k"}
#: With them: settings that say how to search, and nothing of what a trial's result means.
_OF_THE_SEARCH = {
    *FREE, "limits", "sampler", "pruner", "warm_start", "warm_start_trials", "storage", "study", "start_from", "output",
    "space",
}  # fmt: skip
#: A trial in whose same epoch the process died so often is not run again.
_MOST_DEATHS = 3


def open_study(
    settings: Tune, folder: Path, higher_is_better: bool = True, about: Mapping[str, str] | None = None
) -> optuna.Study:
    """The study of a search, created if it is not there; its trials are finished, or wait to be run again.

    Args:
        settings: the stage's section.
        folder: where a study in a file lies; its name stands for these settings, data and code.
        higher_is_better: the metric's direction; costs are made small.
        about: the data, the seed and whatever else a trial's result depends on, apart from ``settings``.

    Raises:
        UsageError: if the study in the shared database is one of another space, or about something else.
        MachineError: if the database does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with database.errors():
        if settings.storage == "shared":
            return _open_shared(settings, folder, higher_is_better, about or {})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _FILES[settings.storage]
        study = _load(settings, _file_storage(settings.storage, path), _NAME, higher_is_better)
        if study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            fresh = path.with_name(f"fresh-{path.name}")
            fresh.unlink(missing_ok=True)
            _copy(study, _load(settings, _file_storage(settings.storage, fresh), _NAME, higher_is_better), settings)
            fresh.replace(path)
            study = _load(settings, _file_storage(settings.storage, path), _NAME, higher_is_better)
        return study


def _copy(study: optuna.Study, fresh: optuna.Study, settings: Tune) -> None:
    """Give a fresh study, alone in its file, all that a study holds, with trials to be run again in their places."""
    for key, value in study.user_attrs.items():
        fresh.set_user_attr(key, value)
    # Samplers of populations note the parents there, by the trials' ids, which are the same in both files.
    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        fresh._storage.set_study_system_attr(fresh._study_id, key, value)
    killed = _was_killed(study, settings)
    fresh.add_trials([_in_its_place(trial, settings.space, killed) for trial in study.get_trials(deepcopy=False)])


def file_of(settings: Tune, folder: Path) -> Path | None:
    """The file that holds the study, unless it is in a database."""
    return folder / _FILES[settings.storage] if settings.storage in _FILES else None


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were run to an end, by number."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and counts(trial)]


def _was_killed(study: optuna.Study, settings: Tune) -> bool:
    """Whether the process in which trials run was killed, which the trial itself may have brought about."""
    return settings.runs_here and not study.user_attrs.get(LEFT)


def _in_its_place(trial: FrozenTrial, space: Section, killed: bool) -> FrozenTrial:
    """A finished trial as it is; another one as it was when it was asked for, to be run again under its number.

    It has failed where the process was killed in the same epoch each time: a trial that takes the whole machine's
    memory would end the search for ever. The configuration is kept if it was complete: a sampler that is asked for half
    of it would draw other values. What the sampler noted is kept with it; the pruner's marks and the epochs' scores
    would change the trial's own course.
    """
    if trial.state.is_finished():
        return trial
    system_attrs = {"fixed_params": trial.system_attrs.get("fixed_params", {})}
    if _is_complete(trial.params, space):
        noted = {key: value for key, value in trial.system_attrs.items() if not key.startswith("completed_rung")}
        system_attrs = noted | {"fixed_params": trial.params}
    if killed and trial.state == TrialState.RUNNING:
        system_attrs[_DEATHS] = deaths = _deaths(trial)
        if deaths["count"] == _MOST_DEATHS:
            return _failed(trial, f"the process was killed in this epoch {_MOST_DEATHS} times: did memory run out?")
    losses = {key: value for key, value in trial.user_attrs.items() if key == LOSSES}
    return optuna.trial.create_trial(state=TrialState.WAITING, system_attrs=system_attrs, user_attrs=losses)


def _deaths(trial: FrozenTrial) -> dict[str, int]:
    """After how many epochs of the trial the process was killed, this time included, and how often there."""
    epochs, before = len(trial.intermediate_values), trial.system_attrs.get(_DEATHS, {})
    return {"epochs": epochs, "count": before["count"] + 1 if before.get("epochs") == epochs else 1}


def _failed(trial: FrozenTrial, error: str) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.FAIL,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={"error": error},
        intermediate_values=trial.intermediate_values,
    )


def _is_complete(params: Mapping[str, Any], space: Section) -> bool:
    try:
        resolve(space, lambda name: params[name])
    except KeyError:
        return False
    return True


def _load(settings: Tune, storage: optuna.storages.BaseStorage, name: str, higher_is_better: bool) -> optuna.Study:
    maximize, minimize = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    costs = [minimize] * (len(settings.objectives) - 1)
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=[maximize if higher_is_better else minimize, *costs],
        pruner=methods.pruner(settings),
        load_if_exists=True,
    )


def _file_storage(kind: str, path: Path) -> optuna.storages.BaseStorage:
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


def _open_shared(settings: Tune, folder: Path, higher_is_better: bool, about: Mapping[str, str]) -> optuna.Study:
    """The study in the database. A trial that was being run when its stage died goes back to its place in the queue.

    Through a proxy, which can take nothing back, it is marked instead, and stays.
    """
    storage = database.storage()
    name = settings.study or folder.name
    database.keep(storage, name)
    known = {found.study_name for found in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    study = _load(settings, storage, name, higher_is_better)
    if study.get_trials(deepcopy=False) or "about" in study.user_attrs:
        _check_same(study, settings, about, known)
    else:
        study.set_user_attr("space", _spelt(settings.space))
        study.set_user_attr("about", _about(settings, about))
    killed = _was_killed(study, settings)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        fresh = _in_its_place(trial, settings.space, killed)
        if fresh.state == TrialState.FAIL or not database.replaced(storage, trial, fresh):
            storage.set_trial_user_attr(trial._trial_id, "error", fresh.user_attrs.get("error", INTERRUPTED))
            study.tell(trial.number, state=TrialState.FAIL)
    return _load(settings, storage, name, higher_is_better)


def _check_same(study: optuna.Study, settings: Tune, about: Mapping[str, str], known: set[str]) -> None:
    before, now = study.user_attrs.get("space", {}), _spelt(settings.space)
    changed = [
        f"{name} was {before.get(name, 'absent')} and is {now.get(name, 'absent')}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    before, now = study.user_attrs.get("about", {}), _about(settings, about)
    changed += [f"{name} changed" for name in now if before.get(name) != now[name]]
    if not changed:
        return
    free = next(name for number in range(2, len(known) + 3) if (name := f"{study.study_name}-{number}") not in known)
    raise UsageError(
        "a study goes on with the space, the data and the training that it began with",
        f"{study.study_name}: " + "".join(f"\n    - {change}" for change in changed),
        f"set `tune.study: {free}`; `tune.warm_start` begins it with the best of an earlier search",
    )


def _spelt(space: Section) -> dict[str, str]:
    return {name: str(option) for name, option in options(space).items()}


def _about(settings: Tune, about: Mapping[str, str]) -> dict[str, str]:
    chosen = settings.model_dump(mode="json", exclude=_OF_THE_SEARCH)
    return dict(about) | {f"tune.{name}": str(value) for name, value in chosen.items()}
