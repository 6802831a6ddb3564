"""Which configurations a search begins with: the best of an earlier one, or some that are known to suit its model."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from tasks.core.errors import UsageError
from tasks.core.sections import Section
from tasks.core.settings import Tune
from tasks.core.space import Searchable, options
from tasks.tune.proposals import Point, distributions, middle, searched_part, snapped

#: Samplers that learn from trials, and so gain from one that is known to be good; the others keep to their own order.
_LEARNING = frozenset({"tpe", "gp"})
#: Of the recommended learning rate, in the order in which a search tries them.
_RATES = (1.0, 10**0.5, 10**-0.5)


def first(settings: Tune, root: Path, higher_is_better: bool) -> list[Point]:
    """The configurations that a search begins with: those of an earlier one, or what is known of such models.

    Raises:
        UsageError: as :func:`earlier` does.
    """
    if settings.warm_start is not None:
        return earlier(settings, root, higher_is_better)
    return recommended(settings.space)[: settings.trials] if settings.sampler in _LEARNING else []


def recommended(space: Section) -> list[Point]:
    """The points of somebody's own space nearest to the middle of the one that the model's author recommends.

    They differ in the learning rate alone, whose best value depends on how many steps a training has: the middle, the
    square root of ten times as much, and as much less. None in the recommended space itself, all of which is near. What
    cannot be near (a word that is not recommended) is left to the sampler.
    """
    fields = type(space).model_fields
    searched = {name: option for name, option in options(space).items() if isinstance(option, Searchable)}
    if any(fields[name].is_required() for name in searched):  # its author recommends nothing
        return []
    author = {name: fields[name].get_default(call_default_factory=True) for name in searched}
    if author == searched:
        return []
    known = distributions(space)
    points: list[Point] = []
    for scale in _RATES:
        wanted = {name: middle(option) for name, option in author.items()}
        if "learning_rate" in wanted:
            wanted["learning_rate"] *= scale
        point = searched_part(space, {name: _nearest(known[name], value) for name, value in wanted.items()})
        told = {name: value for name, value in point.items() if value is not None}
        if told and told not in points:
            points.append(told)
    return points


def _nearest(distribution: Any, value: Any) -> Any:
    """The value of a distribution that is nearest to another one; None if there is no telling."""
    if isinstance(distribution, CategoricalDistribution):
        if value in distribution.choices:
            return value
        if any(isinstance(one, str) for one in (value, *distribution.choices)):
            return None
        return min(distribution.choices, key=lambda choice: abs(choice - value))
    return None if isinstance(value, str) else snapped(distribution, value)


def earlier(settings: Tune, root: Path, higher_is_better: bool) -> list[Point]:
    """The best configurations of the search under ``tune.warm_start``, best first, as far as they fit this space.

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
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("state") == "complete" and _number(row.get("value"))]
    rows.sort(key=lambda row: float(row["value"]), reverse=higher_is_better)
    known = distributions(settings.space)
    fitting = [point for row in rows if (point := _fitting(row, known))]
    points = list({tuple(point.items()): point for point in fitting}.values())[: settings.warm_start_trials]
    if not points:
        found = f"{path} has {len(rows)} completed trials, none with a value of {', '.join(known) or 'no search'}"
        raise UsageError(rule, found, "leave tune.warm_start out, or take the search of a model of this kind")
    return points[: settings.trials]


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
