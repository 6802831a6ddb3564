"""Proposals that learn from stopped trials, too: each counts with what its curve promises for its last epoch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tasks.tune.trial import counts

Space = Mapping[str, BaseDistribution]
#: A Gaussian process of more trials than this takes its time, and TPE has enough to learn from.
_MANY = 200


class Promised(optuna.samplers.BaseSampler):
    """Proposes as ``sampler`` would if every stopped trial had been trained to its end.

    A Gaussian process leaves stopped trials out, which are most of a search; TPE holds the worst of those that went on
    above the best of those that did not. A trial that failed counts as the worst there is, so that no place where
    training diverges is tried again and again.

    Args:
        sampler: proposes what is searched whatever else is chosen, as long as there are few trials.
        other: proposes it when there are many, and always a conditional hyperparameter whose condition holds.
        space: what is searched whatever else is chosen.
    """

    def __init__(self, sampler: optuna.samplers.BaseSampler, other: optuna.samplers.BaseSampler, space: Space) -> None:
        self._sampler, self._other, self._space = sampler, other, dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """See ``optuna.samplers.BaseSampler``."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``optuna.samplers.BaseSampler``."""
        if not search_space:
            return {}
        before = [known for known in study.get_trials(deepcopy=False) if known.number != trial.number]
        ended = optuna.create_study(direction=study.direction)
        ended.sampler = self._sampler if len(before) < _MANY else self._other
        ended.add_trials(as_ended(before, study.direction, search_space))
        return ended.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``optuna.samplers.BaseSampler``."""
        return self._other.sample_independent(study, trial, param_name, param_distribution)


def as_ended(trials: Sequence[FrozenTrial], direction: StudyDirection, space: Space) -> list[FrozenTrial]:
    """Trials of this space as if none had been stopped or had failed; those that are running stay as they are."""
    values = promises(trials, direction)
    found: list[FrozenTrial] = []
    for trial in trials:
        if not space.keys() <= trial.params.keys():
            continue
        params = {name: trial.params[name] for name in space}
        if trial.number in values:
            value = values[trial.number]
            found.append(optuna.trial.create_trial(params=params, distributions=dict(space), value=value))
        elif trial.state == TrialState.RUNNING:
            found.append(optuna.trial.create_trial(state=trial.state, params=params, distributions=dict(space)))
    return found


def promises(trials: Sequence[FrozenTrial], direction: StudyDirection) -> dict[int, float]:
    """What each trial that is over has reached, or would have, by its number.

    A stopped trial: its last score, and what the complete ones gained after that epoch (the median), but never more
    than the best of them. A failed one: the worst of all others. One that was left behind has none.
    """
    better, worse = (max, min) if direction == StudyDirection.MAXIMIZE else (min, max)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = better((trial.values[0] for trial in complete), default=None)
    found = {trial.number: trial.values[0] for trial in complete}
    for trial in trials:
        if trial.state != TrialState.PRUNED or (epoch := trial.last_step) is None:
            continue
        gains = [
            other.values[0] - other.intermediate_values[epoch]
            for other in complete
            if epoch in other.intermediate_values
        ]
        promised = trial.intermediate_values[epoch] + (statistics.median(gains) if gains else 0.0)
        found[trial.number] = promised if best is None else worse(promised, best)
    if found:
        worst = worse(found.values())
        found |= {trial.number: worst for trial in trials if trial.state == TrialState.FAIL and counts(trial)}
    return found
