"""The judge's table of cases: what was measured, and the one word that follows from it."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tasks.core.measured import Measured
from tasks.core.verdict import Terms, Verdict, judge

NAN, INF = float("nan"), float("inf")
MARGIN = 0.01
TERMS = Terms(confidence=0.95, max_gain=0.02, rarest=400, bounded=True)


def metric(loss: float = 0.0, lower: float = 0.0, upper: float = 0.0, **own: Any) -> Measured:
    given = {"original": 0.5, "shipped": 0.5 - loss, "margin": MARGIN, "n": 1000} | own
    return Measured(kind="metric", name="auc", rule="non_inferior", loss=loss, lower=lower, upper=upper, **given)


def harm(lower: float = 0.0, **own: Any) -> Measured:
    given = {"kind": "slice", "name": "auc where x is 1", "loss": lower + 0.01, "upper": lower + 0.02, "n": 50} | own
    return Measured(rule="no_harm", lower=lower, **({"margin": MARGIN} | given))


def most(loss: float | None = 0.0, **own: Any) -> Measured:
    return Measured(rule="at_most", loss=loss, **({"kind": "budget", "name": "size", "n": 0, "margin": 1.0} | own))


def proven(**own: Any) -> Measured:
    """Another proof of non-inferiority than the metric's."""
    given = {"loss": 0.0, "lower": 0.0, "upper": 0.0, "margin": 0.1, "n": 100} | own
    return Measured(kind="robustness", name="auc on noise", rule="non_inferior", **given)


def found(*problems: str, **own: Any) -> Measured:
    given = {"kind": "data", "name": "shared rows", "rule": "nothing_found", "n": 0} | own
    return Measured(problems=problems, **given)


GOOD = metric(0.004, 0.001, 0.007)

CASES: dict[str, tuple[list[Measured], str]] = {
    # The metric's proof.
    "no difference": ([metric()], "ACCEPT"),
    "a small drop, tightly known": ([GOOD], "ACCEPT"),
    "the bound on the margin": ([metric(0.005, 0, MARGIN)], "ACCEPT"),
    "the bound just beyond it": ([metric(0.005, 0, math.nextafter(MARGIN, 1))], "INCONCLUSIVE"),
    "a gain": ([metric(-0.005, -0.01, 0.001)], "ACCEPT"),
    "a gain that cannot be trusted yet": ([metric(-0.005, -0.03, 0.02)], "INCONCLUSIVE"),
    "the largest gain": ([metric(-0.02, -0.03, -0.01)], "ACCEPT"),
    "an implausible gain": ([metric(-0.021, -0.03, -0.01)], "ANOMALOUS"),
    "surely worse": ([metric(0.05, 0.03, 0.07)], "REGRESSION"),
    "the lower bound on the margin": ([metric(0.05, MARGIN, 0.07)], "INCONCLUSIVE"),
    "the lower bound just beyond it": ([metric(0.05, math.nextafter(MARGIN, 1), 0.07)], "REGRESSION"),
    "worse, but how much is open": ([metric(0.05, -0.01, 0.11)], "INCONCLUSIVE"),
    "a margin of nothing": ([metric(margin=0.0)], "INCONCLUSIVE"),
    "a negative margin": ([metric(-0.01, -0.015, -0.012, margin=-0.001)], "INCONCLUSIVE"),
    # What cannot be.
    "nothing": ([], "ANOMALOUS"),
    "no metric": ([harm(), found()], "ANOMALOUS"),
    "two metrics": ([metric(), metric()], "ANOMALOUS"),
    "a metric by another rule": ([replace(metric(), rule="no_harm")], "ANOMALOUS"),
    "no loss": ([metric(NAN)], "ANOMALOUS"),
    "no lower bound": ([metric(0, NAN, 0)], "ANOMALOUS"),
    "no upper bound": ([metric(0, 0, NAN)], "ANOMALOUS"),
    "an infinite bound": ([metric(0, 0, INF)], "ANOMALOUS"),
    "a bound of less than anything": ([metric(0, -INF, 0)], "ANOMALOUS"),
    "no figure of the original": ([metric(original=NAN)], "ANOMALOUS"),
    "no figure of the candidate": ([metric(shipped=INF)], "ANOMALOUS"),
    "a figure left out": ([metric(original=None)], "ANOMALOUS"),
    "a margin that is no number": ([metric(margin=NAN)], "ANOMALOUS"),
    "no margin": ([metric(margin=None)], "ANOMALOUS"),
    "bounds the wrong way round": ([metric(0.0, 0.001, -0.001)], "ANOMALOUS"),
    "no rows": ([metric(n=0)], "ANOMALOUS"),
    "fewer than no rows": ([GOOD, found(n=-1)], "ANOMALOUS"),
    "a slice without a lower bound": ([GOOD, harm(loss=0.0, lower=NAN)], "ANOMALOUS"),
    "a slice that lacks one": ([GOOD, replace(harm(), lower=None)], "ANOMALOUS"),
    "a slice with bounds the wrong way round": ([GOOD, harm(upper=-1.0)], "ANOMALOUS"),
    "a slice of no rows": ([GOOD, harm(n=0)], "ANOMALOUS"),
    "a budget that was not measured": ([GOOD, most(None)], "ANOMALOUS"),
    "a budget that is no number": ([GOOD, most(NAN)], "ANOMALOUS"),
    "a budget without a limit": ([GOOD, most(0.0, margin=None)], "ANOMALOUS"),
    "a rule that is none": ([GOOD, replace(found(), rule="hope")], "ANOMALOUS"),  # type: ignore[arg-type]
    "a failure that would pass": ([GOOD, found("shared", fails_as="ACCEPT")], "ANOMALOUS"),
    # The other rules.
    "no harm shown": ([GOOD, harm()], "ACCEPT"),
    "harm on the margin": ([GOOD, harm(MARGIN)], "ACCEPT"),
    "harm beyond it": ([GOOD, harm(math.nextafter(MARGIN, 1))], "REGRESSION"),
    "a slice that gains much": ([GOOD, harm(-0.5)], "ACCEPT"),
    "a slice of few rows": ([GOOD, harm(-0.5, loss=0.2, upper=0.9, n=3)], "ACCEPT"),
    "within a limit": ([GOOD, most(0.9)], "ACCEPT"),
    "on a limit": ([GOOD, most(1.0)], "ACCEPT"),
    "over a limit": ([GOOD, most(1.1)], "REGRESSION"),
    "over a budget": ([GOOD, most(1.1, fails_as="INFEASIBLE")], "INFEASIBLE"),
    "a limit of nothing": ([GOOD, most(0.0, margin=0.0)], "ACCEPT"),
    "nothing found": ([GOOD, found()], "ACCEPT"),
    "something found": ([GOOD, found("a row is shared")], "REGRESSION"),
    "something found that cannot be": ([GOOD, found("a row is shared", fails_as="ANOMALOUS")], "ANOMALOUS"),
    "a problem beside good figures": ([GOOD, most(0.0, problems=("edited",))], "REGRESSION"),
    "another proof": ([GOOD, proven()], "ACCEPT"),
    "another proof of few rows": ([GOOD, proven(n=3)], "ACCEPT"),
    "another proof that fails": ([GOOD, proven(loss=0.3, lower=0.2, upper=0.4)], "REGRESSION"),
    "another proof that is open": ([GOOD, proven(upper=0.2)], "INCONCLUSIVE"),
    "another one's gain": ([GOOD, proven(loss=-0.5, lower=-0.6)], "ACCEPT"),
    # Of several words the gravest.
    "anomalous before worse": ([metric(0.05, 0.03, 0.07), found("x", fails_as="ANOMALOUS")], "ANOMALOUS"),
    "worse before over budget": ([metric(0.05, 0.03, 0.07), most(2.0, fails_as="INFEASIBLE")], "REGRESSION"),
    "over budget before open": ([metric(0, -1, 1), most(2.0, fails_as="INFEASIBLE")], "INFEASIBLE"),
    "open before accepted": ([metric(0, -1, 1), harm(), most(), found()], "INCONCLUSIVE"),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    measured, expected = CASES[name]
    given = judge(measured, TERMS)
    assert given.verdict == expected
    assert given.reason
    assert [line.measured for line in given.lines] == measured
    assert all(line.reason for line in given.lines)


def test_the_order_of_lines_does_not_change_the_word() -> None:
    measured = [metric(0.05, 0.03, 0.07), found("x", fails_as="ANOMALOUS"), most(2.0, fails_as="INFEASIBLE"), harm()]
    assert {judge(order, TERMS).verdict for order in itertools.permutations(measured)} == {"ANOMALOUS"}


def test_the_reason_is_that_of_the_line_that_decided() -> None:
    given = judge([GOOD, harm(0.05, name="recall of 6"), most(2.0, name="size", fails_as="INFEASIBLE")], TERMS)
    assert [line.verdict for line in given.lines] == ["ACCEPT", "REGRESSION", "INFEASIBLE"]
    assert given.reason == given.lines[1].reason
    assert given.reason == "the loss of recall of 6 is at least 0.05, beyond the margin of 0.01"
    assert judge([found(), GOOD], TERMS).reason == "the loss of auc is at most 0.007, within the margin of 0.01"


def test_problems_are_all_said() -> None:
    assert judge([GOOD, found("one", "two")], TERMS).reason == "shared rows: one; two"


@pytest.mark.parametrize("max_gain", [NAN, -1.0])
def test_a_gain_is_never_plausible_without_a_limit_to_it(max_gain: float) -> None:
    assert judge([metric()], replace(TERMS, max_gain=max_gain)).verdict == "ANOMALOUS"


# Rows.


def number_before(reason: str, words: str) -> int:
    said = re.search(rf"(\d+) {words}", reason)
    assert said
    return int(said[1])


def test_inconclusive_names_the_rows_that_bring_the_bound_to_the_margin_and_the_least_loss_seen() -> None:
    """The bound lies 0.016 above a drop of 0.002; half of that fits below the margin, so four times the rows."""
    reason = judge([metric(0.002, -0.01, 0.018, n=500)], TERMS).reason
    assert number_before(reason, "test rows would decide") == pytest.approx(2000, abs=1)
    assert "500 were given" in reason
    assert "could have seen is 0.0242" in reason, "0.016 * (1 + 0.8416 / 1.6449)"


def test_no_fewer_rows_are_named_than_could_meet_a_loss_at_all() -> None:
    """299 of the rarest are needed; 10 of 500 rows are of it."""
    reason = judge([metric(0.0, -0.02, 0.0101, n=500)], replace(TERMS, rarest=10)).reason
    assert number_before(reason, "test rows would decide") == 14950


@pytest.mark.parametrize("loss", [MARGIN, 0.03])
def test_no_number_of_rows_is_promised_when_the_loss_itself_is_too_large(loss: float) -> None:
    reason = judge([metric(loss, -0.01, 0.09)], TERMS).reason
    assert "more rows would hardly help" in reason
    assert "would decide" not in reason


def few(measured: Measured, rarest: int, bounded: bool = True) -> Verdict:
    return judge([measured], replace(TERMS, rarest=rarest, bounded=bounded, max_gain=1000.0))


def test_too_few_rows_of_the_rarest_thing_prove_nothing() -> None:
    """ln 0.05 / ln 0.99 = 298.07 rows show a loss of one in a hundred with 95 % confidence."""
    assert few(metric(), 299).verdict == "ACCEPT"
    open_ = few(metric(), 298)
    assert open_.verdict == "INCONCLUSIVE"
    assert "at least 299 are needed" in open_.reason
    assert "could have shown is 0.01" in open_.reason
    assert few(metric(), 0).verdict == "INCONCLUSIVE"


def test_a_margin_with_a_unit_counts_as_a_share_of_the_figure() -> None:
    """20 of 2000 minutes is one in a hundred as well."""
    minutes = metric(original=2000.0, shipped=2000.0, margin=20.0)
    assert few(minutes, 298, bounded=False).verdict == "INCONCLUSIVE"
    assert few(minutes, 299, bounded=False).verdict == "ACCEPT"
    assert few(replace(minutes, original=10.0), 1, bounded=False).verdict == "ACCEPT"
    assert few(replace(minutes, original=0.0), 1, bounded=False).verdict == "ACCEPT"


# Properties, over many random cases.


def random_lines(random: np.random.Generator) -> list[Measured]:
    """A metric's line with a plausible gain, and some lines of all other rules, near their margins."""
    loss, low, high = random.normal(0, 0.008), *random.exponential(0.006, 2)
    lines = [metric(max(loss, -0.02), max(loss, -0.02) - low, max(loss, -0.02) + high)]
    for _ in range(random.integers(0, 4)):
        below, above = random.exponential(0.01, 2)
        value = random.normal(0, 0.02)
        lines.append(harm(value - below, loss=value, upper=value + above))
        lines.append(most(random.normal(0.5, 0.3)))
        lines.append(proven(loss=value, lower=value - below, upper=value + above))
    return lines


def worse(line: Measured, by: float) -> Measured:
    shifted = {name: value + by for name in ("loss", "lower", "upper") if (value := getattr(line, name)) is not None}
    return replace(line, **shifted)


@pytest.mark.parametrize("seed", range(300))
def test_a_larger_loss_never_turns_a_no_into_a_yes(seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = random_lines(random)
    before = judge(lines, TERMS).verdict
    index, by = int(random.integers(len(lines))), float(random.exponential(0.01))
    after = judge([worse(line, by) if place == index else line for place, line in enumerate(lines)], TERMS).verdict
    assert before == "ACCEPT" or after != "ACCEPT"
    assert before != "REGRESSION" or after == "REGRESSION"


@pytest.mark.parametrize("seed", range(100))
def test_a_further_line_never_turns_a_no_into_a_yes(seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = random_lines(random)
    words = [judge(lines[:count], TERMS).verdict for count in range(1, len(lines) + 1)]
    assert words == sorted(words, key=["ACCEPT", "INCONCLUSIVE", "INFEASIBLE", "REGRESSION", "ANOMALOUS"].index)


@pytest.mark.parametrize("seed", range(100))
def test_a_narrower_margin_and_wider_bounds_never_turn_a_no_into_a_yes(seed: int) -> None:
    random = np.random.default_rng(seed)
    (line,) = random_lines(random)[:1]
    stricter = replace(line, margin=MARGIN * random.random())
    vaguer = replace(line, upper=(line.upper or 0) + random.exponential(0.01))
    accepted = judge([line], TERMS).verdict == "ACCEPT"
    for other in (stricter, vaguer):
        assert accepted or judge([other], TERMS).verdict != "ACCEPT"


@pytest.mark.parametrize("seed", range(50))
def test_a_figure_that_is_no_number_is_never_accepted(seed: int) -> None:
    random = np.random.default_rng(seed)
    lines = random_lines(random)
    index = int(random.integers(len(lines)))
    field = random.choice([name for name in ("loss", "margin") if getattr(lines[index], name) is not None])
    value = (NAN, INF, -INF)[int(random.integers(3))]
    lines[index] = replace(lines[index], **{str(field): value})
    assert judge(lines, TERMS).verdict == "ANOMALOUS"
