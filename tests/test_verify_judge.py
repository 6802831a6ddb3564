"""The judge's table of cases: what the evidence says, and the one word that follows from it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tasks.core.margins import absolute
from tasks.core.metrics import Metric, find
from tasks.verify.bootstrap import Comparison, compare
from tasks.verify.judge import Judgement, judge

NAN, INF = float("nan"), float("inf")
MARGIN, MAX_GAIN = 0.01, 0.02
AUC, RMSE, LOGLOSS = find("auc", "binary"), find("rmse", "regression"), find("logloss", "binary")


def evidence(
    drop: float, lower: float, upper: float, original: float = 0.8, n: int = 1000, rarest: int = 400
) -> Comparison:
    shipped = original - drop
    return Comparison(original, (0.78, 0.82), shipped, (0.78, 0.82), drop, lower, upper, n, rarest)


def said(found: Comparison, margin: float = MARGIN, max_gain: float = MAX_GAIN, metric: Metric = AUC) -> Judgement:
    return judge(found, margin, max_gain, 0.95, metric)


CASES = {
    "no difference": (evidence(0, 0, 0), "ACCEPT"),
    "a small drop, tightly known": (evidence(0.004, 0.001, 0.007), "ACCEPT"),
    "the bound on the margin": (evidence(0.005, 0, MARGIN), "ACCEPT"),
    "the bound just beyond it": (evidence(0.005, 0, math.nextafter(MARGIN, 1)), "INCONCLUSIVE"),
    "a gain": (evidence(-0.005, -0.01, 0.001), "ACCEPT"),
    "a gain that cannot be trusted yet": (evidence(-0.005, -0.03, 0.02), "INCONCLUSIVE"),
    "the largest gain": (evidence(-MAX_GAIN, -0.03, -0.01, original=0.5), "ACCEPT"),
    "an implausible gain": (evidence(-0.021, -0.03, -0.01, original=0.5), "ANOMALOUS"),
    "surely worse": (evidence(0.05, 0.03, 0.07), "REGRESSION"),
    "the lower bound on the margin": (evidence(0.05, MARGIN, 0.07), "INCONCLUSIVE"),
    "the lower bound just beyond it": (evidence(0.05, math.nextafter(MARGIN, 1), 0.07), "REGRESSION"),
    "worse, but how much is open": (evidence(0.05, -0.01, 0.11), "INCONCLUSIVE"),
    "within the margin, but how much is open": (evidence(0.0, -0.02, 0.02), "INCONCLUSIVE"),
    "no drop": (evidence(NAN, 0, 0), "ANOMALOUS"),
    "no lower bound": (evidence(0, NAN, 0), "ANOMALOUS"),
    "no upper bound": (evidence(0, 0, NAN), "ANOMALOUS"),
    "no AUC of the original": (evidence(0, 0, 0, original=NAN), "ANOMALOUS"),
    "an infinite bound": (evidence(0, 0, INF), "ANOMALOUS"),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    found, expected = CASES[name]
    judgement = said(found)
    assert judgement.verdict == expected
    assert judgement.reason


def test_a_loss_is_never_taken_for_a_gain() -> None:
    assert said(evidence(0.03, 0.02, 0.04)).verdict == "REGRESSION"
    assert said(evidence(-0.03, -0.04, -0.02)).verdict == "ANOMALOUS"


def rows_named(reason: str) -> int | None:
    found = re.search(r"about (\d+) test rows", reason)
    return int(found[1]) if found else None


def test_inconclusive_names_the_rows_that_bring_the_bound_to_the_margin() -> None:
    """The bound lies 0.016 above a drop of 0.002; half of that fits below the margin, so four times the rows."""
    reason = said(evidence(0.002, -0.01, 0.018, n=500)).reason
    assert rows_named(reason) == pytest.approx(2000, abs=1)
    assert "500 were given" in reason


@pytest.mark.parametrize("drop", [MARGIN, 0.03])
def test_no_number_of_rows_is_promised_when_the_drop_itself_is_too_large(drop: float) -> None:
    reason = said(evidence(drop, -0.01, 0.09)).reason
    assert rows_named(reason) is None
    assert "more rows would hardly help" in reason


def test_the_number_of_rows_that_it_names_does_decide() -> None:
    """Simulated: two models of equal quality, too few rows; with as many as named most repetitions are decided."""
    random = np.random.default_rng(4)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = (random.random(count) < 0.3).astype(float)
        signal = labels * 1.2 + random.normal(size=count)
        return labels, signal + 0.2 * random.normal(size=count), signal + 0.2 * random.normal(size=count)

    few = compare(AUC, *draw(800), 0.95, 400, 0)
    margin = max(few.drop, 0.0) + (few.upper - few.drop) / 2
    asked = said(few, margin, 1.0)
    assert asked.verdict == "INCONCLUSIVE"
    needed = rows_named(asked.reason)
    assert needed is not None
    assert 800 < needed < 20_000
    decided = [said(compare(AUC, *draw(needed), 0.95, 300, seed), margin, 1.0).verdict for seed in range(10)]
    assert decided.count("ACCEPT") >= 5
    assert "REGRESSION" not in decided


# --- Metrics of either direction, with and without a unit


def test_reasons_name_the_metric_and_its_direction() -> None:
    assert said(evidence(0, 0, 0)).reason.startswith("the drop in auc is at most 0")
    assert said(evidence(0, 0, 0), metric=RMSE).reason.startswith("the rise of rmse is at most 0")
    assert said(evidence(0.05, 0.03, 0.07), metric=LOGLOSS).reason.startswith("the rise of logloss is at least 0.03")
    assert "rmse gets better by 0.5" in said(evidence(-0.5, -0.6, -0.4), metric=RMSE).reason


def test_too_few_rows_of_the_rarest_class_prove_nothing() -> None:
    """ln 0.05 / ln 0.99 = 298.07 rows show a loss of one in a hundred with 95 % confidence."""
    assert said(evidence(0, 0, 0, rarest=299)).verdict == "ACCEPT"
    few = said(evidence(0, 0, 0, rarest=298))
    assert few.verdict == "INCONCLUSIVE"
    assert "at least 299 are needed" in few.reason


def test_a_margin_with_a_unit_counts_as_a_share_of_the_figure() -> None:
    """20 of 2000 minutes is one in a hundred as well."""
    minutes = evidence(0, 0, 0, original=2000.0, rarest=298)
    assert said(minutes, 20.0, 200.0, RMSE).verdict == "INCONCLUSIVE"
    assert said(evidence(0, 0, 0, original=2000.0, rarest=299), 20.0, 200.0, RMSE).verdict == "ACCEPT"
    assert said(evidence(0, 0, 0, original=10.0, rarest=1), 20.0, 200.0, RMSE).verdict == "ACCEPT"


def test_a_margin_of_nothing_accepts_nothing() -> None:
    judgement = said(evidence(0, 0, 0, original=0.0), 0.0, 0.0, RMSE)
    assert judgement.verdict == "INCONCLUSIVE"
    assert "verify.margin" in judgement.reason
    assert said(evidence(0, 0, 0), NAN).verdict == "ANOMALOUS"


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


def test_a_worse_error_is_a_positive_drop_inside_its_bounds() -> None:
    random = np.random.default_rng(0)
    labels = random.normal(size=2000)
    near, far = labels + 0.1 * random.normal(size=2000), labels + 0.2 * random.normal(size=2000)
    found = compare(RMSE, labels, near, far, 0.95, 400, 0)
    assert found.drop == pytest.approx(found.shipped - found.original)
    assert 0.09 < found.lower < found.drop < found.upper < 0.11
    assert found.original_interval[0] < found.original < found.original_interval[1]
    assert found.rarest == found.n == 2000
    back = compare(RMSE, labels, far, near, 0.95, 400, 0)
    assert (back.drop, back.lower, back.upper) == pytest.approx((-found.drop, -found.upper, -found.lower))


def test_equal_answers_differ_by_nothing_in_any_resample() -> None:
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 3, 300), random.dirichlet([1, 1, 1], 300)
    for name in ("accuracy", "macro_f1", "logloss", "top2"):
        found = compare(find(name, "multiclass"), labels, probabilities, probabilities.copy(), 0.95, 200, 0)
        assert (found.drop, found.lower, found.upper) == (0, 0, 0)


def test_resamples_without_a_class_do_not_count_and_all_of_them_are_no_evidence() -> None:
    labels, scores = np.array([0] * 40 + [1]), np.linspace(0, 1, 41)
    assert compare(AUC, labels, scores, scores, 0.95, 200, 0).upper == 0
    none = compare(AUC, np.zeros(5, dtype=np.int64), scores[:5], scores[:5], 0.95, 200, 0)
    assert math.isnan(none.upper)
    assert said(none).verdict == "ANOMALOUS"
