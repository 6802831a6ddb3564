"""What the checks measure, before anything is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tasks.core.statistics.comparison import Comparison

Word = Literal["ACCEPT", "REGRESSION", "INCONCLUSIVE", "ANOMALOUS", "INFEASIBLE"]
Rule = Literal["non_inferior", "no_harm", "at_most", "nothing_found"]


@dataclass(frozen=True)
class Measured:
    """One thing measured of both models.

    Attributes:
        kind: what it belongs to: ``metric``, ``class``, ``slice``, ``flips``, ``calibration``, ``scores``,
            ``explanation``, ``privacy``, ``robustness``, ``mechanics``, ``budget``, ``data`` or ``use``.
        name: in words, such as ``recall of class 6``.
        rule: how it is judged.

            * ``non_inferior``: the upper bound of the loss must lie within the margin; else nothing is proven;
            * ``no_harm``: a loss beyond the margin must not be shown: the lower bound must lie within it;
            * ``at_most``: the loss itself must lie within the margin;
            * ``nothing_found``: there must be no problems.
        fails_as: the word for a rule that is broken.
        n: rows that it rests on.
        original: the original's figure, None if it has none.
        shipped: the exported file's.
        loss: how much worse the exported file is, whichever way the figure points; positive is worse.
        lower: one-sided lower confidence bound of the loss.
        upper: one-sided upper confidence bound of the loss.
        margin: largest acceptable loss.
        problems: what is wrong, a sentence each.
        note: what else a reader should know, such as the least loss that so few rows could have shown.
        varies: whether its figures differ from run to run, as times and counts of runs do: an ACCEPT keeps the limit
            alone, and the run record has the figures.
    """

    kind: str
    name: str
    rule: Rule
    n: int
    fails_as: Word = "REGRESSION"
    original: float | None = None
    shipped: float | None = None
    loss: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    problems: tuple[str, ...] = ()
    note: str = ""
    varies: bool = False


def proof(metric: str, comparison: Comparison, margin: float) -> Measured:
    """The line of the metric; the margin is in its unit."""
    mcnemar = "" if comparison.mcnemar is None else f"; McNemar's exact p {comparison.mcnemar:.3g}"
    return Measured(
        "metric",
        metric,
        "non_inferior",
        comparison.n,
        original=comparison.original,
        shipped=comparison.shipped,
        loss=comparison.drop,
        lower=comparison.lower,
        upper=comparison.upper,
        margin=margin,
        note=comparison.method + mcnemar,
    )
