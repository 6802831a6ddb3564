"""The judge's table of cases: what the evidence says, and the one word that follows from it."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tasks.verify.bootstrap import Comparison, compare
from tasks.verify.judge import judge

NAN, INF = float("nan"), float("inf")
MARGIN, MAX_GAIN = 0.01, 0.02


def evidence(
    drop: float, lower: float, upper: float, original: float = 0.8, n: int = 1000, rarest: int = 400
) -> Comparison:
    shipped = original - drop
    return Comparison(original, (0.78, 0.82), shipped, (0.78, 0.82), drop, lower, upper, n, rarest)


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
    judgement = judge(found, MARGIN, MAX_GAIN)
    assert judgement.verdict == expected
    assert judgement.reason


def test_a_loss_is_never_taken_for_a_gain() -> None:
    assert judge(evidence(0.03, 0.02, 0.04), MARGIN, MAX_GAIN).verdict == "REGRESSION"
    assert judge(evidence(-0.03, -0.04, -0.02), MARGIN, MAX_GAIN).verdict == "ANOMALOUS"


def rows_named(reason: str) -> int | None:
    found = re.search(r"about (\d+) test rows", reason)
    return int(found[1]) if found else None


def test_inconclusive_names_the_rows_that_bring_the_bound_to_the_margin() -> None:
    """The bound lies 0.016 above a drop of 0.002; half of that fits below the margin, so four times the rows."""
    reason = judge(evidence(0.002, -0.01, 0.018, n=500), MARGIN, MAX_GAIN).reason
    assert rows_named(reason) == pytest.approx(2000, abs=1)
    assert "500 were given" in reason


@pytest.mark.parametrize("drop", [MARGIN, 0.03])
def test_no_number_of_rows_is_promised_when_the_drop_itself_is_too_large(drop: float) -> None:
    reason = judge(evidence(drop, -0.01, 0.09), MARGIN, MAX_GAIN).reason
    assert rows_named(reason) is None
    assert "more rows would hardly help" in reason


def test_the_number_of_rows_that_it_names_does_decide() -> None:
    """Simulated: two models of equal quality, too few rows; with as many as named most repetitions are decided."""
    random = np.random.default_rng(4)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = (random.random(count) < 0.3).astype(float)
        signal = labels * 1.2 + random.normal(size=count)
        return labels, signal + 0.2 * random.normal(size=count), signal + 0.2 * random.normal(size=count)

    few = compare(*draw(800), 0.95, 400, 0)
    margin = max(few.drop, 0.0) + (few.upper - few.drop) / 2
    asked = judge(few, margin, 1.0)
    assert asked.verdict == "INCONCLUSIVE"
    needed = rows_named(asked.reason)
    assert needed is not None
    assert 800 < needed < 20_000
    decided = [judge(compare(*draw(needed), 0.95, 300, seed), margin, 1.0).verdict for seed in range(10)]
    assert decided.count("ACCEPT") >= 5
    assert "REGRESSION" not in decided
