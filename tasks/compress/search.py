"""The search: files of the original first, then smaller networks, led by what was measured on this machine.

1. Every smaller shape is exported before it is trained: size and latency do not depend on the weights.
2. Shapes that another one beats in size, time and capacity alike are dropped; the others make a ladder.
3. One short recovery each shows which shapes learn; a shape that a smaller and faster one outdoes is hopeless.
4. The rest of the time is spent by bisection: the middle of the ladder is trained in full, then a smaller shape if its
   file is in budget, else a larger one. Under a limit of size or speed the most capable of those that learnt most comes
   first. What is left then goes to the shape that missed the budget least.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import onnx

from tasks.compress import describe
from tasks.compress.choose import Budget, relative_time
from tasks.compress.graph.compact import compact
from tasks.compress.isolated import Crashed
from tasks.compress.race import Lap, isolated_race
from tasks.compress.treatments import Treatments
from tasks.compress.workshop import Built, Unsuitable, Workshop, original_must_run
from tasks.core import files
from tasks.core.errors import MachineError
from tasks.core.log import log

if TYPE_CHECKING:
    from tasks.compress.network.family import Family, Shape

T = TypeVar("T")

#: Faults of the machine: another shape would meet them as well.
_NOT_OF_THE_SHAPE = (OSError, MemoryError, MachineError)

#: Shares of the time left for smaller networks: to look at shapes, and for the short recoveries.
_SCREENING, _SHORT = 0.15, 0.25
#: Full recoveries that the rest is divided among; the one that leads under a hard limit gets this share of it.
_FULL, _LEADING = 3, 0.75
#: A difference of so many times the allowed loss, after a single pass, tells one shape from another.
_CLEARLY = 2.0
#: A shape that lost at most so many times the allowed loss may learn on, if this share of the time is left.
_NEAR, _WORTH_IT = 2.0, 0.1
#: Of what is left then: the files have to be made and judged, too.
_MOST_OF = 0.8
#: More passes than this teach a student nothing that pays.
_MOST_PASSES = 60
_MOST_SHAPES, _MOST_SHORT = 36, 8
#: A shape that could not make so many in its share of the time does not lead, nor is it taught while another one has
#: missed the budget by little. (On Fashion-MNIST, 100 k weights learn more in these than 30 k in three times as many.)
_ENOUGH_PASSES = 12
_SCREEN_ROUNDS, _SCREEN_SECONDS = 30, 300.0
#: A shape that is not so many times as fast as it must be is raced again, with few others and more rounds.
_CLOSE, _CLOSE_ROUNDS, _AT_A_TIME = 1.5, 100, 4


@dataclass(frozen=True)
class Screened:
    """A shape that was measured without training.

    Attributes:
        shape: the shape.
        bytes: of its file.
        least_bytes: of a file of it, by whatever method.
        time: of a call relative to the original's, geometric mean over batch sizes.
        slowest: the largest of its relative times over batch sizes.
        p50_ms: of a call at the smallest batch size.
        capacity: parameters times operations of a row: what a shape of this cost can hold.
    """

    shape: Shape
    bytes: int
    least_bytes: float
    time: float
    slowest: float
    p50_ms: float
    capacity: float

    @property
    def cost(self) -> float:
        """Size times time: the ladder's order."""
        return self.bytes * self.time

    @property
    def figures(self) -> dict[str, float]:
        """All but the shape, as JSON."""
        return {name: getattr(self, name) for name in _FIGURES}


@dataclass(frozen=True)
class Sketch:
    """The file of a shape that was not trained, and the bytes that the smallest file of it may have."""

    path: Path
    least_bytes: float


_FIGURES = tuple(one.name for one in fields(Screened) if one.name != "shape")


class Search:
    """Makes the candidates of a problem within a budget of time."""

    def __init__(
        self,
        workshop: Workshop,
        treatments: Treatments,
        family: Family | None,
        batch_sizes: tuple[int, ...],
        budget: Budget,
    ) -> None:
        """``budget`` is what a candidate must keep to."""
        self.workshop, self.treatments, self.family = workshop, treatments, family
        self.batch_sizes, self.budget, self.most = batch_sizes, budget, budget.max_metric_drop
        self.max_bytes = math.inf if budget.max_size_kib is None else 1024 * budget.max_size_kib
        self.most_time = math.inf if budget.min_speedup is None else 1 / budget.min_speedup
        self.shapes: list[dict[str, Any]] = []
        self.measured: dict[str, float] = {}

    def run(self) -> dict[str, Built]:
        """Every candidate by name, the original in float first."""
        self.treatments.all("", self.workshop.problem.core, {"method": "original"})
        if problem := self.workshop.built["fp32"].problem:
            raise original_must_run(problem)
        if self.family is not None:
            self.family.clock.start()
            self._merged(self.family)
            self._smaller(self.family)
            self.measured = {
                "training_seconds_estimated": round(self.family.training_seconds, 1),
                "search_seconds": round(self.family.clock.spent, 1),
            }
        return self.workshop.built

    def _merged(self, family: Family) -> None:
        soup = _unless_it_fails(family.soup, "the soup of the checkpoints cannot be made")
        if soup is not None:
            network, report = soup
            self.treatments.all("merge", family.core(network), report)

    def _smaller(self, family: Family) -> None:
        ladder = self._ladder(family)
        learnt, lead = self._short(family, ladder)
        self._bisect(family, learnt, lead)

    # Shapes, untrained.

    def _ladder(self, family: Family) -> list[Screened]:
        """Shapes worth training, the cheapest first."""
        shapes = {shape.name: shape for method in family.methods for shape in self._shapes(family, method)}
        kept = self.workshop.folder / "ladder.json"
        if not kept.is_file():
            screened = self._screened(family, list(shapes.values()))
            looked_at = {row["name"] for row in screened}
            rest = [shape for shape in shapes.values() if shape.name not in looked_at]
            others = [_unmeasured(shape, "too large, or there was no time to look at it") for shape in rest]
            files.write_json(kept, screened + others)
            family.clock.save()
        self.shapes = files.read_json(kept)
        ladder = [
            Screened(shapes[row["name"]], **{name: row[name] for name in _FIGURES})
            for row in self.shapes
            if not row["dropped"]
        ]
        return sorted(ladder, key=lambda one: one.cost)

    @staticmethod
    def _shapes(family: Family, method: str) -> list[Shape]:
        return _unless_it_fails(lambda: family.shapes(method), f"shapes of {method} cannot be looked for") or []

    def _screened(self, family: Family, shapes: Sequence[Shape]) -> list[dict[str, Any]]:
        """A line for every shape that there was time to look at, with the reason why it is not trained, if so."""
        deadline = family.clock.left * (1 - _SCREENING)
        looked: dict[str, tuple[Shape, Sketch, float]] = {}
        rows = []
        least = self.treatments.least_bytes
        small_enough = [shape for shape in shapes if shape.report.get("parameters", 0) * least <= self.max_bytes]
        for shape in _spread(small_enough, _MOST_SHAPES):
            if family.clock.left < deadline:
                log.info("compress: time to look at %d of %d shapes", len(looked), len(shapes))
                break
            try:
                core = family.core(family.sketched(shape))
                looked[shape.name] = (shape, self._sketch(shape, core), _capacity(core))
            except _NOT_OF_THE_SHAPE:
                raise
            except Exception as error:  # noqa: BLE001 (torch's exporter, Torch-Pruning and plug-ins raise anything)
                log.warning("compress: %s cannot be made: %s", shape.name, error)
                rows.append(_unmeasured(shape, f"{type(error).__name__}: {str(error)[:300]}"))
        rivals = {name: self.workshop.path(name) for name, one in self.workshop.built.items() if self._is_rival(one)}
        paths = {name: sketch.path for name, (_, sketch, _) in looked.items()}
        raced = self._race(family, paths | rivals) if looked else {}
        found = [
            _measured(shape, sketch, raced[name], capacity)
            for name, (shape, sketch, capacity) in looked.items()
            if name in raced
        ]
        found = self._raced_again(family, found)
        good = [(self.workshop.built[name].bytes, relative_time(raced[name])) for name in rivals if name in raced]
        return [self._row(one, found, good) for one in sorted(found, key=lambda one: one.cost)] + rows

    def _raced_again(self, family: Family, found: Sequence[Screened]) -> list[Screened]:
        """Those near ``min_speedup`` as the last race will see them: a few at a time, and their slowest *shown* time.

        Among dozens of files a large original is never warm, and small ones look faster beside it than they are.
        """
        near = [one for one in found if self.most_time / _CLOSE < one.slowest <= self.most_time]
        again: dict[str, Screened] = {}
        for first in range(0, len(near), _AT_A_TIME):
            group = {one.shape.name: one for one in near[first : first + _AT_A_TIME]}
            paths = {name: self.workshop.path(f"untrained-{name}") for name in group}
            for name, laps in self._race(family, paths, _CLOSE_ROUNDS).items():
                if name in group:
                    slowest = max(lap.ratio_high for lap in laps.values())
                    again[name] = replace(group[name], time=relative_time(laps), slowest=slowest)
        return [again.get(one.shape.name, one) for one in found]

    def _row(self, one: Screened, others: Sequence[Screened], good: Sequence[tuple[int, float]]) -> dict[str, Any]:
        """What is known of a shape; ``good`` are size and time of files that are in budget already."""
        log.info("compress: %s would have %.1f KiB and %.3f of the time", one.shape.name, one.bytes / 1024, one.time)
        dropped = self._over_limit(one) or self._outdone(one, others, good)
        return {"name": one.shape.name, "network": one.shape.report, **one.figures, "dropped": dropped}

    def _outdone(self, one: Screened, others: Sequence[Screened], good: Sequence[tuple[int, float]]) -> str:
        """What is as small and as fast as a shape, and as good, or nothing."""
        if any(size <= one.least_bytes and time <= one.time for size, time in good):
            return "the original's own network is in budget, as small and as fast"
        better = [other.shape.name for other in others if _dominates(other, one) and not self._over_limit(other)]
        return f"{better[0]} is as small, as fast, and can hold as much" if better else ""

    def _over_limit(self, one: Screened) -> str:
        """Which hard limit no file of a shape can keep to, or nothing."""
        if one.least_bytes > self.max_bytes:
            return f"more than max_size_kib: {self.max_bytes / 1024:g}"
        if one.slowest > self.most_time:
            return f"slower than min_speedup: {1 / self.most_time:g}"
        if self.budget.max_p99_ms is not None and one.p50_ms > self.budget.max_p99_ms:
            return f"slower than max_p99_ms: {self.budget.max_p99_ms:g}"
        return ""

    def _sketch(self, shape: Shape, core: onnx.ModelProto) -> Sketch:
        name = f"untrained-{shape.name}"
        path, least = self.workshop.path(name), self.treatments.least_share
        try:
            made = self.treatments.sketched(core)
        except Unsuitable as reason:
            log.info("compress: %s is looked at in float: %s", shape.name, reason)
            made, least = compact(core), self.treatments.least_share_of_float
        onnx.save(self.workshop.problem.packaged(made, name), path)
        return Sketch(path, least * path.stat().st_size)

    def _race(
        self, family: Family, models: dict[str, Path], rounds: int = _SCREEN_ROUNDS
    ) -> Mapping[str, Mapping[int, Lap]]:
        """Laps by name; those that cannot be raced are missing."""
        shop = self.workshop
        models = {"fp32": shop.path("fp32"), **models}
        seconds = min(_SCREEN_SECONDS, max(1.0, family.clock.left))
        arguments = (shop.problem.sample, self.batch_sizes, rounds, shop.threads, shop.device, seconds)
        try:
            found, broken = isolated_race(models, "fp32", *arguments)
        except Crashed as reason:
            raise original_must_run(str(reason)) from None
        for name, why in broken.items():
            log.warning("compress: %s: %s", name, why)
        return found.laps

    # Training.

    def _short(
        self, family: Family, ladder: Sequence[Screened]
    ) -> tuple[list[tuple[Screened, float]], Screened | None]:
        """Shapes that learnt in their first pass, with their scores, and the one that leads.

        Which were tried and which leads is kept: in the next life of a killed search there is less time, and both would
        come out otherwise.
        """
        kept = self.workshop.folder / "short.json"
        shapes = {one.shape.name: one for one in ladder}
        known = files.read_json(kept) if kept.is_file() else None
        found = self._first_passes(family, ladder) if known is None else self._again(family, shapes, known["tried"])
        hopeful = self._hopeful(found)
        self._tell_fates(found, hopeful)
        if known is not None:
            return hopeful, shapes.get(known["lead"])
        lead = self._lead(family, hopeful)
        files.write_json(kept, {"tried": [one.shape.name for one, _ in found], "lead": lead and lead.shape.name})
        return hopeful, lead

    def _again(
        self, family: Family, shapes: Mapping[str, Screened], tried: Sequence[str]
    ) -> list[tuple[Screened, float]]:
        """First passes of an earlier life: their weights are what a full recovery goes on from."""
        known = {name: family.has_learnt(shapes[name].shape, "short") for name in tried}
        return [
            (shapes[name], self._recovered(family, shapes[name].shape, "short") if learnt else math.nan)
            for name, learnt in known.items()
        ]

    def _first_passes(self, family: Family, ladder: Sequence[Screened]) -> list[tuple[Screened, float]]:
        """One pass for as many shapes as there is time for."""
        if ladder:
            family.prepare()  # its time is not that of the first shape
        limit, spent = family.clock.left * _SHORT, 0.0
        known: list[float] = []
        found: list[tuple[Screened, float]] = []
        for one in self._in_turn(family, ladder):
            fresh = not family.has_learnt(one.shape, "short")  # else an earlier life's, and costs nothing any more
            if fresh and family.clock.left <= 0:
                log.info("compress: no time left in the budget to train %s", one.shape.name)
                continue
            if fresh and known and spent + sum(known) / len(known) > limit:
                continue
            found.append((one, self._recovered(family, one.shape, "short")))
            seconds = family.seconds.get(f"{one.shape.name}-short", 0.0)
            known.append(seconds)
            spent += fresh * seconds
        return found

    def _hopeful(self, found: Sequence[tuple[Screened, float]]) -> list[tuple[Screened, float]]:
        """Those that no cheaper one outdoes, the cheapest first."""
        loss = self.workshop.problem.metric.loss
        ordered = sorted(found, key=lambda pair: pair[0].cost)
        return [pair for pair in ordered if not _hopeless(pair, found, loss, _CLEARLY * self.most)]

    def _tell_fates(self, found: Sequence[tuple[Screened, float]], hopeful: Sequence[tuple[Screened, float]]) -> None:
        scores = {one.shape.name: score for one, score in found}
        names = {one.shape.name for one, _ in hopeful}
        for row in self.shapes:
            score = scores.get(row["name"], math.nan)
            row["short_value"] = score if math.isfinite(score) else None
            if row["name"] in scores and row["name"] not in names:
                less = "it learns less than a shape that is smaller and faster"
                row["dropped"] = less if math.isfinite(score) else "its training failed"

    def _in_turn(self, family: Family, ladder: Sequence[Screened]) -> list[Screened]:
        """Shapes for a short recovery; under a limit of size or speed the most capable one comes first."""
        turns = _spread(ladder, _MOST_SHORT)
        taught = self._teachable(family, sorted(ladder, key=lambda one: -one.capacity)) if self._limited else ()
        lead = next(iter(taught), turns[0] if turns else None)
        return [one for one in ladder if one is lead] + [one for one in turns if one is not lead][: _MOST_SHORT - 1]

    @property
    def _limited(self) -> bool:
        """Whether a limit of size or speed is set: a shape that cannot keep to it is not trained."""
        limits = (self.budget.max_size_kib, self.budget.min_speedup, self.budget.max_p99_ms)
        return any(limit is not None for limit in limits)

    def _teachable(self, family: Family, shapes: Sequence[Screened]) -> Iterator[Screened]:
        """Those that there is time to teach, if they lead."""
        seconds = _LEADING * family.clock.left
        return (one for one in shapes if _has_enough_passes(family, one.shape, seconds))

    def _lead(self, family: Family, learnt: Sequence[tuple[Screened, float]]) -> Screened | None:
        """Under a limit of size or speed: the most capable shape there is time to teach, of those that learnt most.

        What was learnt in one pass says more than capacity where it is clearly less: on Fashion-MNIST, 102 k weights
        (0.878 after a pass) came to lose 0.3 points, and 73 k that take more operations (0.845) lost 0.6. Where it is
        not, a small shape is only ahead because it is small.
        """
        if not learnt or not self._limited:
            return None
        loss, original = self.workshop.problem.metric.loss, self.workshop.built["fp32"].score
        ordered = sorted(learnt, key=lambda pair: loss(original, pair[1]))
        most = ordered[0][1]
        ahead = [one for one, score in ordered if loss(most, score) <= _CLEARLY * self.most]
        rest = [one for one, _ in ordered if one not in ahead]
        ahead.sort(key=lambda one: -one.capacity)
        return next(self._teachable(family, [*ahead, *rest]), ordered[0][0])

    def _bisect(self, family: Family, learnt: Sequence[tuple[Screened, float]], lead: Screened | None) -> None:
        """Full recoveries, towards the cheapest shape whose file keeps to the budget; what missed least learns on."""
        low, high = 0, len(learnt) - 1
        left = most = min(_FULL, len(learnt).bit_length())  # bisection needs no more
        shapes = [one for one, _ in learnt]
        missed: list[tuple[Shape, float]] = []
        while low <= high and left > 0:
            if left == most and lead is not None:
                middle, share = shapes.index(lead), _LEADING
            else:
                middle, share = (low + high) // 2, 1 / left
            shape, seconds = shapes[middle].shape, share * family.clock.left
            if not family.has_learnt(shape, "full") and not self._has_time(family, shape, seconds, missed):
                break
            drop = self._full(family, shape, seconds)
            left -= 1
            if drop <= self.most:
                high = middle - 1
            else:
                low = middle + 1
                if drop <= _NEAR * self.most:
                    missed.append((shape, drop))
        self._longer(family, missed)

    def _has_time(self, family: Family, shape: Shape, seconds: float, missed: Sequence[tuple[Shape, float]]) -> bool:
        """Whether to teach another shape; what is too little for a fresh one is spent on what ``missed`` by little."""
        if family.clock.left <= 0:
            return False
        spent_better = missed and shape.fresh and _can_go_on(family)
        return not spent_better or _has_enough_passes(family, shape, seconds)

    def _full(self, family: Family, shape: Shape, seconds: float) -> float:
        """Train a shape for a time, make its candidates, and return the least loss of the metric among them."""
        score = self._recovered(family, shape, "full", seconds)
        if not math.isfinite(score):
            return math.inf
        built = self.treatments.all(shape.name, family.core(family.network(shape)), dict(shape.report))
        losses = [self._drop(candidate) for candidate in built if self._usable(candidate)]
        return min((loss for loss in losses if math.isfinite(loss)), default=math.inf)

    def _longer(self, family: Family, missed: Sequence[tuple[Shape, float]]) -> None:
        """Let the shape that missed the budget least learn on, if there is time; new files only if it learnt more."""
        if not missed:
            return
        shape = min(missed, key=lambda pair: pair[1])[0]
        if not _can_go_on(family) and not family.has_learnt(shape, "longer"):
            return
        before = shape.report.get("passes")
        score = self._recovered(family, shape, "longer", _MOST_OF * family.clock.left)
        if math.isfinite(score) and shape.report.get("passes") != before:
            self.treatments.all(f"{shape.name}-longer", family.core(family.network(shape)), dict(shape.report))

    def _recovered(self, family: Family, shape: Shape, stage: str, seconds: float = 0.0) -> float:
        """The shape's metric after as many passes as there is time for, at least one; NaN if it cannot be trained."""

        def taught() -> float:
            timed = seconds > 0 and not family.has_learnt(shape, stage)
            return family.recover(shape, stage, min(_MOST_PASSES, family.passes(shape, seconds)) if timed else 1)

        score = _unless_it_fails(taught, f"{shape.name} cannot be trained")
        return math.nan if score is None else score

    def _drop(self, candidate: Built) -> float:
        """The loss that counts: its bound, where that must keep to the limit."""
        if candidate.bound is not None:
            return candidate.bound
        return self.workshop.problem.metric.loss(self.workshop.built["fp32"].score, candidate.score)

    def _usable(self, candidate: Built) -> bool:
        """Whether a file may keep to the hard limits: what is told of a shape holds for files as it was sketched."""
        hurry = self.budget.min_speedup is not None or self.budget.max_p99_ms is not None
        fast = not hurry or self.treatments.as_sketched(candidate.method)
        return not candidate.problem and candidate.bytes <= self.max_bytes and fast and self._light(candidate)

    def _light(self, candidate: Built) -> bool:
        most = self.budget.max_memory_mib
        return most is None or candidate.peak_mib <= most

    def _is_rival(self, candidate: Built) -> bool:
        """Whether a file is in budget wherever it is to run, so that nothing larger and slower is of use."""
        refused = any(member.refusal(candidate.method) for member in self.workshop.target.members)
        inside = not candidate.problem and self._drop(candidate) <= self.most
        return inside and not refused and self._light(candidate)


def _can_go_on(family: Family) -> bool:
    """Whether there is time worth giving to a shape that missed the budget by little."""
    return family.clock.left > _WORTH_IT * family.clock.seconds


def _has_enough_passes(family: Family, shape: Shape, seconds: float) -> bool:
    passes = _unless_it_fails(lambda: family.passes(shape, seconds), f"{shape.name} cannot be timed")
    return passes is not None and passes >= _ENOUGH_PASSES


def _unless_it_fails(work: Callable[[], T], what: str) -> T | None:
    """What work gives, or None if it raises, but for what is no fault of its own."""
    try:
        return work()
    except _NOT_OF_THE_SHAPE:
        raise
    except Exception as error:  # noqa: BLE001 (a plug-in's network or loss raises anything)
        log.warning("compress: %s: %s: %s", what, type(error).__name__, error)
        return None


def _unmeasured(shape: Shape, reason: str) -> dict[str, Any]:
    return {"name": shape.name, "network": shape.report, "dropped": reason} | dict.fromkeys(_FIGURES)


def _measured(shape: Shape, sketch: Sketch, laps: Mapping[int, Lap], capacity: float) -> Screened:
    slowest = max(lap.ratio for lap in laps.values())
    size = sketch.path.stat().st_size
    return Screened(shape, size, sketch.least_bytes, relative_time(laps), slowest, laps[min(laps)].p50_ms, capacity)


def _capacity(core: onnx.ModelProto) -> float:
    """Parameters times operations of a row."""
    return describe.parameters(core) * float(describe.macs(core) or 1)


def _dominates(other: Screened, one: Screened) -> bool:
    """Whether ``other`` is as small, as fast and as capable, and better in one of these."""
    pairs = [(other.bytes, one.bytes), (other.time, one.time), (-other.capacity, -one.capacity)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _hopeless(
    pair: tuple[Screened, float],
    others: Sequence[tuple[Screened, float]],
    loss: Callable[[float, float], float],
    clearly: float,
) -> bool:
    """Whether training went wrong, or a shape that is smaller and faster learnt clearly more in as many passes."""
    one, score = pair
    if not math.isfinite(score):
        return True
    return any(
        other.bytes <= one.bytes
        and other.time <= one.time
        and math.isfinite(reached)
        and loss(reached, score) > clearly
        for other, reached in others
        if other is not one
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced: the middle one first, then the middle of each half, and so on."""
    if len(items) > count:
        items = [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
    order, parts = [], [(0, len(items))]
    for first, end in parts:  # which grows
        if first < end:
            middle = (first + end) // 2
            order.append(items[middle])
            parts += [(first, middle), (middle + 1, end)]
    return order
