"""Samplers and pruners by their names in a params file."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import optuna

from tasks.core.settings import Tune
from tasks.tune import curves
from tasks.tune.proposals import distributions, unconditional

T = TypeVar("T")

#: ASHA looks at a trial so many times, and each time lets the best of so many go on.
_LOOKS, _REDUCTION_FACTOR = 2, 3
#: Random trials before a sampler that learns from trials begins to.
_STARTUP_TRIALS = 4
#: A Gaussian process of more trials takes its time, and then TPE has enough to learn from.
_MOST_FOR_GP = 200
#: Share of the trials that one generation of a population has, and its least size.
_GENERATION, _LEAST_POPULATION = 1 / 4, 4
#: So many they are taken to be where nobody knows.
_TRIALS_IF_OPEN = 40


def sampler(settings: Tune, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes one trial; for lists that are made beforehand, the one for what they leave open.

    Args:
        settings: the stage's section.
        seed: of the search.
        number: of the trial. The sampler of each is seeded anew, so that a resumed search proposes the same.
    """
    own = seed + number
    match _named(settings):
        case "tpe":
            return _tpe(settings, own)
        case "gp":
            return _gp(settings, own) if number < _MOST_FOR_GP else _tpe(settings, own)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=own, warn_independent_sampling=False)
        case "nsga2" | "nsga3" as name:
            trials = settings.most_trials if settings.most_trials < sys.maxsize else _TRIALS_IF_OPEN
            population = min(50, max(_LEAST_POPULATION, round(trials * _GENERATION)))
            kind = optuna.samplers.NSGAIISampler if name == "nsga2" else optuna.samplers.NSGAIIISampler
            return kind(seed=own, population_size=population)
        case _:
            return optuna.samplers.RandomSampler(seed=own)


def _named(settings: Tune) -> str:
    if settings.sampler != "auto":
        return settings.sampler
    # With trade-offs a Gaussian process's proposal takes memory and time that grow fast with their number.
    return "gp" if len(settings.objectives) == 1 else "tpe"


def _gp(settings: Tune, seed: int) -> optuna.samplers.BaseSampler:
    tpe = _tpe(settings, seed)
    process = optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=_STARTUP_TRIALS, independent_sampler=tpe, warn_independent_sampling=False
    )
    several = len(settings.objectives) > 1
    return process if several else curves.AsEnded(process, tpe, unconditional(settings.space))


def _tpe(settings: Tune, seed: int) -> optuna.samplers.BaseSampler:
    # In groups, or what is conditional would be proposed one by one.
    group = unconditional(settings.space) != distributions(settings.space)
    return experimental(
        lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, group=group)
    )


def pruner(settings: Tune) -> optuna.pruners.BasePruner:
    """The rule that stops hopeless trials."""
    match settings.pruner:
        case "asha":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=math.ceil(settings.epochs / _REDUCTION_FACTOR**_LOOKS), reduction_factor=_REDUCTION_FACTOR
            )
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=1, max_resource=settings.epochs, reduction_factor=_REDUCTION_FACTOR
            )
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=1)
        case "wilcoxon":
            return experimental(lambda: optuna.pruners.WilcoxonPruner(p_threshold=0.1))
        case _:
            return optuna.pruners.NopPruner()


def experimental(make: Callable[[], T]) -> T:
    """Make something of Optuna's without its warning that it may change: the version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return make()
