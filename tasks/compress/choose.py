"""Which candidate goes on to the gate: pure arithmetic on what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.compress.race import Lap
from tasks.core.metrics import Metric


@dataclass(frozen=True)
class Candidate:
    """A file that could be shipped.

    Attributes:
        name: ``fp32`` or the method that made it.
        score: the metric on validation.
        bytes: size of the file.
    """

    name: str
    score: float
    bytes: int


@dataclass(frozen=True)
class Choice:
    """The chosen candidate's name, and for every candidate why it was or was not taken."""

    chosen: str
    reasons: Mapping[str, str]


def choose(
    candidates: Sequence[Candidate],
    laps: Mapping[str, Mapping[int, Lap]],
    metric: Metric,
    max_metric_drop: float,
    max_slowdown: float,
) -> Choice:
    """Take the smallest file that keeps its quality and is not shown to be slower than fp32; else fp32 itself.

    "Shown to be slower" means that the lower end of the ratio's interval lies above ``1 + max_slowdown`` at any batch
    size. Reasons carry no time: they are part of a hashed output.

    Args:
        candidates: the first one is fp32.
        laps: name -> batch size -> times.
        metric: which way is better.
        max_metric_drop: largest loss of it against fp32.
        max_slowdown: largest share of time above fp32.
    """
    reference = candidates[0]
    reasons, eligible = {}, [reference]
    for candidate in candidates[1:]:
        problem = _problem(candidate, reference, laps.get(candidate.name, {}), metric, max_metric_drop, max_slowdown)
        if problem is None:
            eligible.append(candidate)
        else:
            reasons[candidate.name] = problem
    chosen = min(eligible, key=lambda candidate: (candidate.bytes, candidate.name))
    for candidate in eligible:
        reasons[candidate.name] = (
            "the smallest eligible file" if candidate is chosen else f"eligible, but larger than {chosen.name}"
        )
    if chosen is reference and len(candidates) > 1:
        others = "; ".join(f"{name}: {reasons[name]}" for name in sorted(reasons) if name != reference.name)
        reasons[reference.name] = f"the original stays: {others}"
    return Choice(chosen.name, reasons)


def _problem(
    candidate: Candidate,
    reference: Candidate,
    laps: Mapping[int, Lap],
    metric: Metric,
    max_metric_drop: float,
    max_slowdown: float,
) -> str | None:
    drop = metric.loss(reference.score, candidate.score)
    if math.isnan(drop):
        return "its answers on validation are not finite"
    if drop > max_metric_drop:
        return f"{metric.name} on validation gets worse by {drop:.5f}, more than {max_metric_drop:.5g}"
    slower = [batch for batch, lap in laps.items() if not lap.ratio_low <= 1 + max_slowdown]  # NaN is no proof
    if slower:
        return f"slower than fp32 by more than {max_slowdown:.0%} at batch {', '.join(map(str, slower))}"
    return None
