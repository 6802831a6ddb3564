"""Flips: rows that the exported file answers otherwise than the original, though the averages may agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tasks.core.measured import Measured
from tasks.core.metrics.metric import Array, one_a_row, weighted_mean
from tasks.verify.behaviour import bootstrap, errors, overlap, probabilities, resamples, spread
from tasks.verify.case import Case

#: Most share of rows with a changed answer. Training the same network anew from another seed changes several per cent
#: of the decisions, on hard data more than ten (Bhojanapalli et al., "On the Reproducibility of Neural Network
#: Predictions", 2021): a compressed model is to stay nearer to its original than that. Lists of items change more
#: easily, since their ends are close calls; a quarter of a list may be others.
CHANGED: Mapping[str, float] = {"binary": 0.1, "multiclass": 0.1, "regression": 0.1, "ranking": 0.25}
#: Most share of rows whose right answer became a wrong one (negative flips: Yan et al., "Positive-Congruent Training",
#: CVPR 2021): half of the above, as changes of a model that got no worse go both ways alike.
SPOILT = 0.05
#: An answer has changed if it moved by more than this share of the labels' standard deviation: what Cohen (1988) calls
#: a small effect.
SHIFT = 0.2
#: Length of the lists that are compared, and rows that are listed.
TOP, WORST = 10, 20


@dataclass(frozen=True)
class Share:
    """A share of the rows.

    Attributes:
        rows: rows with any of it.
        share: mean over the rows.
        lower: one-sided lower confidence bound of the share.
        upper: one-sided upper confidence bound.
    """

    rows: int
    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Moved:
    """A row whose answer moved towards wrong.

    Attributes:
        row: its number among the case's rows.
        label: a class, quantity or item.
        original: the class that the original decided for, its quantity, or its list of items.
        shipped: likewise of the exported file.
        original_error: how wrong the original was: see :func:`tasks.verify.behaviour.errors`.
        shipped_error: how wrong the exported file is.
    """

    row: int
    label: Any
    original: Any
    shipped: Any
    original_error: float
    shipped_error: float


@dataclass(frozen=True)
class Flips:
    """What a report shows of changed answers: how many, how many got wrong or right, and the worst ones first."""

    changed: Share
    spoilt: Share
    mended: Share
    worst: tuple[Moved, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measure(
    case: Case,
    changed: float | None = None,
    spoilt: float = SPOILT,
    shift: float = SHIFT,
    top: int = TOP,
    worst: int = WORST,
) -> tuple[list[Measured], Flips]:
    """Share of changed answers, and of those that were right and became wrong.

    Of classes, the decision (the greatest probability) changes. Of a quantity, the answer moves by more than ``shift``
    labels' spreads, and its distance from the label grows or shrinks by that. Of a list, items are replaced, and the
    label is no longer in it.

    Args:
        case: both models' answers.
        changed: margin of the changed share; None is the task's in :data:`CHANGED`.
        spoilt: margin of the share that became wrong.
        shift: share of the labels' standard deviation.
        top: length of the lists that are compared.
        worst: rows to list.

    Raises:
        ValueError: if answers do not fit the task.
    """
    names, (moved, worse, better) = _changes(case, shift, top)
    found = Flips(_share(case, moved), _share(case, worse), _share(case, better), _worst(case, top, worst))
    limits = CHANGED[case.task] if changed is None else changed, spoilt
    said = f"{found.spoilt.rows} of {len(moved)} rows became wrong, {found.mended.rows} became right"
    lines = [
        Measured(
            "flips", name, "no_harm", len(moved),
            loss=one.share, lower=one.lower, upper=one.upper, margin=limit, note=said,
        )
        for name, one, limit in zip(names, (found.changed, found.spoilt), limits, strict=True)
    ]  # fmt: skip
    return lines, found


def _changes(case: Case, shift: float, top: int) -> tuple[tuple[str, str], tuple[Array, Array, Array]]:
    """Names of what changes and what gets wrong; of each row whether it (or what share of it) changed, got wrong, got
    right, [n]."""
    if case.task == "ranking":
        lists = case.original[:, :top], case.shipped[:, :top]
        hits = [(items == case.labels[:, None]).any(axis=1) for items in lists]
        names = f"items of the first {lists[0].shape[1]} that changed", "hits that became misses"
        return names, (1 - overlap(*lists), hits[0] & ~hits[1], ~hits[0] & hits[1])
    if case.task == "regression":
        moved = np.abs(_quantity(case, case.shipped) - _quantity(case, case.original))
        grown, least = _growth(case), shift * spread(case.labels)
        names = f"answers that moved by more than {least:.4g}", f"errors that grew by more than {least:.4g}"
        return names, (moved > least, grown > least, -grown > least)
    decisions = [probabilities(answers).argmax(axis=1) for answers in (case.original, case.shipped)]
    right = [decision == case.labels for decision in decisions]
    names = "decisions that changed", "decisions from right to wrong"
    return names, (decisions[0] != decisions[1], right[0] & ~right[1], ~right[0] & right[1])


def _quantity(case: Case, answers: Array) -> Array:
    return one_a_row(case.labels, answers).astype(np.float64)


def _growth(case: Case) -> Array:
    """By how much more wrong the exported file is on each row, [n]."""
    return errors(case.task, case.labels, case.shipped) - errors(case.task, case.labels, case.original)


def _share(case: Case, values: Array) -> Share:
    """Exact bounds of a share of independent rows (Clopper and Pearson, 1934); else bounds by bootstrap."""
    count = int((values > 0).sum())
    if case.groups is not None or values.dtype != np.bool_:
        drawn = resamples(len(values), case.groups, np.random.default_rng(case.seed))
        return Share(count, *bootstrap(weighted_mean(values), drawn, case.confidence))
    from scipy.stats import binomtest

    sides = [
        binomtest(count, len(values), alternative=side).proportion_ci(case.confidence, "exact")
        for side in ("greater", "less")
    ]
    return Share(count, count / len(values), float(sides[0].low), float(sides[1].high))


def _worst(case: Case, top: int, most: int) -> tuple[Moved, ...]:
    """Rows whose error grew most, the worst first; rows that got no worse are not among them."""
    before, growth = errors(case.task, case.labels, case.original), _growth(case)
    order = np.argsort(-growth, kind="stable")[:most]
    rows = order[growth[order] > 0]
    said = [_said(case, values[rows], top) for values in (case.original, case.shipped)]
    labels = [_class(case, label) for label in case.labels[rows].tolist()]
    errors_before, errors_after = before[rows].tolist(), (before + growth)[rows].tolist()
    return tuple(map(Moved, rows.tolist(), labels, *said, errors_before, errors_after))


def _said(case: Case, answers: Array, top: int) -> list[Any]:
    if case.task == "ranking":
        return list(answers[:, :top].tolist())
    if case.task == "regression":
        return list(answers.reshape(len(answers)).tolist())
    return [_class(case, index) for index in probabilities(answers).argmax(axis=1).tolist()]


def _class(case: Case, label: Any) -> Any:
    return case.classes[int(label)] if case.task in ("binary", "multiclass") else label
