"""The search: Optuna proposes, runners train, until the budget is used up."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.settings import Tune
from tasks.core.space import Value
from tasks.tune import database, methods
from tasks.tune.proposals import Plan, Point, plan, suggest
from tasks.tune.study import LEFT, finished
from tasks.tune.trial import INTERRUPTED, LOSSES, Outcome, Report, Runner, Task, counts

#: The study's attribute with the seconds that the search has taken so far.
_SECONDS = "seconds"
#: On so many machines that were lost a configuration is tried.
_MOST_LOSSES = 3


def search(
    study: optuna.Study, settings: Tune, seed: int, runners: Sequence[Runner], first: list[Point] | None = None
) -> list[FrozenTrial]:
    """Run trials until the budget is used up; return all that are finished, by number.

    Args:
        study: of :func:`tasks.tune.study.open_study`.
        settings: the stage's section.
        seed: base seed; the sampler and each trial add the trial's number.
        runners: each runs a trial at a time. One works in this thread, several in threads of their own.
        first: configurations of the first trials.

    Raises:
        NotProven: if no trial completed.
        MachineError: if the study's database stops answering.
    """
    with database.errors(), _marked(study):
        conductor = _Conductor(study, settings, seed, first or [])
        if len(runners) == 1:
            conductor.work(runners[0])
        else:
            _in_threads(conductor, runners)
        trials = finished(study)
    values = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]
    if not values:
        raise _nothing(trials, settings)
    if len(values) > 1 and len(set(values)) == 1:
        log.warning(
            "tune: all %d completed trials reach exactly %s: either nothing that is searched matters, or the metric "
            "cannot tell one model from another on these validation rows",
            len(values), values[0],
        )  # fmt: skip
    return trials


@contextmanager
def _marked(study: optuna.Study) -> Iterator[None]:
    """Leave a mark in the study if the search ends in an orderly way before its time: no trial has killed it then."""
    if study.user_attrs.get(LEFT):
        study.set_user_attr(LEFT, False)
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit):
        with contextlib.suppress(Exception):  # the study may be what has failed, and the first error is to be told
            study.set_user_attr(LEFT, True)
        raise


def _in_threads(conductor: _Conductor, runners: Sequence[Runner]) -> None:
    with ThreadPoolExecutor(len(runners), "trials") as pool:
        try:
            running = [pool.submit(conductor.work, runner) for runner in runners]
            for done in wait(running, return_when=FIRST_EXCEPTION).done:
                done.result()
        except BaseException:
            conductor.abandon()
            for runner in runners:
                runner.close()
            raise


def _nothing(trials: list[FrozenTrial], settings: Tune) -> NotProven:
    rule = "a study needs at least one completed trial"
    if settings.minutes is not None and any(_ran_out_of_time(trial) for trial in trials):
        found = f"tune.minutes ({settings.minutes:g}) was over before a trial had trained its {settings.epochs} epochs"
        return NotProven(rule, found, "raise tune.minutes, or lower tune.epochs")
    if not trials:
        found = f"tune.minutes ({settings.minutes:g}) was over before the first began"
        return NotProven(rule, found, "raise tune.minutes")
    first = trials[0].user_attrs.get("error", trials[0].state.name)
    return NotProven(
        rule,
        f"all {len(trials)} failed or were pruned; the first: {first}",
        "narrow tune.space (smaller learning_rate), or raise tune.trials",
    )


def _ran_out_of_time(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("stopped") == "time"


def _is_spent(trial: FrozenTrial) -> bool:
    """Whether a trial has used up one of the budget: one that time cut short has not, once there is more time."""
    return counts(trial) and not _ran_out_of_time(trial)


class _Conductor:
    """Hands out trials and judges their epochs; one thread at a time proposes, and one at a time notes and judges."""

    def __init__(self, study: optuna.Study, settings: Tune, seed: int, first: list[Point]) -> None:
        self._study, self._settings, self._seed = study, settings, seed
        self._plan: Plan
        self._plan, self._wanted = plan(settings, seed, _first(study, first))
        self._of = f" of {self._wanted}" if self._wanted < sys.maxsize else ""
        self._lock = threading.RLock()
        # Hyperband makes its brackets when it first judges, while a proposal may look through them.
        self._proposing = self._lock if settings.pruner == "hyperband" else threading.RLock()
        self._running = 0
        self._abandoned = False
        self._began, self._done = time.monotonic(), 0
        self._before: float = study.user_attrs.get(_SECONDS, 0.0)

    def work(self, runner: Runner) -> None:
        """Run trials, one after the other, while there are any to run."""
        while (proposed := self._next()) is not None:
            trial, values = proposed
            event = runner.begin(Task(trial.number, self._seed + trial.number, values))
            while isinstance(event, Report):
                event = runner.go_on(self._hear(trial, event))
            self._tell(trial, event)

    def abandon(self) -> None:
        """Nothing that a runner says from now on is true of its trial."""
        with self._lock:
            self._abandoned = True

    def _next(self) -> tuple[optuna.trial.Trial, dict[str, Value]] | None:
        """The next trial and its configuration, while there is budget."""
        with self._proposing:  # which may take a while, and the others' epochs go on meanwhile
            with self._lock:
                trials = finished(self._study)
                spent = sum(map(_is_spent, trials)) + self._running
                if self._abandoned or spent >= self._wanted or self._is_over(trials):
                    return None
                self._running += 1
            known = self._study.get_trials(deepcopy=False)
            waiting = next((trial for trial in known if trial.state == TrialState.WAITING), None)
            number = len(known) if waiting is None else waiting.number
            self._study.sampler = methods.sampler(self._settings, self._seed, number)
            if waiting is None and (point := self._plan(sum(map(_is_spent, known)))) is not None:
                self._study.enqueue_trial(point)
            trial = self._study.ask()
            return trial, suggest(trial, self._settings.space)

    def _is_over(self, trials: list[FrozenTrial]) -> bool:
        """Whether the time is over, or nothing better has come for too long."""
        if self._time_is_over():
            return True
        if self._settings.patience is None:
            return False
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        better = max if self._study.direction.name == "MAXIMIZE" else min
        best = better(complete, key=lambda trial: trial.values[0], default=None)  # the first of equals
        return sum(best is None or trial.number > best.number for trial in trials) >= self._settings.patience

    def _time_is_over(self) -> bool:
        minutes = self._settings.minutes
        return minutes is not None and self._seconds() >= 60 * minutes

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._began

    def _keep_time(self) -> None:
        """Note how long the search has taken, for a search that goes on after a kill."""
        if self._settings.minutes is not None:
            self._study.set_user_attr(_SECONDS, self._seconds())

    def _hear(self, trial: optuna.trial.Trial, report: Report) -> bool:
        """Note an epoch's score; return whether the trial is to stop."""
        epochs = self._settings.epochs
        with self._lock:
            if self._abandoned:
                return True
            log.info(
                "tune: trial %d%s, epoch %d of %d: validation %.4f",
                trial.number + 1, self._of, report.epoch, epochs, report.score,
            )  # fmt: skip
            if len(self._study.directions) > 1:  # Trial.report is for one objective; a score after each epoch is plain
                trial.storage.set_trial_intermediate_value(trial._trial_id, report.epoch, report.score)
                hopeless = False
            else:
                trial.report(report.score, report.epoch)
                hopeless = report.epoch < epochs and trial.should_prune()
            self._keep_time()
            if report.epoch < epochs and self._time_is_over():
                trial.set_user_attr("stopped", "time")
                return True
            return hopeless

    def _tell(self, trial: optuna.trial.Trial, outcome: Outcome) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._running -= 1
            if outcome.state == "failed":
                again = outcome.lost and self._enqueue_again(trial)
                trial.set_user_attr("error", INTERRUPTED if again else outcome.error)
                self._study.tell(trial, state=TrialState.FAIL)
            elif outcome.state == "stopped" and len(self._study.directions) > 1:
                trial.set_user_attr("error", "tune.minutes was over")  # a pruned one means a single objective to Optuna
                self._study.tell(trial, state=TrialState.FAIL)
            elif outcome.state == "stopped":
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                assert outcome.score is not None, "a complete trial has a score"  # noqa: S101
                if outcome.costs:
                    trial.set_user_attr("costs", dict(outcome.costs))
                costs = [outcome.costs[name] for name in self._settings.objectives[1:]]
                self._study.tell(trial, [outcome.score, *costs])
            self._keep_time()
            self._done += 1
            self._say(trial, outcome)

    def _enqueue_again(self, trial: optuna.trial.Trial) -> bool:
        """Let a configuration whose machine was lost be tried once more; not for ever, as it may be why it was."""
        losses: int = trial.user_attrs.get(LOSSES, 0) + 1
        if losses < _MOST_LOSSES:
            self._study.enqueue_trial(trial.params, user_attrs={LOSSES: losses})
        return losses < _MOST_LOSSES

    def _say(self, trial: optuna.trial.Trial, outcome: Outcome) -> None:
        trials = finished(self._study)
        scores = {found.number: found.values[0] for found in trials if found.state == TrialState.COMPLETE}
        better = max if self._study.directions[0].name == "MAXIMIZE" else min
        best = f"best {better(scores.values()):.4f}" if scores else "none complete yet"
        said = f"{outcome.state} {outcome.score:.4f}" if outcome.score is not None else outcome.state
        log.info(
            "tune: trial %d %s%s; %d%s done, %s%s",
            trial.number + 1, said, f": {outcome.error}" if outcome.error else "", len(trials), self._of, best,
            self._left(len(trials)),
        )  # fmt: skip

    def _left(self, done: int) -> str:
        """How long the search will still take, as far as that can be told."""
        left = math.inf
        if self._of:
            left = (time.monotonic() - self._began) / self._done * (self._wanted - done)
        if self._settings.minutes is not None:
            left = min(left, 60 * self._settings.minutes - self._seconds())
        return f"; about {_spelt(max(0.0, left))} left" if left < math.inf else ""


def _first(study: optuna.Study, first: list[Point]) -> list[Point]:
    """The configurations that a study begins with: those that it began with, whatever their source holds by now."""
    if not study.get_trials(deepcopy=False) and first:
        study.set_user_attr("first", first)
    kept: list[Point] = study.user_attrs.get("first", [])
    if first != kept[: len(first)]:
        log.warning("tune: the search has begun already, and goes on without what tune.warm_start has now")
    return kept


def _spelt(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{math.ceil(seconds / 60)} min"
