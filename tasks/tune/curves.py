"""What a stopped trial's curve promises, and proposals that learn from it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from tasks.tune.trial import counts

#: No trial counts as worse than so many times as far from the best as the median is: beside a loss of 1e5 all others
#: would be alike to what learns from distances.
_FARTHEST = 10
#: So many pairs' worth is the assumption that a score's lead of now will be its lead in the end.
_PAIRS_OF_SLOPE_1 = 2


class AsEnded(optuna.samplers.BaseSampler):
    """Proposes as ``sampler`` would if every stopped trial had been trained to its end.

    A Gaussian process leaves stopped trials out, which are most of a search; TPE holds the worst of those that went on
    above the best of those that did not. A trial that failed counts as the worst there is, so that no place where
    training diverges is tried again and again.

    Args:
        sampler: proposes what is searched whatever else is chosen.
        conditional: proposes a conditional hyperparameter whose condition holds.
        space: what is searched whatever else is chosen.
    """

    def __init__(
        self,
        sampler: optuna.samplers.BaseSampler,
        conditional: optuna.samplers.BaseSampler,
        space: Mapping[str, BaseDistribution],
    ) -> None:
        self._sampler, self._conditional, self._space = sampler, conditional, dict(space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """See ``optuna.samplers.BaseSampler``."""
        return self._space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See ``optuna.samplers.BaseSampler``."""
        if not search_space:
            return {}
        known = study.get_trials(deepcopy=False)
        whole = [one for one in known if one.number != trial.number and search_space.keys() <= one.params.keys()]
        ended = as_ended(whole, study.direction)
        ended.sampler = self._sampler
        return ended.ask(search_space).params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See ``optuna.samplers.BaseSampler``."""
        return self._conditional.sample_independent(study, trial, param_name, param_distribution)


def as_ended(trials: Sequence[FrozenTrial], direction: StudyDirection) -> optuna.Study:
    """A study, in memory, of these trials as if none had been stopped or had failed; what is running stays so."""
    values = promises(trials, direction)
    ended = optuna.create_study(direction=direction)
    for trial in trials:
        state = TrialState.COMPLETE if trial.number in values else trial.state
        if state in (TrialState.COMPLETE, TrialState.RUNNING):
            value = values.get(trial.number)
            ended.add_trial(
                optuna.trial.create_trial(
                    state=state, params=trial.params, distributions=trial.distributions, value=value
                )
            )
    return ended


def promises(trials: Sequence[FrozenTrial], direction: StudyDirection) -> dict[int, float]:
    """What each trial that is over has reached, or would have, by its number.

    A stopped trial: what a line through the complete ones, from their scores after its last epoch to their values, says
    of its last score, but never more than the best of them. A failed one: the worst of all others. One that was left
    behind has none.
    """
    sign = 1 if direction == StudyDirection.MAXIMIZE else -1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    found = {trial.number: sign * trial.values[0] for trial in complete}
    best = max(found.values(), default=math.inf)
    for trial in trials:
        if trial.state == TrialState.PRUNED and (epoch := trial.last_step) is not None:
            curves = ((other.intermediate_values, other.values[0]) for other in complete)
            pairs = [(curve[epoch], value) for curve, value in curves if epoch in curve]
            found[trial.number] = min(sign * _on_the_line(trial.intermediate_values[epoch], pairs), best)
    if found:
        worst = min(found.values())
        found |= {trial.number: worst for trial in trials if trial.state == TrialState.FAIL and counts(trial)}
        lowest = _lowest(list(found.values()))
        found = {number: sign * max(value, lowest) for number, value in found.items()}
    return found


def _on_the_line(score: float, pairs: Sequence[tuple[float, float]]) -> float:
    """The value that a score promises, by pairs of a score at the same epoch and the value that came of it.

    The line's slope is that of least squares, which is small where early scores say little, held between 0 and 1, and,
    as long as there are few pairs, near 1: what has come so far stays.
    """
    if not pairs:
        return score
    scores, values = zip(*pairs, strict=True)
    slope = 1.0
    if len(set(scores)) > 1:
        fitted = min(max(statistics.linear_regression(scores, values).slope, 0.0), 1.0)
        slope = (len(pairs) * fitted + _PAIRS_OF_SLOPE_1) / (len(pairs) + _PAIRS_OF_SLOPE_1)
    return statistics.fmean(values) + slope * (score - statistics.fmean(scores))


def _lowest(values: Sequence[float]) -> float:
    best = max(values)
    others = [value for value in values if value < best]
    return best - _FARTHEST * (best - statistics.median(others)) if others else best
