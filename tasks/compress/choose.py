"""Which candidate goes on to the gate: pure arithmetic on what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.compress.race import Lap
from tasks.core.metrics import Metric

if TYPE_CHECKING:
    from tasks.compress.targets import Target
    from tasks.core.settings import Compress


def relative_time(laps: Mapping[int, Lap]) -> float:
    """Geometric mean over batch sizes of the ratio to the reference; NaN without laps."""
    ratios = [lap.ratio for lap in laps.values()]
    return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan


@dataclass(frozen=True)
class Candidate:
    """A file that could be shipped.

    Attributes:
        name: ``fp32``, or the methods that made it, joined by ``-``.
        score: the metric on validation.
        bytes: size of the file.
        laps: batch size -> times; none if it was not raced.
        peak_mib: memory that loading it and answering the largest batch took, in MiB.
        problem: why it cannot be shipped whatever its figures, if so.
        bound: the upper bound of its loss on validation, where that must keep to the limit; None where the loss itself
            must.
    """

    name: str
    score: float
    bytes: int
    laps: Mapping[int, Lap] = field(default_factory=dict)
    peak_mib: float = math.nan
    problem: str = ""
    bound: float | None = None

    @property
    def time(self) -> float:
        """Time of a call relative to the original, the geometric mean over batch sizes; NaN if it was not raced."""
        return relative_time(self.laps)

    def loss(self, original: Candidate, metric: Metric) -> float:
        """How much worse than the original it counts as."""
        return metric.loss(original.score, self.score) if self.bound is None else self.bound


@dataclass(frozen=True)
class Budget:
    """What a candidate must keep to.

    Attributes:
        max_metric_drop: largest loss of the metric on validation against the original, or largest bound of it.
        max_slowdown: largest share of time above the original.
        max_size_kib: largest file; None for any.
        max_p99_ms: largest 99th percentile of a call's time at the smallest batch size; None for any.
        max_memory_mib: largest peak of memory; None for any.
        min_speedup: how many times faster than the original it must be shown to be at each batch size; None for none.
    """

    max_metric_drop: float
    max_slowdown: float
    max_size_kib: float | None = None
    max_p99_ms: float | None = None
    max_memory_mib: float | None = None
    min_speedup: float | None = None

    @staticmethod
    def of(own: Compress, max_metric_drop: float, target: Target) -> Budget:
        """The limits of params, and the target's where these name none."""
        return Budget(
            max_metric_drop,
            own.max_slowdown,
            target.max_size_kib if own.max_size_kib is None else own.max_size_kib,
            own.max_p99_ms,
            target.max_memory_mib if own.max_memory_mib is None else own.max_memory_mib,
            own.min_speedup,
        )


@dataclass(frozen=True)
class Choice:
    """The outcome.

    Attributes:
        chosen: the candidate's name; None if nothing keeps to the budget.
        front: names of the candidates in budget that no other one beats in size, time and quality alike.
        reasons: for every candidate why it was or was not taken.
    """

    chosen: str | None
    front: tuple[str, ...]
    reasons: Mapping[str, str]


def choose(candidates: Sequence[Candidate], metric: Metric, budget: Budget, pick: str) -> Choice:
    """Take one candidate out of those that keep to the budget.

    Args:
        candidates: the first one is the original as float ONNX.
        metric: which way is better.
        budget: the limits.
        pick: ``smallest``, ``fastest``, or ``balanced`` (least product of relative size and relative time). Ties go to
            the better metric, then to the name.
    """
    original = candidates[0]
    problems = {one.name: "; ".join(_problems(one, original, metric, budget)) for one in candidates}
    inside = [one for one in candidates if not problems[one.name]]
    if not inside:
        return Choice(None, (), problems)
    key = _KEYS[pick]
    chosen = min(inside, key=lambda one: (key(one, original), metric.loss(original.score, one.score), one.name))
    front = tuple(one.name for one in inside if not any(_beats(other, one, metric) for other in inside))
    reasons = {
        one.name: problems[one.name]
        or (
            f"the {_WORDS[pick]} of {len(inside)} in budget"
            if one is chosen
            else f"in budget, but {chosen.name} is {_MORE[pick]}"
        )
        for one in candidates
    }
    if chosen is original and len(candidates) > 1:
        reasons[original.name] = "the original stays: no other candidate in budget is " + _MORE[pick]
    return Choice(chosen.name, front, reasons)


def nearest_misses(
    candidates: Sequence[Candidate], reasons: Mapping[str, str], metric: Metric, budget: Budget, count: int = 3
) -> list[str]:
    """For a person: the candidates that are least over the limit they miss most, each with what keeps it out."""
    original = candidates[0]
    ran = [one for one in candidates if not one.problem and math.isfinite(one.score)]
    ranked = sorted(ran, key=lambda one: _worst_excess(one, original, metric, budget)) or candidates
    return [f"{one.name}: {reasons[one.name]}" for one in ranked[:count]]


def _worst_excess(one: Candidate, original: Candidate, metric: Metric, budget: Budget) -> float:
    """The largest ratio of a figure to its limit; of a limit of 0 every excess is infinite."""
    drop, limit = one.loss(original, metric), budget.max_metric_drop
    slowest = max((lap.ratio_low for lap in one.laps.values()), default=math.inf)
    of_drop = drop / limit if limit else math.inf if drop > 0 else 0.0
    ratios = [of_drop, slowest / (1 + budget.max_slowdown)]
    ratios += [value / most for _, value, most in _limited(one, budget) if most]
    if budget.min_speedup:
        ratios.append(budget.min_speedup * max((lap.ratio_high for lap in one.laps.values()), default=math.inf))
    return max(ratio if math.isfinite(ratio) else math.inf for ratio in ratios)


_KEYS: Mapping[str, Callable[[Candidate, Candidate], float]] = {
    "smallest": lambda one, _: one.bytes,
    "fastest": lambda one, _: one.time,
    "balanced": lambda one, original: one.time * one.bytes / original.bytes,
}
_WORDS = {"smallest": "smallest", "fastest": "fastest", "balanced": "best of size and time"}
_MORE = {"smallest": "smaller", "fastest": "faster", "balanced": "better in size and time together"}


def _beats(other: Candidate, one: Candidate, metric: Metric) -> bool:
    """Whether ``other`` is nowhere worse than ``one`` and somewhere better (Pareto)."""
    pairs = [(other.bytes, one.bytes), (other.time, one.time), (metric.loss(one.score, other.score), 0.0)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _problems(one: Candidate, original: Candidate, metric: Metric, budget: Budget) -> list[str]:
    if one.problem:
        return [one.problem]
    found = []
    drop = one.loss(original, metric)
    if math.isnan(one.score):
        found.append("its answers on validation are not finite")
    elif not drop <= budget.max_metric_drop:
        worse = "gets worse by" if one.bound is None else "may get worse by up to"
        found.append(f"{metric.name} on validation {worse} {drop:.5f}, more than {budget.max_metric_drop:.5g}")
    if not one.laps:
        found.append("it was not raced")
    # "Shown to be slower": the lower end of the ratio's interval lies above the limit. NaN is no proof of speed.
    slower = [str(batch) for batch, lap in one.laps.items() if not lap.ratio_low <= 1 + budget.max_slowdown]
    if slower:
        found.append(f"slower than fp32 by more than {budget.max_slowdown:.0%} at batch {', '.join(slower)}")
    if budget.min_speedup:
        slow = [str(batch) for batch, lap in one.laps.items() if not lap.ratio_high <= 1 / budget.min_speedup]
        if slow:
            found.append(f"not shown to be {budget.min_speedup:g} times as fast as fp32 at batch {', '.join(slow)}")
    return found + _over(one, budget)


def _over(one: Candidate, budget: Budget) -> list[str]:
    return [
        f"{value:.4g} {unit}, more than {limit:g}"
        for unit, value, limit in _limited(one, budget)
        if limit and not value <= limit
    ]


def _limited(one: Candidate, budget: Budget) -> tuple[tuple[str, float, float | None], ...]:
    p99 = one.laps[min(one.laps)].p99_ms if one.laps else math.nan
    return (
        ("KiB", one.bytes / 1024, budget.max_size_kib),
        ("ms (p99)", p99, budget.max_p99_ms),
        ("MiB of memory", one.peak_mib, budget.max_memory_mib),
    )
