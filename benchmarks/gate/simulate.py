"""How often the gate errs: simulated pairs of models whose true loss is known, judged by the gate's own statistics.

Run it from the project's root: `python benchmarks/gate/simulate.py` (README.md beside it says what it shows). Each line
is one setting: how often models are accepted that truly lose as much as the margin (with the Clopper-Pearson 95 %
interval), how often models that lose nothing are, and both for a gate that compares two figures as they are.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tasks.core.measured import proof
from tasks.core.metrics import Auc, Metric, find
from tasks.core.statistics import Comparison, exact, paired, planning
from tasks.core.statistics.bootstrap import PARTS, Jackknife, Resampled
from tasks.core.verdict import Terms, judge

CONFIDENCE = 0.95
QUANTILE = float(stats.norm.ppf(CONFIDENCE))
_SEED = 2017
_ACCURACIES = (0.7, 0.8, 0.9, 0.95, 0.99)
_DISCORDANCES = (0.01, 0.02, 0.05, 0.1)

Array = np.ndarray
#: A generator and the true loss -> labels, answers of the original, answers of the candidate, [n] each.
Draw = Callable[[np.random.Generator, float], tuple[Array, Array, Array]]


@dataclass(frozen=True)
class Setting:
    """What is simulated: a metric on n rows, and the margin."""

    metric: str
    about: str
    n: int
    margin: float


@dataclass(frozen=True)
class Accepted:
    """Of how many pairs how many were accepted, by our gate and by the comparison of two figures."""

    pairs: int
    ours: int
    point: int


@dataclass(frozen=True)
class Line:
    """A setting, what was accepted at a true loss of the margin and of nothing, and what theory says."""

    setting: Setting
    at_margin: Accepted
    at_zero: Accepted
    power: float
    exact: float | None = None

    def __str__(self) -> str:
        setting, at, zero = self.setting, self.at_margin, self.at_zero
        low, high = stats.binomtest(at.ours, at.pairs).proportion_ci(0.95, method="exact")
        cells = (
            setting.metric,
            setting.about,
            f"{setting.n:,}",
            f"{setting.margin:.3g}",
            f"{at.ours / at.pairs:.2%} ({low:.2%} to {high:.2%})",
            "" if self.exact is None else f"{self.exact:.2%}",
            f"{zero.ours / zero.pairs:.1%}",
            f"{self.power:.1%}",
            f"{at.point / at.pairs:.1%}",
            f"{zero.point / zero.pairs:.1%}",
            f"{at.pairs:,}",
        )
        return f"| {' | '.join(cells)} |"


HEAD = """\
| metric | pair | rows | margin | accepted at a loss of the margin | enumerated | accepted at no loss | theory \
| two figures: at the margin | at no loss | pairs |
|---|---|---|---|---|---|---|---|---|---|---|"""


# Accuracy: the counts of flips say all, so no rows are needed.


def accepts(lost: Array, won: Array, n: int, margin: float) -> Array:
    """Whether the gate accepts, bool as the counts: its own test, and rows enough to have met such a loss."""
    flips = lost + won
    counts = np.unique(flips)
    most = np.array([most_lost(int(count), n, margin) for count in counts])
    return lost <= most[np.searchsorted(counts, flips)]


@functools.cache
def most_by_score(flips: int, n: int, margin: float) -> int:
    """The same of the score test by its normal approximation."""
    lost = np.arange(flips + 1)
    return int((exact.tango(lost, flips - lost, n, margin) <= -QUANTILE).sum()) - 1


@functools.cache
def most_lost(flips: int, n: int, margin: float) -> int:
    """Of so many flips, the largest number of losses that the gate accepts; -1 if it accepts none."""
    if n < planning.least_rows(margin, CONFIDENCE):
        return -1
    near = most_by_score(flips, n, margin)

    def accepted(lost: int) -> bool:
        return exact.chance(lost, flips - lost, n, margin) <= 1 - CONFIDENCE

    while near < flips and accepted(near + 1):
        near += 1
    while near >= 0 and not accepted(near):
        near -= 1
    return near


def shares(discordant: float, loss: float) -> tuple[float, float, float]:
    """True shares of lost, won and other rows."""
    return (discordant + loss) / 2, (discordant - loss) / 2, 1 - discordant


def counted(generator: np.random.Generator, setting: Setting, discordant: float, loss: float, pairs: int) -> Accepted:
    """Pairs of models with that true loss and share of flips."""
    lost, won, _ = generator.multinomial(setting.n, shares(discordant, loss), pairs).T
    point = (lost - won) / setting.n <= setting.margin
    return Accepted(pairs, int(accepts(lost, won, setting.n, setting.margin).sum()), int(point.sum()))


def enumerated(setting: Setting, discordant: float, loss: float) -> float:
    """Chance that the gate accepts, summed over all counts that matter: flips, and how many of them are losses."""
    n, share = setting.n, shares(discordant, loss)[0] / discordant
    low, high = stats.binom.ppf(1e-10, n, discordant), stats.binom.isf(1e-10, n, discordant)
    flips = np.arange(int(low), int(high) + 1)
    most = np.array([most_lost(int(count), n, setting.margin) for count in flips])
    return float((stats.binom.pmf(flips, n, discordant) * stats.binom.cdf(most, flips, share)).sum())


@dataclass(frozen=True)
class Worst:
    """The largest error of the gate at a true loss of the margin: where it lies, and that of the score test alone."""

    margin: float
    settings: int
    error: float
    n: int
    flips: float
    uncorrected: float

    def __str__(self) -> str:
        where = f"{self.n:,} rows, {self.flips:.1f} flips expected"
        return f"| {self.margin:.3g} | {self.settings:,} | {self.error:.3%} | {where} | {self.uncorrected:.2%} |"


WORST_HEAD = """\
| margin | settings | largest error | where | largest without the correction |
|---|---|---|---|---|"""


def worst(margin: float, sizes: list[int], steps: int, most: float) -> Worst:
    """Look for it over sizes and over expected flips: from none won on, ``steps`` of them, up to ``most`` more."""
    found, uncorrected, count = (0.0, 0, 0.0), 0.0, 0
    for n in sizes:
        for more in most * np.linspace(0, 1, steps) ** 2:
            discordant = margin + more / n
            setting, count = Setting("accuracy", "", n, margin), count + 1
            found = max(found, (enumerated(setting, discordant, margin), n, n * discordant))
            uncorrected = max(uncorrected, score_alone(n, discordant, margin))
    return Worst(margin, count, *found, uncorrected)


def score_alone(n: int, discordant: float, margin: float) -> float:
    """The same error of the score test by its normal approximation."""
    share = shares(discordant, margin)[0] / discordant
    flips = np.arange(int(stats.binom.isf(1e-10, n, discordant)) + 1)
    most = np.array([most_by_score(int(count), n, margin) for count in flips])
    chance = stats.binom.pmf(flips, n, discordant) * stats.binom.cdf(most, flips, share)
    return float(chance.sum()) if n >= planning.least_rows(margin, CONFIDENCE) else 0.0


def power(setting: Setting, discordant: float) -> float:
    """Chance that a true zero loss is accepted, by the normal approximation of the score test.

    The error under the margin has the share of won rows that the likelihood tends to there.
    """
    n, margin = setting.n, setting.margin
    linear = 2 * margin - discordant
    won = (math.sqrt(linear**2 + 4 * discordant * margin * (1 - margin)) - linear) / 4
    tested = math.sqrt(2 * won + margin * (1 - margin))
    return float(stats.norm.cdf((math.sqrt(n) * margin - QUANTILE * tested) / math.sqrt(discordant)))


def accuracies(generator: np.random.Generator, sizes: list[int], margins: list[float], pairs: int) -> Iterator[Line]:
    """Every margin, share of flips and size; the accuracies are those at which so many rows can be lost and won.

    The least share of flips is the margin itself: no row is won then, which is where the score test errs most.
    """
    cells = ((margin, discordant) for margin in margins for discordant in sorted({margin, *_DISCORDANCES}))
    for (margin, discordant), n in itertools.product(cells, sizes):
        lost, won, _ = shares(discordant, margin)
        possible = [f"{accuracy:g}" for accuracy in _ACCURACIES if lost <= accuracy and won <= 1 - accuracy]
        if won < 0 or not possible:
            continue
        setting = Setting("accuracy", f"{discordant:.2g} differ; {', '.join(possible)}", n, margin)
        yield Line(
            setting,
            counted(generator, setting, discordant, margin, pairs),
            counted(generator, setting, discordant, 0.0, pairs),
            power(setting, discordant),
            enumerated(setting, discordant, margin),
        )


# AUC and rmse: rows, and the bootstrap itself.

_POSITIVE, _SHIFT, _NOISE = 0.4, 1.5, 0.3
_SHARED = 0.95
#: Pairs that the margin is found with; they are not judged.
_PILOTS = 500
#: Pairs that are judged however long they take.
_FEWEST = 100
#: Weights that are held at once.
_HELD = 2_000_000


def ranked(n: int) -> Draw:
    """Scores of two normal classes (binormal ROC), with noise of each model's own; the candidate's shift is less.

    With a shift d and variance v in both classes the true AUC is Phi(d / sqrt(2 v)).
    """
    spread = math.sqrt(2 * (1 + _NOISE**2))

    def draw(generator: np.random.Generator, loss: float) -> tuple[Array, Array, Array]:
        shift = spread * stats.norm.ppf(stats.norm.cdf(_SHIFT / spread) - loss)
        labels = (generator.random(n) < _POSITIVE).astype(np.int64)
        common = generator.normal(size=n)
        first, second = (common + _NOISE * generator.normal(size=n) for _ in range(2))
        return labels, first + _SHIFT * labels, second + shift * labels

    return draw


def measured_quantity(n: int) -> Draw:
    """Normal errors of size 1, of which the models share most; the candidate's are larger by the loss."""

    def draw(generator: np.random.Generator, loss: float) -> tuple[Array, Array, Array]:
        labels, common = generator.normal(size=(2, n))
        own = generator.normal(size=(2, n))
        first, second = math.sqrt(_SHARED) * common + math.sqrt(1 - _SHARED) * own
        return labels, labels + first, labels + (1 + loss) * second

    return draw


@dataclass(frozen=True)
class Effort:
    """Pairs of a line at most, seconds of the processor for them, and resamples for each."""

    pairs: int
    seconds: float
    resamples: int


def judged(
    metric: Metric, given: tuple[Array, Array, Array], margin: float, resamples: int, seed: int
) -> tuple[bool, float]:
    """Whether the judge itself accepts, and the observed loss."""
    found = compared(metric, given, resamples, seed)
    # No gain is too large here: how often a bound errs is the question.
    terms = Terms(CONFIDENCE, math.inf, found.rarest, metric.bounded)
    return judge([proof(metric.name, found, margin)], terms).verdict == "ACCEPT", found.drop


def compared(metric: Metric, given: tuple[Array, Array, Array], resamples: int, seed: int) -> Comparison:
    """What the gate's BCa says, many resamples at a time."""
    loss, units = losses_of(metric, *given), len(given[0])
    observed = float(loss(np.ones((1, units)))[0])
    parts = np.random.default_rng(seed).permutation(units) % min(units, PARTS)
    knife = Jackknife(observed, loss((parts != np.arange(min(units, PARTS))[:, None]).astype(np.float64)))
    generator = np.random.default_rng(seed)
    drawn = [loss(_weights(generator, units, size)) for size in _sizes(resamples, units)]
    lower, upper, why = Resampled.of(np.concatenate(drawn), knife).bounds(CONFIDENCE)
    labels, first, second = given
    figures, none = (metric(labels, first), metric(labels, second)), (math.nan, math.nan)
    support = metric.support(labels)
    return Comparison(figures[0], none, figures[1], none, observed, lower, upper, units, support, why)


def check_against_the_gate(metric: Metric, draw: Draw) -> None:
    """The very same bounds as the gate's own loop over resamples, on one pair.

    Raises:
        AssertionError: if they differ.
    """
    given, seed = draw(np.random.default_rng(1), 0.0), 5
    sides = paired(metric, *given, None, CONFIDENCE, 200, seed), compared(metric, given, 200, seed)
    theirs, ours = ((side.lower, side.drop, side.upper, side.rarest) for side in sides)
    if not np.allclose(theirs, ours, rtol=0, atol=1e-9):
        raise AssertionError(f"{metric.name}: {ours} are not the gate's own bounds, {theirs}")


def losses_of(metric: Metric, labels: Array, original: Array, shipped: Array) -> Callable[[Array], Array]:
    """The loss for many weights of the rows at once: [k, n] -> [k]."""
    if metric.name == "auc":
        sides = [functools.partial(_areas, Auc(labels, each)) for each in (original, shipped)]
        return lambda weights: sides[0](weights) - sides[1](weights)
    squares = np.stack([np.square(each - labels) for each in (original, shipped)], axis=1)

    def loss(weights: Array) -> Array:
        means = np.sqrt(weights @ squares / weights.sum(axis=1, keepdims=True))
        return np.asarray(means[:, 1] - means[:, 0])

    return loss


def _areas(fixed: Auc, weights: Array) -> Array:
    """AUC for each row of weights, by what :class:`Auc` has sorted."""
    positive, negative = weights[:, fixed._positives], weights[:, fixed._negatives]
    sums = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(negative, axis=1)], axis=1)
    lost = (sums[:, fixed._others_above] + sums[:, fixed._others_not_below]) / 2
    total = sums[:, -1:]
    return np.asarray((positive * (total - lost)).sum(axis=1) / (positive.sum(axis=1) * total[:, 0]))


def _sizes(resamples: int, units: int) -> list[int]:
    """How many resamples are held at once, each time."""
    most = max(1, _HELD // units)
    return [min(most, resamples - start) for start in range(0, resamples, most)]


def _weights(generator: np.random.Generator, units: int, resamples: int) -> Array:
    """How often each row occurs in each resample, [resamples, units]."""
    drawn = generator.integers(0, units, (resamples, units)) + units * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * units)
    return counts.reshape(resamples, units).astype(np.float64)


def resampled(generator: np.random.Generator, metric: Metric, draw: Draw, n: int, effort: Effort) -> Line:
    """A metric that needs the bootstrap. The margin is such that theory accepts four of five models that lose nothing.

    Theory: a loss that is normal, with the spread that was observed where there is no true one.
    """

    def accepted(loss: float, margin: float, pairs: int, seconds: float) -> tuple[Accepted, float]:
        each, end = [], time.process_time() + seconds
        while len(each) < pairs and (len(each) < _FEWEST or time.process_time() < end):
            seed = int(generator.integers(0, 2**31))
            each.append(judged(metric, draw(generator, loss), margin, effort.resamples, seed))
        losses = np.array([observed for _, observed in each])
        ours = sum(said for said, _ in each)
        return Accepted(len(each), ours, int((losses <= margin).sum())), float(losses.std(ddof=1))

    check_against_the_gate(metric, draw)
    margin = (QUANTILE + float(stats.norm.ppf(planning.POWER))) * spread(generator, metric, draw)
    at_margin, _ = accepted(margin, margin, effort.pairs, effort.seconds)
    at_zero, observed = accepted(0.0, margin, max(effort.pairs // 10, _FEWEST), effort.seconds / 10)
    theory = float(stats.norm.cdf(margin / observed - QUANTILE))
    return Line(Setting(metric.name, f"{effort.resamples} resamples", n, margin), at_margin, at_zero, theory)


def spread(generator: np.random.Generator, metric: Metric, draw: Draw) -> float:
    """Standard deviation of the observed loss of models that truly lose nothing."""
    losses = []
    for _ in range(_PILOTS):
        labels, first, second = draw(generator, 0.0)
        losses.append(metric.loss(metric(labels, first), metric(labels, second)))
    return float(np.std(losses, ddof=1))


def main() -> None:
    """Print the table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000, help="simulated pairs of each setting of accuracy")
    parser.add_argument("--rows", type=int, nargs="*", default=[500, 2000, 10_000, 50_000])
    parser.add_argument("--margins", type=float, nargs="+", default=[0.002, 0.01], help="of accuracy")
    parser.add_argument("--scan", type=int, default=25, help="sizes, from 300 to 50,000, at which the worst is sought")
    parser.add_argument("--bootstrap-pairs", type=int, default=8000, help="simulated pairs of AUC and of rmse, at most")
    parser.add_argument("--bootstrap-seconds", type=float, default=600, help="of the processor, for one line")
    parser.add_argument("--bootstrap-rows", type=int, nargs="*", default=[500, 2000, 10_000, 50_000])
    parser.add_argument("--resamples", type=int, default=1000)
    options = parser.parse_args()
    generator = np.random.default_rng(_SEED)
    if options.scan:
        print(WORST_HEAD)
        sizes = np.unique(np.geomspace(300, 50_000, options.scan).astype(int)).tolist()
        for margin in options.margins:
            print(worst(margin, sorted({*sizes, 2251}), 60, 25.0), flush=True)
        print()
    print(HEAD)
    for line in accuracies(generator, options.rows, options.margins, options.pairs):
        print(line, flush=True)
    effort = Effort(options.bootstrap_pairs, options.bootstrap_seconds, options.resamples)
    for n in options.bootstrap_rows:
        for metric, draw in ((find("auc", "binary"), ranked(n)), (find("rmse", "regression"), measured_quantity(n))):
            print(resampled(generator, metric, draw, n, effort), flush=True)


if __name__ == "__main__":
    main()
