"""The Brier score: mean squared distance between the probability and what happened (Brier, 1950, for two classes)."""

from __future__ import annotations

import numpy as np

from tasks.core.metrics.metric import Array, Figure, Metric, one_a_row, weighted_mean


def _prepare(labels: Array, answers: Array) -> Figure:
    """The figure of fixed labels and answers, for any weights of the rows."""
    return weighted_mean((one_a_row(labels, answers).astype(np.float64) - labels) ** 2)


#: `base.metric: brier`. A plain function with the attributes `tasks` and `higher_is_better` would do as well; what is
#: prepared once and then linear in the rows makes the gate's thousands of resamples fast.
brier = Metric("brier", ("binary",), higher_is_better=False, bounded=True, prepare=_prepare)
