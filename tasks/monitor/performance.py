"""How good the answers were, once their labels are there, against what the gate had found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tasks.core.margins import absolute
from tasks.core.statistics import paired
from tasks.monitor.bundle import Shown
from tasks.monitor.window import Window

#: Rows that are enough for a tight interval, of more of which so many are drawn; resamples, where it is bootstrapped.
_MOST_ROWS, _RESAMPLES = 50_000, 500
#: Where a params file gives no loss that counts.
_BOUNDED, _SHARE = 0.02, "10%"


@dataclass(frozen=True)
class Performance:
    """The metric in a window.

    Attributes:
        metric: its name.
        figure: on the labelled rows.
        interval: two-sided, at the confidence of the gate's own.
        rows: that have labels.
        shown: the figure on the bundle's test.
        shown_interval: likewise.
        drop: how much worse it is, whichever way the metric points.
        margin: loss that counts.
        p: chance of such a loss if there is none; NaN where there is no interval.
    """

    metric: str
    figure: float
    interval: tuple[float, float]
    rows: int
    shown: float
    shown_interval: tuple[float, float]
    drop: float
    margin: float
    p: float


def labelled(window: Window) -> int:
    """Rows whose label is there."""
    return 0 if window.labels is None or window.answers is None else int((~np.isnan(window.labels)).sum())


def measure(window: Window, shown: Shown, max_drop: float | str | None, seed: int) -> Performance | None:
    """The metric of the rows that have labels; None if it has no value on them.

    Both figures come from rows of their own, so the standard error of the loss is the root of both squares.

    Args:
        window: with answers, and at least one label.
        shown: what the gate found.
        max_drop: as in the settings.
        seed: of the rows that are drawn, and of the resampling.
    """
    from scipy.stats import norm

    assert window.labels is not None  # noqa: S101 (the caller counted them)
    assert window.answers is not None  # noqa: S101
    metric = shown.metric
    places = np.flatnonzero(~np.isnan(window.labels))
    if len(places) > _MOST_ROWS:
        places = np.sort(np.random.default_rng(seed).choice(places, _MOST_ROWS, replace=False))
    kind = np.float32 if shown.task == "regression" else np.int64
    labels, answers = window.labels[places].astype(kind), window.answers[places]
    if metric.support(labels) == 0 or math.isnan(metric(labels, answers)):
        return None
    found = paired(metric, labels, answers, answers, None, shown.confidence, _RESAMPLES, seed)
    drop = metric.loss(shown.figure, found.original)
    wide = [high - low for low, high in (found.original_interval, shown.interval)]
    error = math.hypot(*wide) / (2 * float(norm.ppf((1 + shown.confidence) / 2)))
    p = float(norm.sf(drop / error)) if error > 0 else math.nan
    usual = _BOUNDED if metric.bounded else _SHARE
    margin = absolute(usual if max_drop is None else max_drop, metric, shown.figure)
    return Performance(
        metric.name, found.original, found.original_interval, len(labels), shown.figure, shown.interval, drop, margin, p
    )
