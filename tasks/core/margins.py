"""Margins of a params file as absolute differences of a metric."""

from __future__ import annotations

from tasks.core.metrics import Metric

#: Where a params file gives none: a difference of a metric between 0 and 1, a share of the figure of any other.
BOUNDED, SHARE = 0.002, 0.01


def absolute(margin: float | str | None, metric: Metric, figure: float) -> float:
    """The margin in the metric's own unit.

    Args:
        margin: a number as it is, a share such as ``1%`` of the figure's size, or None: 0.002 if the metric lies
            between 0 and 1, else 1 % of the figure's size.
        metric: the metric.
        figure: the original's.
    """
    if margin is None:
        return BOUNDED if metric.bounded else SHARE * abs(figure)
    if isinstance(margin, str):
        return float(margin.removesuffix("%")) / 100 * abs(figure)
    return margin
