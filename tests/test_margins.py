"""Margins of a params file in the unit of the metric."""

from __future__ import annotations

import pytest

from tasks.core.margins import absolute
from tasks.core.metrics import Metric, find

AUC, RMSE = find("auc", "binary"), find("rmse", "regression")


@pytest.mark.parametrize(
    ("margin", "metric", "figure", "expected"),
    [
        (None, AUC, 0.7, 0.002),
        (None, RMSE, 36.0, 0.36),
        ("1%", AUC, 0.7, 0.007),
        ("2.5%", RMSE, 40.0, 1.0),
        ("1%", find("r2", "regression"), -0.5, 0.005),
        (0.4, RMSE, 36.0, 0.4),
        (None, RMSE, 0.0, 0.0),
    ],
)
def test_margins_in_the_unit_of_the_metric(
    margin: float | str | None, metric: Metric, figure: float, expected: float
) -> None:
    assert absolute(margin, metric, figure) == pytest.approx(expected)
