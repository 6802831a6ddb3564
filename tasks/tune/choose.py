"""Which of the trials is the original model: the best metric, or the best trade-off, within the limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.settings import Tune

_NEAREST = 3


@dataclass(frozen=True)
class Candidate:
    """A completed trial: its number, the metric on validation, and what its model costs, by name."""

    trial: int
    score: float
    costs: Mapping[str, float]


def ranked(candidates: Sequence[Candidate], settings: Tune, higher_is_better: bool) -> list[Candidate]:
    """The candidates within ``tune.limits``, the one that ``tune.pick`` takes first, then by the metric.

    A trial of an earlier search without these limits, in a shared study, has costs that nobody measured: it is not
    known to be within them.

    Raises:
        NotProven: if none is within the limits.
    """
    limits = settings.limits.model_dump(exclude_none=True)
    within = [one for one in candidates if all(_cost(one, name) <= limit for name, limit in limits.items())]
    if unknown := [one.trial for one in candidates if not limits.keys() <= one.costs.keys()]:
        log.warning("tune: trials %s were run before tune.limits were set: without costs they cannot be taken", unknown)
    if not within:
        raise NotProven(
            "a trial must keep to tune.limits",
            "none does; the nearest: " + "; ".join(_misses(candidates, limits)),
            "raise the limits, search smaller models (tune.space), or raise tune.trials",
        )
    sign = -1 if higher_is_better else 1
    by_metric = sorted(within, key=lambda one: (sign * one.score, one.trial))  # of equals the earlier
    if settings.pick == "metric":
        return by_metric
    best = knee(front(by_metric, settings.objectives, higher_is_better), settings.objectives, higher_is_better)
    return [best, *(one for one in by_metric if one != best)]


def front(candidates: Sequence[Candidate], objectives: Sequence[str], higher_is_better: bool) -> list[Candidate]:
    """Those that no other one beats or equals in every objective and beats in one."""
    losses = {one.trial: _losses(one, objectives, higher_is_better) for one in candidates}

    def is_beaten(mine: tuple[float, ...]) -> bool:
        return any(
            theirs != mine and all(a <= b for a, b in zip(theirs, mine, strict=True)) for theirs in losses.values()
        )

    return [one for one in candidates if not is_beaten(losses[one.trial])]


def knee(candidates: Sequence[Candidate], objectives: Sequence[str], higher_is_better: bool) -> Candidate:
    """The one nearest to having the best of every objective, each scaled to the range that the front has of it."""
    losses = {one.trial: _losses(one, objectives, higher_is_better) for one in candidates}
    columns = list(zip(*losses.values(), strict=True))
    least, spread = [min(column) for column in columns], [max(column) - min(column) for column in columns]

    def distance(one: Candidate) -> float:
        shares = (
            (loss - low) / width for loss, low, width in zip(losses[one.trial], least, spread, strict=True) if width > 0
        )
        return math.hypot(*shares)

    return min(candidates, key=lambda one: (distance(one), one.trial))


def _losses(one: Candidate, objectives: Sequence[str], higher_is_better: bool) -> tuple[float, ...]:
    return (-one.score if higher_is_better else one.score, *(one.costs[name] for name in objectives[1:]))


def _cost(one: Candidate, name: str) -> float:
    return one.costs.get(name, math.inf)


def _misses(candidates: Sequence[Candidate], limits: Mapping[str, float]) -> list[str]:
    def excess(one: Candidate) -> float:
        return max(_cost(one, name) / limit for name, limit in limits.items())

    return [
        f"trial {one.trial} with "
        + ", ".join(f"{name} {one.costs[name]:.4g}" if name in one.costs else f"{name} not measured" for name in limits)
        for one in sorted(candidates, key=excess)[:_NEAREST]
    ]
