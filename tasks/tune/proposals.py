"""Which configuration a trial gets: proposed by the study's sampler, or taken from a list that is made beforehand."""

from __future__ import annotations

import csv
import itertools
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tasks.core.errors import UsageError
from tasks.core.sections import Section
from tasks.core.settings import Tune
from tasks.core.space import Choice, FloatRange, Searchable, Value, holds, options, whole

Point = dict[str, Any]
#: How many trials there were before -> the searched values that the next one must have; the sampler proposes the rest,
#: and all of them where there is None.
Plan = Callable[[int], Point | None]


def distributions(space: Section) -> dict[str, BaseDistribution]:
    """Optuna's words for every searched hyperparameter; one that others wait for comes before them."""
    wholes = whole(type(space))
    found = options(space).items()
    return {name: _distribution(option, name in wholes) for name, option in found if isinstance(option, Searchable)}


def unconditional(space: Section) -> dict[str, BaseDistribution]:
    """Those of them that are searched whatever else is chosen."""
    chosen = options(space)
    conditional = {
        name for name, option in chosen.items() if isinstance(option, Searchable) and option.when is not None
    }
    return {name: found for name, found in distributions(space).items() if name not in conditional}


def _distribution(option: Any, is_whole: bool) -> BaseDistribution:
    if isinstance(option, Choice):
        return CategoricalDistribution(option.choices)
    if is_whole:
        return IntDistribution(int(option.low), int(option.high), log=option.log, step=int(option.step or 1))
    return FloatDistribution(option.low, option.high, log=option.log, step=option.step)


def resolve(space: Section, searched: Callable[[str], Value]) -> dict[str, Value]:
    """A value for every hyperparameter: fixed ones as they are, ``searched(name)`` for those whose condition holds."""
    values: dict[str, Value] = {}
    for name, option in options(space).items():
        if not isinstance(option, Searchable):
            values[name] = option
        elif holds(option, values):
            values[name] = searched(name)
        else:
            assert option.otherwise is not None, "a condition without `otherwise` is refused at the door"  # noqa: S101
            values[name] = option.otherwise
    return {name: values[name] for name in type(space).model_fields}


def suggest(trial: optuna.trial.Trial, space: Section) -> dict[str, Value]:
    """A value for every hyperparameter; those that are searched are proposed by the study."""
    known = distributions(space)
    return resolve(space, lambda name: _suggested(trial, name, known[name]))


def _suggested(trial: optuna.trial.Trial, name: str, found: Any) -> Value:
    if isinstance(found, CategoricalDistribution):
        return cast("Value", trial.suggest_categorical(name, found.choices))  # choices are never None
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high, step=found.step, log=found.log)
    return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)


def plan(settings: Tune, seed: int, first: list[Point]) -> tuple[Plan, int]:
    """What trials must be, by their place, and how many trials there can be at most.

    Args:
        settings: the stage's section.
        seed: of the grid's order and the sequence's scramble.
        first: configurations of the first trials (see :func:`earlier`).
    """
    if settings.sampler == "grid":
        points = grid(settings.space, seed)
        ahead = [*first, *(point for point in points if point not in first)]
        return lambda number: ahead[number], min(settings.most_trials, len(ahead))
    rest = _sobol(settings.space, seed) if settings.sampler == "qmc" else lambda _: None
    return lambda number: first[number] if number < len(first) else rest(number - len(first)), settings.most_trials


def grid(space: Section, seed: int) -> list[Point]:
    """Every combination, shuffled by seed so that a budget below the grid's size still covers all of it.

    Optuna's GridSampler is not used: outside ``Study.optimize`` it raises at its last point.
    """
    wholes = whole(type(space))
    searched = {
        name: _values(option, name in wholes)
        for name, option in options(space).items()
        if isinstance(option, Searchable)
    }
    combined = (dict(zip(searched, values, strict=True)) for values in itertools.product(*searched.values()))
    points = list({tuple(point.items()): point for point in (_of_conditions(space, one) for one in combined)}.values())
    random.Random(seed).shuffle(points)  # noqa: S311 - an order, not a secret
    return points


def _of_conditions(space: Section, point: Point) -> Point:
    """The part of a point that is really searched, given its own values."""
    used: Point = {}

    def take(name: str) -> Value:
        used[name] = point[name]
        value: Value = point[name]
        return value

    resolve(space, take)
    return used


def _values(option: Searchable, is_whole: bool) -> list[Any]:
    if isinstance(option, Choice):
        return list(option.choices)
    assert isinstance(option, FloatRange)  # noqa: S101 - there are these two
    shares = [index / (option.points - 1) for index in range(option.points)]
    values = [min(_at(option, share), option.high) for share in shares]
    return sorted({round(value) for value in values}) if is_whole else sorted(set(values))


def _at(option: FloatRange, share: float) -> float:
    """The value at a share of a range, from 0 to 1."""
    if option.log:
        return float(option.low * (option.high / option.low) ** share)
    value = option.low + (option.high - option.low) * share
    return value if option.step is None else option.low + round((value - option.low) / option.step) * option.step


def _sobol(space: Section, seed: int) -> Plan:
    """Points that fill the space evenly: a scrambled Sobol sequence of the seed.

    Optuna's QMCSampler counts in the study, so that it could not be seeded anew for each trial.
    """
    known = distributions(space)

    def point(number: int) -> Point:
        from scipy.stats import qmc

        if not known:
            return {}
        sequence = qmc.Sobol(len(known), scramble=True, seed=seed)
        row = (sequence.fast_forward(number) if number else sequence).random(1)[0]
        values = {name: quantile(known[name], float(share)) for name, share in zip(known, row, strict=True)}
        return _of_conditions(space, values)

    return point


def quantile(distribution: Any, share: float) -> Any:
    """The value of a distribution below which lies a share, in [0, 1), of it."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    step = distribution.step or 0
    # A whole number, or a step, stands for the values around it.
    low, high = distribution.low - step / 2, distribution.high + step / 2
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    if step:
        value = distribution.low + round((value - distribution.low) / step) * step
    value = min(max(value, distribution.low), distribution.high)
    return int(value) if isinstance(distribution, IntDistribution) else value


def earlier(settings: Tune, root: Path, higher_is_better: bool) -> list[Point]:
    """The best configurations of the search under ``tune.warm_start``, best first, as far as they fit this space.

    Best by the metric that it had.

    A value that this space does not have is left to the sampler.

    Raises:
        UsageError: if there is no table of trials, or nothing in it that fits.
    """
    if settings.warm_start is None:
        return []
    path = trials_table(root / settings.warm_start)
    rule = "tune.warm_start must be the trials.csv of an earlier search, or a folder with one"
    if path is None:
        raise UsageError(rule, f"{root / settings.warm_start} is none and has none", "correct the path")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("state") == "complete" and _number(row.get("value"))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(rule, f"{path} is no table: {error}", "correct the path") from error
    rows.sort(key=lambda row: float(row["value"]), reverse=_more_was_better(rows, higher_is_better))
    known = distributions(settings.space)
    fitting = [point for row in rows if (point := _fitting(row, known))]
    points = list({tuple(point.items()): point for point in fitting}.values())[: settings.warm_start_trials]
    if not points:
        found = f"{path} has {len(rows)} completed trials, none with a value of {', '.join(known) or 'no search'}"
        raise UsageError(rule, found, "leave tune.warm_start out, or take the search of a model of this kind")
    return points[: settings.most_trials]


def _more_was_better(rows: list[dict[str, str]], now: bool) -> bool:
    """Whether an earlier search wanted its values high, by its column of the best so far: its metric may be another."""
    values = [float(row["value"]) for row in rows]
    if not rows or min(values) == max(values) or not _number(rows[-1].get("best")):
        return now
    return float(rows[-1]["best"]) == max(values)


def trials_table(path: Path) -> Path | None:
    """The table of trials that a path means: itself, or the one of an artifacts folder or of its stage."""
    candidates = (path, path / "trials.csv", path / "tune" / "trials.csv")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _fitting(row: Mapping[str, str], known: Mapping[str, BaseDistribution]) -> Point:
    """The searched values of a line that lie in their distributions."""
    parsed = {name: _parsed(row.get(name) or "", distribution) for name, distribution in known.items()}
    return {name: value for name, value in parsed.items() if value is not None and _contains(known[name], value)}


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


def _parsed(text: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if str(choice) == text), None)
    if not _number(text):
        return None
    number = float(text)
    if isinstance(distribution, IntDistribution):
        return int(number) if number % 1 == 0 else None
    return number


def _number(text: str | None) -> bool:
    try:
        return text is not None and math.isfinite(float(text))
    except ValueError:
        return False
