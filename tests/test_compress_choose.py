"""Which candidate is taken: a table of cases."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pytest

from tasks.compress.choose import Budget, Candidate, choose, nearest_misses
from tasks.compress.race import Lap, lap
from tasks.core.metrics import find

AUC, RMSE = find("auc", "binary"), find("rmse", "regression")
NAN = float("nan")
LIMIT = 2.0**-10  # exact in binary, so that a drop of exactly the limit can be written down
BUDGET = Budget(LIMIT, 0.1)


def laps(low: float = 0.5, ratio: float = 0.6, batches: tuple[int, ...] = (1, 64), p99: float = 2.0) -> dict[int, Lap]:
    return {batch: Lap(1.0, p99, ratio, low, ratio + 0.1) for batch in batches}


def made(name: str, score: float = 0.80, size: int = 1000, times: Mapping[int, Lap] | None = None) -> Candidate:
    return Candidate(name, score, size, laps() if times is None else times, 10.0)


FP32 = made("fp32", 0.80, 4000, laps(1, 1))
CASES: dict[str, tuple[list[Candidate], str, str]] = {
    "smaller and as good": ([made("int8", 0.7995)], "int8", "best of size and time of 2"),
    "better than fp32": ([made("int8", 0.81)], "int8", "best"),
    "a drop of exactly the limit": ([made("int8", 0.80 - LIMIT)], "int8", "best"),
    "worse": ([made("int8", 0.79)], "fp32", "auc .* worse by 0.01000, more than 0.000976"),
    "no figure": ([made("int8", NAN)], "fp32", "not finite"),
    "larger, and not faster": ([made("int8", size=5000, times=laps(0.9, 1.0))], "fp32", "but fp32 is better"),
    "slower": ([made("int8", times=laps(1.2, 1.3))], "fp32", "slower than fp32 .* at batch 1, 64"),
    "slower at one batch size": (
        [made("int8", times=laps(batches=(1,)) | laps(1.2, 1.3, (64,)))], "fp32", "at batch 64$",
    ),
    "slower, but not shown to be": ([made("int8", times=laps(1.05, 1.4))], "int8", "best"),
    "slower by the limit": ([made("int8", times=laps(1.1, 1.2))], "int8", "best"),
    "no time": ([made("int8", times=laps(NAN, NAN))], "fp32", "slower"),
    "never raced": ([made("int8", times={})], "fp32", "not raced"),
    "does not run": ([Candidate("int8", 0.8, 1, laps(), 1.0, "ended by SIGSEGV")], "fp32", "^ended by SIGSEGV$"),
    "as good, and not shown to be": (
        [Candidate("int8", 0.8, 1000, laps(), 1.0, bound=0.01)], "fp32", "auc .* may get worse by up to 0.01000, more",
    ),
    "no bound": ([Candidate("int8", 0.8, 1000, laps(), 1.0, bound=NAN)], "fp32", "may get worse by up to nan"),
    "shown to be as good": ([Candidate("int8", 0.7995, 1000, laps(), 1.0, bound=LIMIT)], "int8", "best"),
    "the best of several": ([made("b"), made("a", size=900), made("c", 0.5, 10)], "a", "best"),
    "equals go by quality": ([made("a"), made("b", 0.8001)], "b", "best"),
    "equals go by name": ([made("b"), made("a")], "a", "best"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_choice(name: str) -> None:
    others, chosen, reason = CASES[name]
    choice = choose([FP32, *others], AUC, BUDGET, "balanced")
    assert choice.chosen == chosen
    assert set(choice.reasons) == {"fp32", *(other.name for other in others)}
    told = choice.reasons[chosen if chosen != "fp32" else others[0].name]
    assert re.search(reason, told), told


SMALL = made("small", size=500, times=laps(0.8, 0.9))
FAST = made("fast", size=2000, times=laps(0.1, 0.2))
MIDDLE = made("middle", size=600, times=laps(0.3, 0.4))


@pytest.mark.parametrize(("pick", "chosen"), [("smallest", "small"), ("fastest", "fast"), ("balanced", "middle")])
def test_params_name_the_rule_that_picks(pick: str, chosen: str) -> None:
    choice = choose([FP32, SMALL, FAST, MIDDLE], AUC, BUDGET, pick)
    assert choice.chosen == chosen
    assert set(choice.front) == {"small", "fast", "middle"}


def test_the_front_is_what_no_other_candidate_beats() -> None:
    worse = made("worse", 0.7999, 700, laps(0.4, 0.5))
    choice = choose([FP32, MIDDLE, worse, made("better", 0.8001, 700, laps(0.4, 0.5))], AUC, BUDGET, "smallest")
    assert set(choice.front) == {"middle", "better"}


def test_a_lower_error_is_better() -> None:
    choice = choose(
        [made("fp32", 3.1, 4000, laps(1, 1)), made("int8", 3.0), made("other", 3.4, 900)],
        RMSE,
        Budget(0.2, 0.1),
        "smallest",
    )
    assert choice.chosen == "int8"
    assert "rmse on validation gets worse by 0.30000" in choice.reasons["other"]


def test_the_original_stays_where_nothing_is_better() -> None:
    choice = choose([FP32, made("int8", 0.5)], AUC, BUDGET, "balanced")
    assert choice.chosen == "fp32"
    assert choice.reasons["fp32"].startswith("the original stays")
    assert choose([FP32], AUC, Budget(0.0, 0.0), "smallest").chosen == "fp32"


def test_an_original_without_a_figure_is_not_shipped_either() -> None:
    assert choose([made("fp32", NAN), made("int8")], AUC, BUDGET, "balanced").chosen is None


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ({"max_size_kib": 0.9}, r"fp32: 3\.906 KiB, more than 0\.9"),
        ({"max_p99_ms": 1.5}, r"2 ms \(p99\), more than 1\.5"),
        ({"max_memory_mib": 9.0}, r"10 MiB of memory, more than 9"),
        ({"min_speedup": 1.5}, r"fp32: not shown to be 1\.5 times as fast as fp32 at batch 1"),
    ],
)
def test_hard_limits_hold_for_the_original_too(limits: dict[str, float], found: str) -> None:
    candidates = [FP32, made("int8")]
    budget = Budget(LIMIT, 0.1, **limits)
    choice = choose(candidates, AUC, budget, "smallest")
    assert choice.chosen is None
    assert re.search(found, "; ".join(nearest_misses(candidates, choice.reasons, AUC, budget)))


def test_the_nearest_misses_are_those_that_are_least_over_a_limit() -> None:
    budget = Budget(0.01, 0.1, max_size_kib=0.9)
    candidates = [
        FP32,  # 4.3 times the size
        made("far", 0.5, 900),  # 30 times the loss
        made("near", 0.789, 900),  # 1.1 times the loss
        made("large", 0.80, 2048),  # 2.2 times the size
        made("none", NAN),
    ]
    choice = choose(candidates, AUC, budget, "smallest")
    assert choice.chosen is None
    misses = nearest_misses(candidates, choice.reasons, AUC, budget)
    assert [line.split(":")[0] for line in misses] == ["near", "large", "fp32"]


def test_of_no_loss_at_all_every_loss_is_far_off() -> None:
    budget = Budget(0.0, 0.1, max_size_kib=1.0)
    candidates = [FP32, made("worse", 0.3, 900), made("large", 0.80, 1126)]
    choice = choose(candidates, AUC, budget, "smallest")
    assert choice.chosen is None
    misses = nearest_misses(candidates, choice.reasons, AUC, budget)
    assert [line.split(":")[0] for line in misses] == ["large", "fp32", "worse"]


def test_a_lap_is_the_median_of_paired_ratios_with_its_interval() -> None:
    reference = np.linspace(1.0, 3.0, 101)  # the machine slows down meanwhile, for both alike
    found = lap(reference * 0.5, reference)
    assert found.p50_ms == pytest.approx(1.0)
    assert found.p99_ms == pytest.approx(np.quantile(reference * 0.5, 0.99))
    assert (found.ratio_low, found.ratio, found.ratio_high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_of_a_lap_holds_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = random.lognormal(0, 0.3, (2, 60))
        found = lap(1.3 * noise[0], noise[1])
        held += found.ratio_low <= 1.3 <= found.ratio_high
    assert 0.92 <= held / 400 <= 0.99


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_the_interval_of_few_rounds_stays_inside_what_was_seen(count: int) -> None:
    times = np.arange(1.0, count + 1)
    found = lap(times, np.ones(count))
    assert times[0] <= found.ratio_low <= found.ratio <= found.ratio_high <= times[-1]
