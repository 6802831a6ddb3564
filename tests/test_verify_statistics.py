"""Bounds of a loss: against published figures, against numeric inversion, against scipy, and where there are none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from tasks.core.metrics import Metric, find
from tasks.core.statistics import bootstrap, exact, greatest_loss, paired, planning, proportions
from tasks.core.statistics.bootstrap import Jackknife, Pair, Resampled
from tasks.core.statistics.exact import tango
from tasks.core.statistics.proportions import Flips
from tasks.verify.case import Case, Scorer

AUC, RMSE, MAE = find("auc", "binary"), find("rmse", "regression"), find("mae", "regression")
ACCURACY = find("accuracy", "multiclass")


def case(
    metric: Metric, labels: np.ndarray, original: np.ndarray, shipped: np.ndarray, groups: np.ndarray | None = None
) -> Case:
    return Case(
        labels, original, shipped, metric, metric.tasks[0], (0, 1), {}, groups, None, Scorer(Path("none")), seed=3
    )


def scored(count: int, noise: float, loss: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores of an original, and of a candidate that differs by noise and is worse by ``loss``."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.3).astype(np.float32)
    original = labels * 1.2 + random.normal(size=count)
    return labels, original, original - loss * labels + noise * random.normal(size=count)


# Paired proportions.


def test_tangos_own_example() -> None:
    """Tango (1998), section 6.1: of 44 pairs the new treatment loses one and wins none; margin 0.1."""
    assert -float(tango(1, 0, 44, 0.1)) == pytest.approx(1.709, abs=5e-4)
    assert stats.norm.cdf(float(tango(1, 0, 44, 0.1))) == pytest.approx(0.044, abs=5e-4)
    by_approximation = optimize.bisect(lambda loss: float(tango(1, 0, 44, loss)) + stats.norm.ppf(0.95), 0.03, 1)
    assert by_approximation == pytest.approx(0.096, abs=5e-4)
    assert Flips(1, 0, 44).bounds(0.95)[1] == pytest.approx(0.1033, abs=5e-4), "P(at most one of 44 is lost) = 5 %"


def test_a_published_table_with_both_tests() -> None:
    """Fagerland, Lydersen and Laake (Statistics in Medicine 33, 2014): 1 and 7 of 21; -0.517 to -0.026, p = 0.070."""
    for bound, quantile in ((-0.517, 1), (-0.026, -1)):
        assert float(tango(1, 7, 21, bound)) == pytest.approx(quantile * stats.norm.ppf(0.975), abs=5e-3)
    lower, upper = Flips(1, 7, 21).bounds(0.975)
    assert (lower, upper) == pytest.approx((-0.517, -0.026), abs=2e-2), "21 rows are few for an approximation"
    assert Flips(1, 7, 21).mcnemar() == pytest.approx(0.0703125, abs=1e-12)


def likeliest(lost: int, won: int, n: int, loss: float) -> float:
    """Share of won rows that makes the counts likeliest under a true loss, by search."""

    def unlikely(share: float) -> float:
        cells = np.array([share + loss, share, 1 - 2 * share - loss])
        return -float(stats.multinomial.logpmf([lost, won, n - lost - won], n, cells / cells.sum()))

    found = optimize.minimize_scalar(
        unlikely, bounds=(max(0.0, -loss), (1 - loss) / 2), method="bounded", options={"xatol": 1e-12}
    )
    return float(found.x)


@pytest.mark.parametrize(("lost", "won", "n"), [(3, 1, 40), (12, 9, 200), (1, 7, 21), (30, 5, 60), (2, 0, 500)])
@pytest.mark.parametrize("loss", [-0.1, 0.02, 0.3])
def test_the_score_is_that_of_the_likelihood_maximised_by_search(lost: int, won: int, n: int, loss: float) -> None:
    share = likeliest(lost, won, n, loss)
    error = math.sqrt((2 * share + loss - loss**2) / n)
    assert float(tango(lost, won, n, loss)) == pytest.approx(((lost - won) / n - loss) / error, rel=2e-3)


@pytest.mark.parametrize(("lost", "won", "n"), [(60, 50, 10_000), (250, 240, 50_000), (2500, 2450, 50_000)])
def test_with_many_flips_the_exact_bound_is_the_approximate_one(lost: int, won: int, n: int) -> None:
    upper = Flips(lost, won, n).bounds(0.95)[1]
    assert float(tango(lost, won, n, upper)) == pytest.approx(-stats.norm.ppf(0.95), abs=2e-3)


@pytest.mark.parametrize(("lost", "won", "n", "loss"), [(1, 0, 30, 0.1), (3, 2, 60, 0.1), (0, 2, 25, 0.0)])
def test_the_p_is_the_largest_sum_over_all_tables(lost: int, won: int, n: int, loss: float) -> None:
    """Every table of n rows, at 2,000 of the shares of flips that the data leave possible."""
    tables = np.array([(a, b) for a in range(n + 1) for b in range(n + 1 - a)])
    low = tables[tango(tables[:, 0], tables[:, 1], n, loss) <= tango(lost, won, n, loss) + 1e-9]
    full = np.column_stack([low, n - low.sum(axis=1)])
    possible = stats.binomtest(lost + won, n).proportion_ci(1 - 1e-7, "exact")
    chances = [
        stats.multinomial.pmf(full, n, [(flips + loss) / 2, (flips - loss) / 2, 1 - flips]).sum()
        for flips in np.linspace(max(loss, possible.low), possible.high, 2000)
    ]
    assert exact.chance(lost, won, n, loss) == pytest.approx(max(chances), abs=1e-3)


@pytest.mark.parametrize("n", [1, 10, 500, 1_000_000])
def test_without_a_flip_the_bound_is_that_of_a_share_of_none(n: int) -> None:
    lower, upper = Flips(0, 0, n).bounds(0.95)
    assert upper == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-4), "such a loss stays unseen with a chance of 5 %"
    assert lower == -upper
    assert Flips(0, 0, n).mcnemar() == 1


def test_a_loss_of_every_row_is_bounded_by_all() -> None:
    lower, upper = Flips(7, 0, 7).bounds(0.95)
    assert upper == 1
    assert lower == pytest.approx(2 * 0.05 ** (1 / 7) - 1, abs=1e-5), "all rows flip, and seven of seven are losses"
    assert Flips(0, 7, 7).bounds(0.95) == (-upper, -lower)
    assert Flips(7, 0, 7).chance(1.5) == 1, "a loss of all is what a true loss of all looks like"


@pytest.mark.parametrize("counts", [(0, 0, 50), (3, 1, 40), (40, 40, 100), (0, 9, 30), (10, 0, 10)])
def test_the_statistic_falls_and_the_p_rises_with_the_loss(counts: tuple[int, int, int]) -> None:
    losses = np.linspace(-1, 1, 401)
    assert (np.diff(tango(*counts, losses)) <= 1e-12).all()
    chances = [Flips(*counts).chance(loss) for loss in (-2.0, -0.3, 0.0, 0.3, 2.0)]
    assert chances == sorted(chances)


@pytest.mark.parametrize("counts", [(9, 2, 300), (30, 10, 150)])
def test_the_p_is_the_level_at_which_the_bound_meets_the_margin(counts: tuple[int, int, int]) -> None:
    flips = Flips(*counts)
    for margin in (0.0, 0.005):
        assert flips.bounds(1 - flips.chance(margin))[0] == pytest.approx(margin, abs=1e-5)


@pytest.mark.parametrize(("n", "margin"), [(2251, 0.002), (480, 0.01), (1000, 0.01)])
def test_the_level_holds_at_the_margin_over_all_tables(n: int, margin: float) -> None:
    """Enumerated, not simulated: chance that a loss as large as the margin is accepted, whatever the flips.

    The first case, with no row won back, is where the uncorrected score test accepts 6.1 %.
    """
    lost, won = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    accepted = np.zeros(lost.shape, dtype=np.bool_)
    for column in range(won.shape[1]):
        for row in range(lost.shape[0]):
            if exact.chance(row, column, n, margin) > 0.05:
                break
            accepted[row, column] = True
    sizes = []
    for more in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        flips = margin + more / n
        chance = stats.multinomial.pmf(
            np.stack([lost, won, n - lost - won], axis=-1), n, [(flips + margin) / 2, (flips - margin) / 2, 1 - flips]
        )
        assert chance.sum() == pytest.approx(1, abs=1e-5)
        sizes.append(chance[accepted].sum())
    assert 0.03 < max(sizes) <= 0.05


def test_the_bound_lies_within_the_margin_where_the_test_rejects_it() -> None:
    for lost, won in ((0, 0), (1, 0), (2, 0), (1, 1), (3, 1), (4, 4), (6, 2)):
        rejected = exact.chance(lost, won, 2251, 0.002) <= 0.05
        assert (Flips(lost, won, 2251).bounds(0.95)[1] <= 0.002) == rejected


@pytest.mark.parametrize("name", ["accuracy", "top1", "top3", "hr@2", "hr@4"])
@pytest.mark.parametrize("count", [1, 40, 171])
def test_the_rows_that_are_right_are_those_that_the_metric_counts_one_by_one(name: str, count: int) -> None:
    random = np.random.default_rng(count)
    ranking = name.startswith("hr")
    metric = find(name, "ranking" if ranking else "multiclass")
    labels = random.integers(0, 5, count)
    answers = np.argsort(random.random((count, 5))) if ranking else random.integers(0, 3, (count, 5)) / 3
    one_by_one = [metric(labels[row : row + 1], answers[row : row + 1]) == 1 for row in range(count)]
    assert proportions.right(metric, labels, answers).tolist() == one_by_one


@pytest.mark.parametrize(
    "name", ["auc", "logloss", "macro_f1", "ndcg@10", "mrr@10", "rmse", "top0", "accuracy_of_mine"]
)
def test_other_metrics_are_no_share_of_right_rows(name: str) -> None:
    assert not proportions.is_share(Metric(name, ("binary",), True, True, ACCURACY.prepare))


def test_a_comparison_of_accuracies_is_tangos() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 600)
    original = np.eye(4)[np.where(random.random(600) < 0.8, labels, 0)]
    shipped = np.where(random.random((600, 1)) < 0.03, np.eye(4)[random.integers(0, 4, 600)], original)
    first, second = original.argmax(axis=1) == labels, shipped.argmax(axis=1) == labels
    flips = Flips(int((first & ~second).sum()), int((second & ~first).sum()), 600)
    found = case(ACCURACY, labels, original, shipped).compare(50)
    assert flips.lost > 0
    assert (found.lower, found.upper) == flips.bounds(0.95)
    assert found.mcnemar == flips.mcnemar()
    assert found.drop == pytest.approx(found.original - found.shipped)
    assert found.original_interval[0] < found.original < found.original_interval[1]
    assert "Tango" in found.method
    assert (found.n, found.rarest, found.clusters) == (600, 600, None)


def test_accuracy_on_rows_in_groups_is_not_tangos() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(random.integers(0, 2, 100), 5)
    original = np.eye(2)[labels]
    shipped = np.where(np.repeat(random.random(100) < 0.1, 5)[:, None], original[:, ::-1], original)
    grouped = case(ACCURACY, labels, original, shipped, np.repeat(np.arange(100), 5)).compare(300)
    alone = case(ACCURACY, labels, original, shipped).compare(300)
    assert "100 groups" in grouped.method
    assert grouped.clusters == 100
    assert grouped.rarest == pytest.approx(100, rel=0.2), "five rows in step are one piece of news"
    assert grouped.mcnemar is None
    assert grouped.upper - grouped.drop > 1.5 * (alone.upper - alone.drop), "five rows in step say no more than one"


@pytest.mark.parametrize("name", ["auc", "accuracy"])
def test_the_bound_that_many_candidates_can_pay_is_near_that_of_the_gate(name: str) -> None:
    metric = find(name, "binary")
    labels, original, shipped = scored(3000, 0.1, 0.02)
    if name == "accuracy":
        original, shipped = (1 / (1 + np.exp(-each)) for each in (original, shipped))
    gate = paired(metric, labels, original, shipped, None, 0.95, 1000, 0)
    bound = greatest_loss(metric, labels, original, shipped, None, 0.95, 0)
    assert bound - gate.drop == pytest.approx(gate.upper - gate.drop, rel=0.1)
    groups = np.arange(3000) // 50
    assert greatest_loss(metric, labels, original, shipped, groups, 0.95, 0) > gate.drop
    assert math.isnan(greatest_loss(AUC, labels, original, shipped, np.zeros(3000), 0.95, 0)), "one group has no spread"


def test_no_rows_are_no_comparison() -> None:
    with pytest.raises(ValueError, match="rows"):
        case(ACCURACY, np.zeros(0, dtype=np.int64), np.zeros((0, 2)), np.zeros((0, 2))).compare(10)


# Bootstrap and jackknife.


def resampled(
    metric: Metric, given: tuple[np.ndarray, np.ndarray, np.ndarray], groups: np.ndarray | None = None, **own: Any
) -> bootstrap.Comparison:
    settings = {"confidence": 0.95, "resamples": 200, "seed": 0} | own
    return bootstrap.compare(metric, *given, groups, **settings)


def test_bca_is_scipys() -> None:
    """Skewed errors of few rows, so that percentiles would differ; both with so many resamples that noise is small."""
    random = np.random.default_rng(5)
    labels = np.zeros(40)
    original, shipped = random.exponential(size=40), random.exponential(size=40) ** 2
    ours = resampled(RMSE, (labels, original, shipped), resamples=20_000)

    def loss(first: np.ndarray, second: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sqrt(np.square(second).mean(axis=axis)) - np.sqrt(np.square(first).mean(axis=axis))

    found = stats.bootstrap(
        (original, shipped), loss, paired=True, n_resamples=20_000, confidence_level=0.9, method="BCa", rng=random
    )
    low, high = found.confidence_interval
    width = high - low
    assert (ours.lower, ours.upper) == pytest.approx((low, high), abs=0.03 * width)
    plain = stats.bootstrap(
        (original, shipped), loss, paired=True, confidence_level=0.9, method="percentile", rng=random
    )
    assert abs(plain.confidence_interval.high - high) > 0.06 * width, "the correction is one"
    assert ours.method == "paired BCa bootstrap over rows, 20000 resamples"


def test_the_error_of_a_mean_is_the_textbooks() -> None:
    random = np.random.default_rng(0)
    for count, tolerance in ((150, 1e-9), (5000, 0.2)):
        answers = random.normal(size=(2, count))
        labels = np.full(count, -10.0)
        knife = Jackknife.of(Pair(MAE, labels, *answers, None), 1)
        differences = answers[1] - answers[0]
        assert len(knife.without) == min(count, 200)
        assert knife.loss == pytest.approx(differences.mean())
        assert knife.error == pytest.approx(differences.std(ddof=1) / math.sqrt(count), rel=tolerance)


def test_the_acceleration_of_a_mean_is_a_sixth_of_its_skewness() -> None:
    values = np.random.default_rng(0).exponential(size=120)
    knife = Jackknife.of(Pair(MAE, np.zeros(120), np.zeros(120), values, None), 0)
    assert knife.acceleration == pytest.approx(stats.skew(values) / 6 / math.sqrt(120))


def test_students_bounds_and_p_agree() -> None:
    knife = Jackknife.of(Pair(AUC, *scored(150, 0.5, 0.3), None), 0)
    lower, upper = knife.bounds(0.99)
    assert lower < knife.loss < upper
    assert knife.chance(lower) == pytest.approx(0.01)
    assert knife.chance(knife.loss) == pytest.approx(0.5)


def test_a_loss_without_spread_is_beyond_a_margin_or_not() -> None:
    knife = Jackknife(0.2, np.full(10, 0.2))
    assert knife.bounds(0.999) == (0.2, 0.2)
    assert (knife.chance(0.1), knife.chance(0.2)) == (0, 1)


@pytest.mark.parametrize("knife", [Jackknife(0.2, np.array([0.2])), Jackknife(math.nan, np.full(5, math.nan))])
def test_one_unit_or_no_value_has_neither_bounds_nor_p(knife: Jackknife) -> None:
    assert all(math.isnan(bound) for bound in knife.bounds(0.95))
    assert math.isnan(knife.chance(0.0))


def test_equal_answers_have_no_width() -> None:
    labels, original, _ = scored(300, 0)
    found = resampled(AUC, (labels, original, original.copy()))
    assert (found.drop, found.lower, found.upper) == (0, 0, 0)
    assert "all resamples agree" in found.method


def test_resamples_without_a_class_are_left_out_and_told() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1, 1])
    found = resampled(AUC, (labels, random.random(42), random.random(42)))
    assert math.isfinite(found.upper)
    assert "resamples have no value" in found.method


def test_a_lone_positive_has_no_acceleration_so_percentiles_are_taken_and_told() -> None:
    random = np.random.default_rng(0)
    labels = np.array([0] * 40 + [1])
    found = resampled(AUC, (labels, random.random(41), random.random(41)))
    assert found.lower <= found.upper
    assert "percentiles: the acceleration is not finite" in found.method


def test_an_absent_class_has_no_bounds() -> None:
    scores = np.linspace(0, 1, 30)
    found = resampled(AUC, (np.zeros(30, dtype=np.int64), scores, scores))
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert math.isnan(found.original_interval[0])
    assert "no value in any resample" in found.method


@pytest.mark.parametrize(
    ("draws", "acceleration", "why"),
    [([1.0, 2.0, 3.0], 0.0, "one side"), ([-1.0, 0.0, 1.0], 5.0, "the correction has no value")],
)
def test_where_bca_has_no_value_percentiles_are_taken_and_told(
    draws: list[float], acceleration: float, why: str
) -> None:
    losses = np.array(draws)
    bias = Resampled.of(losses, Jackknife(0.0, np.array([0.0, 1.0]))).bias
    lower, upper, told = Resampled(losses, bias, acceleration).bounds(0.95)
    assert why in told
    assert (lower, upper) == pytest.approx(tuple(np.quantile(losses, [0.05, 0.95])))


def test_the_correction_is_efrons_formula_and_ties_count_half() -> None:
    tied = np.repeat([0.0, 1.0, 2.0], [4, 4, 2])
    assert Resampled.of(tied, Jackknife(1.0, np.array([0.0, 1.0]))).bias == pytest.approx(stats.norm.ppf(0.6))
    even, z = np.linspace(0, 1, 1001), stats.norm.ppf(0.95)
    expected = [stats.norm.cdf(0.3 + (0.3 + sign * z) / (1 - 0.1 * (0.3 + sign * z))) for sign in (-1, 1)]
    assert Resampled(even, 0.3, 0.1).bounds(0.95)[:2] == pytest.approx(expected)


def test_groups_are_resampled_as_a_whole() -> None:
    """Each row five times over, in a group: the very bounds of the rows themselves."""
    given = scored(120, 0.5)
    alone = resampled(AUC, given)
    copies = tuple(np.repeat(values, 5) for values in given)
    grouped = resampled(AUC, copies, np.repeat(np.arange(120), 5))
    assert (grouped.lower, grouped.upper) == pytest.approx((alone.lower, alone.upper))
    assert (grouped.n, grouped.clusters, alone.clusters) == (600, 120, None)
    assert grouped.rarest == min(5 * alone.rarest, 120)
    careless = resampled(AUC, copies)
    assert careless.upper - careless.lower < 0.6 * (alone.upper - alone.lower)


def test_one_group_has_no_spread_and_so_no_bounds() -> None:
    found = resampled(AUC, scored(50, 0.5), np.zeros(50))
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert found.rarest == 1


@pytest.mark.parametrize(("alike", "worth"), [(False, 1800), (True, 400)])
def test_rows_in_groups_are_worth_as_many_as_their_losses_vary_alone(alike: bool, worth: int) -> None:
    """400 groups of five rows: errors that all five share are one piece of news, errors of each row are five."""
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), 5)
    drawn = np.repeat(random.normal(size=400), 5) if alike else random.normal(size=2000)
    labels, original = np.zeros(2000), np.ones(2000)
    found = resampled(MAE, (labels, original, original + 0.1 * drawn), groups)
    assert found.clusters == 400
    assert found.rarest == pytest.approx(worth, rel=0.3)
    few = resampled(MAE, (labels[:100], original[:100], original[:100] + 0.1 * drawn[:100]), groups[:100])
    assert few.rarest == few.clusters == 20, "with so few groups their bounds are not to be relied on"


def test_groups_must_be_one_for_each_row() -> None:
    with pytest.raises(ValueError, match="needs a group"):
        resampled(AUC, scored(50, 0.5), np.zeros(49))


def test_the_seed_decides() -> None:
    given = scored(300, 0.3)
    assert resampled(AUC, given, seed=1) == resampled(AUC, given, seed=1)
    assert resampled(AUC, given, seed=1).upper != resampled(AUC, given, seed=2).upper


def test_many_rows_cost_no_more_than_200_figures_of_the_jackknife() -> None:
    calls = []

    def prepare(labels: np.ndarray, answers: np.ndarray) -> Any:
        inner = MAE.prepare(labels, answers)

        def figure(weights: np.ndarray | None) -> float:
            calls.append(1)
            return inner(weights)

        return figure

    counted = Metric("counted", ("regression",), False, False, prepare)
    random = np.random.default_rng(0)
    resampled(counted, tuple(random.normal(size=(3, 20_000))), resamples=10)
    assert len(calls) <= 2 * (10 + 200 + 2)


def test_the_upper_bound_covers_the_true_loss_about_as_often_as_it_says() -> None:
    """Twins of one quality: the true drop is 0, and a 90 % bound lies below it in about one of ten samples."""
    missed = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        labels = (random.random(400) < 0.3).astype(np.float32)
        signal = labels + random.normal(size=400)
        one, other = (signal + 0.5 * random.normal(size=400) for _ in range(2))
        missed += resampled(AUC, (labels, one, other), confidence=0.9, seed=seed).upper < 0
    assert 0.03 <= missed / 150 <= 0.19


# Planning.


@pytest.mark.parametrize(("share", "rows"), [(0.01, 299), (0.002, 1497), (0.5, 5), (1.0, 1), (2.0, 1)])
def test_rows_that_meet_a_loss(share: float, rows: int) -> None:
    assert planning.least_rows(share, 0.95) == rows
    if share < 1:
        assert planning.least_share(rows, 0.95) <= share < planning.least_share(rows - 1, 0.95)
    assert planning.least_share(0, 0.95) == 1


def test_rows_that_would_decide() -> None:
    """The bound lies 0.016 above a drop of 0.002; half of that fits below the margin, so four times the rows."""
    assert planning.rows_to_decide(0.002, 0.018, 0.01, 500) in (2000, 2001)
    assert planning.rows_to_decide(0.01, 0.018, 0.01, 500) is None


def test_the_least_margin_is_one_that_a_true_zero_drop_meets_four_times_in_five() -> None:
    n, discordant = 4000, 0.05
    half = round(n * discordant / 2)
    margin = planning.least_margin(0.0, Flips(half, half, n).bounds(0.95)[1], 0.95)
    draws = np.random.default_rng(0).multinomial(n, [discordant / 2, discordant / 2, 1 - discordant], 20_000)
    accepted = tango(draws[:, 0], draws[:, 1], n, margin) <= -stats.norm.ppf(0.95)
    assert accepted.mean() == pytest.approx(planning.POWER, abs=0.03)


def test_the_least_loss_shown_is_one_that_is_shown_four_times_in_five() -> None:
    n, discordant, margin = 4000, 0.05, 0.005
    half = round(n * discordant / 2)
    loss = planning.least_shown(margin, 0.0, Flips(half, half, n).bounds(0.95)[0], 0.95)
    shares = [(discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant]
    draws = np.random.default_rng(0).multinomial(n, shares, 20_000)
    shown = tango(draws[:, 0], draws[:, 1], n, margin) >= stats.norm.ppf(0.95)
    assert shown.mean() == pytest.approx(planning.POWER, abs=0.03)
