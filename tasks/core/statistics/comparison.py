"""What a comparison of two models on the same rows says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows.

    Attributes:
        original: the metric of the original.
        original_interval: its two-sided interval.
        shipped: the metric of the candidate.
        shipped_interval: its two-sided interval.
        drop: how much worse the candidate is, whichever way the metric points; positive is a loss.
        lower: one-sided lower confidence bound of the drop.
        upper: one-sided upper confidence bound of the drop.
        n: rows.
        rarest: independent rows of the rarest thing that the metric counts; of rows in groups, what they are worth.
        method: how the bounds were found, in words.
        clusters: groups of rows that were resampled as a whole; None where each row stands alone.
        mcnemar: two-sided exact p of McNemar's test of equal shares; None for a metric that is no share of rows.
    """

    original: float
    original_interval: tuple[float, float]
    shipped: float
    shipped_interval: tuple[float, float]
    drop: float
    lower: float
    upper: float
    n: int
    rarest: int
    method: str
    clusters: int | None = None
    mcnemar: float | None = None
