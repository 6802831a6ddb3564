"""Score distribution: whether thresholds set on the original's scores still cut where they did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.core.measured import Measured
from tasks.core.metrics.metric import Array, one_a_row
from tasks.verify.behaviour import probabilities, spread
from tasks.verify.case import Case

#: Largest population stability index: below 0.1 a scorecard counts as unchanged (Siddiqi, "Credit Risk Scorecards",
#: 2006).
INDEX = 0.1
#: Largest Kolmogorov-Smirnov statistic. Whatever the threshold, the share of rows above it changes by no more.
DISTANCE = 0.1
#: A score has not moved if it moved by less than this: a hundredth of the range of probabilities, or of the labels'
#: standard deviation. Else scores crowded near 1 would seem to shift when .9999 becomes .999.
RESOLUTION = 0.01
#: Of the stability index, by convention; and of the drawing.
_TENTHS, _BARS = 10, 20


@dataclass(frozen=True)
class Scores:
    """What a report draws: histograms of both models' scores.

    Attributes:
        about: what the scores are.
        edges: of the bars, one more than there are bars.
        original: rows of each bar.
        shipped: rows of each bar.
    """

    about: str
    edges: list[float]
    original: list[int]
    shipped: list[int]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure(
    case: Case, index: float = INDEX, distance: float = DISTANCE, resolution: float = RESOLUTION
) -> tuple[list[Measured], Scores | None]:
    """Population stability index and Kolmogorov-Smirnov statistic between the models' scores of the same rows.

    They are sizes of a change, not tests: as the rows are the same, nothing was drawn at random. Two classes: the
    probability of class 1; more: the greatest one; quantities: the answer. Lists of items have no scores, and give
    nothing.

    Args:
        case: both models' answers.
        index: margin of the stability index.
        distance: margin of the statistic.
        resolution: share of the scores' range below which a score has not moved.

    Raises:
        ValueError: if answers do not fit the task.
    """
    if case.task == "ranking":
        return [], None
    from scipy.stats import ks_2samp

    original, shipped = _scores(case, case.original), _scores(case, case.shipped)
    least = resolution * (spread(case.labels) if case.task == "regression" else 1)
    moved = np.where(np.abs(shipped - original) <= least, original, shipped)
    statistic = float(ks_2samp(original, moved, method="asymp").statistic)
    lines = [
        Measured("scores", name, "at_most", len(original), loss=loss, margin=margin)
        for name, loss, margin in (
            ("population stability index of the scores", stability(original, moved), index),
            ("Kolmogorov-Smirnov distance of the scores", statistic, distance),
        )
    ]
    return lines, _drawn(case, original, shipped)


def stability(original: Array, shipped: Array) -> float:
    """Population stability index: sum over the original's deciles of (q - p) ln(q / p), shares p of the original, q.

    Half a row is added to each decile, so that an empty one has a logarithm.

    Args:
        original: scores, [n].
        shipped: scores, [m].
    """
    edges = np.unique(np.quantile(original, np.linspace(0, 1, _TENTHS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, each, side="right"), minlength=len(edges) + 1) + 0.5
        for each in (original, shipped)
    ]
    before, after = (count / count.sum() for count in counts)
    return float(((after - before) * np.log(after / before)).sum())


def _scores(case: Case, answers: Array) -> Array:
    if case.task == "regression":
        return one_a_row(case.labels, answers).astype(np.float64)
    chances = probabilities(answers)
    return np.asarray(chances[:, 1] if case.task == "binary" else chances.max(axis=1))


def _drawn(case: Case, original: Array, shipped: Array) -> Scores:
    about, reach = "greatest probability", (0.0, 1.0)
    if case.task == "binary":
        about = f"probability of class {case.classes[1]}"
    if case.task == "regression":
        both = np.concatenate([original, shipped])
        about, reach = "answer", (float(both.min()), float(both.max()))
    edges = np.histogram_bin_edges(original, _BARS, reach)
    bars = [np.histogram(np.clip(each, *reach), edges)[0].tolist() for each in (original, shipped)]
    return Scores(about, edges.tolist(), bars[0], bars[1])
