"""The search: files of the original first, then smaller networks, led by what was measured on this machine.

1. Every smaller shape is exported before it is trained: size and latency do not depend on the weights.
2. Shapes that another one beats in size, time and capacity alike are dropped; the others make a ladder.
3. One short recovery each shows which shapes learn; a shape that a smaller and faster one outdoes is hopeless.
4. The rest of the time is spent by bisection: the middle of the ladder is trained in full, then a smaller shape if its
   file is in budget, else a larger one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import onnx

from tasks.compress import describe
from tasks.compress.choose import relative_time
from tasks.compress.isolated import Crashed, call
from tasks.compress.race import race
from tasks.compress.treatments import Treatments
from tasks.compress.workshop import Built, Unsuitable, Workshop
from tasks.core import files
from tasks.core.log import log

if TYPE_CHECKING:
    from tasks.compress.network.family import Family, Shape

T = TypeVar("T")

#: Shares of the time left for smaller networks: to look at shapes, and for the short recoveries.
_SCREENING, _SHORT = 0.15, 0.25
#: Full recoveries that the rest is divided among.
_FULL = 3
#: More passes than this teach a student nothing that pays.
_MOST_PASSES = 60
_MOST_SHAPES, _MOST_SHORT = 24, 8
_SCREEN_ROUNDS, _SCREEN_SECONDS = 30, 300.0


@dataclass(frozen=True)
class Screened:
    """A shape that was measured without training.

    Attributes:
        shape: the shape.
        bytes: of its file.
        time: of a call relative to the original's, geometric mean over batch sizes.
        capacity: parameters times operations of a row: what a shape of this cost can hold.
    """

    shape: Shape
    bytes: int
    time: float
    capacity: float

    @property
    def cost(self) -> float:
        """Size times time: the ladder's order."""
        return self.bytes * self.time


class Search:
    """Makes the candidates of a problem within a budget of time."""

    def __init__(
        self,
        workshop: Workshop,
        treatments: Treatments,
        family: Family | None,
        batch_sizes: tuple[int, ...],
        most: float,
    ) -> None:
        """``most`` is the largest loss of the metric that a candidate may have."""
        self.workshop, self.treatments, self.family = workshop, treatments, family
        self.batch_sizes, self.most = batch_sizes, most
        self.shapes: list[dict[str, Any]] = []
        self.measured: dict[str, float] = {}

    def run(self) -> dict[str, Built]:
        """Every candidate by name, the original in float first."""
        self.treatments.all("", self.workshop.problem.core, {"method": "original"})
        if self.family is not None:
            self._merged(self.family)
            self._smaller(self.family)
            self.measured = {
                "training_seconds": round(self.family.training_seconds, 1),
                "search_seconds": round(self.family.clock.spent, 1),
            }
        return self.workshop.built

    def _merged(self, family: Family) -> None:
        soup = family.soup()
        if soup is not None:
            network, report = soup
            self.treatments.all("merge", family.core(network), report)

    def _smaller(self, family: Family) -> None:
        ladder = self._ladder(family)
        learnt = self._short(family, ladder)
        self._bisect(family, learnt)

    # Shapes, untrained.

    def _ladder(self, family: Family) -> list[Screened]:
        """Shapes worth training, the cheapest first."""
        shapes = {shape.name: shape for shape in family.shapes()}
        kept = self.workshop.folder / "ladder.json"
        if not kept.is_file():
            files.write_json(kept, self._screened(family, list(shapes.values())))
            family.clock.save()
        self.shapes = files.read_json(kept)
        ladder = [
            Screened(shapes[row["name"]], row["bytes"], row["time"], row["capacity"])
            for row in self.shapes
            if not row["dropped"]
        ]
        return sorted(ladder, key=lambda one: one.cost)

    def _screened(self, family: Family, shapes: Sequence[Shape]) -> list[dict[str, Any]]:
        """A line for every shape that there was time to look at, with the reason why it is not trained, if so."""
        deadline = family.clock.left * (1 - _SCREENING)
        looked: dict[str, tuple[Shape, Path, float]] = {}
        for shape in _spread(shapes, _MOST_SHAPES):
            if family.clock.left < deadline:
                log.info("compress: time to look at %d of %d shapes", len(looked), len(shapes))
                break
            core = family.core(shape.build())
            path = self._screening_file(shape, core)
            if path is not None:
                looked[shape.name] = (shape, path, describe.parameters(core) * float(describe.macs(core) or 1))
        rivals = {name: self.workshop.path(name) for name, one in self.workshop.built.items() if self._inside(one)}
        times = self._race({name: path for name, (_, path, _) in looked.items()} | rivals) if looked else {}
        found = [
            Screened(shape, path.stat().st_size, times[name], capacity)
            for name, (shape, path, capacity) in looked.items()
            if name in times
        ]
        good = [(self.workshop.built[name].bytes, times[name]) for name in rivals if name in times]
        return [_row(one, found, good) for one in sorted(found, key=lambda one: one.cost)]

    def _screening_file(self, shape: Shape, core: onnx.ModelProto) -> Path | None:
        name = f"untrained-{shape.name}"
        try:
            sketch = self.treatments.sketched(core)
        except Unsuitable as reason:
            log.info("compress: %s: %s", shape.name, reason)
            return None
        path = self.workshop.path(name)
        onnx.save(self.workshop.problem.packaged(sketch, name), path)
        return path

    def _race(self, models: dict[str, Path]) -> dict[str, float]:
        """Time relative to the original's, by shape."""
        shop = self.workshop
        models = {"fp32": shop.path("fp32"), **models}
        try:
            laps = call(
                race, models, "fp32", shop.problem.sample, self.batch_sizes, _SCREEN_ROUNDS, shop.threads, shop.device,
                seconds=_SCREEN_SECONDS,
            ).laps  # fmt: skip
        except Crashed as reason:
            log.warning("compress: no shape was measured: %s", reason)
            return {}
        return {name: relative_time(laps[name]) for name in models}

    # Training.

    def _short(self, family: Family, ladder: Sequence[Screened]) -> list[tuple[Screened, float]]:
        """One pass for as many shapes as there is time for; those that a cheaper one outdoes are dropped."""
        limit = family.clock.left * _SHORT
        spent = 0.0
        found: list[tuple[Screened, float]] = []
        for one in _spread(ladder, _MOST_SHORT):
            if found and spent * (len(found) + 1) / len(found) > limit:
                break
            if family.clock.left <= 0:
                log.info("compress: no time left in the budget to train %s", one.shape.name)
                break
            began = time.monotonic()
            found.append((one, family.recover(one.shape, "short", 1)))
            spent += time.monotonic() - began
        loss = self.workshop.problem.metric.loss
        hopeful = [pair for pair in sorted(found, key=lambda pair: pair[0].cost) if not _hopeless(pair, found, loss)]
        scores = {one.shape.name: score for one, score in found}
        names = {one.shape.name for one, _ in hopeful}
        for row in self.shapes:
            score = scores.get(row["name"], math.nan)
            row["short_value"] = score if math.isfinite(score) else None
            if row["name"] in scores and row["name"] not in names:
                row["dropped"] = "it learns less than a shape that is smaller and faster"
        return hopeful

    def _bisect(self, family: Family, learnt: Sequence[tuple[Screened, float]]) -> None:
        """Full recoveries, towards the cheapest shape whose file keeps to the budget."""
        low, high, left = 0, len(learnt) - 1, _FULL
        while low <= high and left > 0 and family.clock.left > 0:
            middle = (low + high) // 2
            one = learnt[middle][0]
            passes = family.passes(one.shape, family.clock.left / left)
            score = family.recover(one.shape, "full", min(_MOST_PASSES, passes))
            built: list[Built] = []
            if math.isfinite(score):
                core = family.core(family.network(one.shape))
                built = self.treatments.all(one.shape.name, core, one.shape.report)
            left -= 1
            if any(self._inside(candidate) for candidate in built):
                high = middle - 1
            else:
                low = middle + 1

    def _inside(self, candidate: Built) -> bool:
        problem = self.workshop.problem
        reference = self.workshop.built["fp32"].score
        return not candidate.problem and problem.metric.loss(reference, candidate.score) <= self.most


def _row(one: Screened, others: Sequence[Screened], good: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """What is known of a shape; ``good`` are size and time of files that are in budget already."""
    dropped = ""
    if any(size <= one.bytes and time <= one.time for size, time in good):
        dropped = "the original's own network is in budget, as small and as fast"
    elif better := [other.shape.name for other in others if _dominates(other, one)]:
        dropped = f"{better[0]} is as small, as fast, and can hold as much"
    log.info("compress: %s would have %.1f KiB and %.3f of the time", one.shape.name, one.bytes / 1024, one.time)
    return {
        "name": one.shape.name,
        "network": one.shape.report,
        "bytes": one.bytes,
        "time": one.time,
        "capacity": one.capacity,
        "dropped": dropped,
    }


def _dominates(other: Screened, one: Screened) -> bool:
    """Whether ``other`` is as small, as fast and as capable, and better in one of these."""
    pairs = [(other.bytes, one.bytes), (other.time, one.time), (-other.capacity, -one.capacity)]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _hopeless(
    pair: tuple[Screened, float], others: Sequence[tuple[Screened, float]], loss: Callable[[float, float], float]
) -> bool:
    """Whether training went wrong, or a shape that is smaller and faster learnt more in the same time."""
    one, score = pair
    if not math.isfinite(score):
        return True
    return any(
        other.bytes <= one.bytes and other.time <= one.time and math.isfinite(reached) and loss(reached, score) > 0
        for other, reached in others
        if other is not one
    )


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most ``count`` items, evenly spaced, and in an order whose every beginning is spread out too."""
    if len(items) > count:
        items = [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
    bits = max(1, (len(items) - 1).bit_length())
    order = sorted(range(len(items)), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))
    return [items[index] for index in order]
