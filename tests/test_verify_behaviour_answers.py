"""Checks of two models' answers: flips, calibration, score distribution, membership inference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp

from tasks.core.measured import Measured
from tasks.core.metrics import find
from tasks.verify.behaviour import (
    bootstrap,
    calibration,
    errors,
    flips,
    overlap,
    privacy,
    probabilities,
    resamples,
    scores,
)
from tasks.verify.case import Case, Scorer

TASKS = ("binary", "multiclass", "regression", "ranking")
METRICS = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse", "ranking": "hr@10"}
CLASSES = {"binary": ("no", "yes"), "multiclass": ("cat", "dog", "fox")}


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=1, keepdims=True))


def logits(count: int, seed: int, classes: int = 3) -> np.ndarray:
    return 2 * np.random.default_rng(seed).normal(size=(count, classes))


def truth(task: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the answers of a calibrated model."""
    random = np.random.default_rng(seed + 1)
    given = logits(count, seed)
    if task == "binary":
        chance = sigmoid(given[:, :1])
        return (random.random(count) < chance[:, 0]).astype(np.int64), chance.astype(np.float32)
    if task == "multiclass":
        chances = softmax(given)
        labels = (random.random((count, 1)) > chances.cumsum(axis=1)).sum(axis=1)
        return np.minimum(labels, 2), chances.astype(np.float32)
    if task == "regression":
        return (given[:, 0] + 0.5 * random.normal(size=count)).astype(np.float32), given[:, :1].astype(np.float32)
    lists = np.stack([random.permutation(50)[:12] for _ in range(count)])
    return lists[np.arange(count), random.integers(0, 12, count)], lists


def case(task: str, count: int = 2000, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Case:
    """A calibrated original, and what a change of its answers makes of it."""
    labels, original = truth(task, count)
    shipped = original.copy() if change is None else change(original.copy())
    metric = find(METRICS[task], task)
    columns = {"x": np.zeros((count, 1), np.float32)}
    classes = CLASSES.get(task, ())
    return Case(labels, original, shipped, metric, task, classes, columns, None, None, Scorer(Path()))


def broken(line: Measured) -> bool:
    """What the judge makes of it."""
    assert line.loss is not None
    assert line.margin is not None
    if line.rule == "at_most":
        return line.loss > line.margin
    assert line.rule == "no_harm"
    assert line.lower is not None
    assert line.upper is not None
    assert line.lower <= line.loss <= line.upper
    return line.lower > line.margin


def broken_names(lines: list[Measured]) -> set[str]:
    return {line.name for line in lines if broken(line)}


def overconfident(answers: np.ndarray) -> np.ndarray:
    """Temperature a third: every decision and order of scores stays."""
    if answers.shape[1] == 1:
        return sigmoid(3 * np.log(answers / (1 - answers)))
    return softmax(3 * np.log(answers))


# An identical pair.


@pytest.mark.parametrize("task", TASKS)
def test_an_identical_pair_loses_nothing(task: str) -> None:
    given = case(task)
    members = truth(task, 500, seed=9)
    lines, found = flips.measure(given)
    assert found.worst == ()
    assert (found.changed.rows, found.spoilt.rows, found.mended.rows) == (0, 0, 0)
    lines += calibration.measure(given)[0] + scores.measure(given)[0] + privacy.measure(given, *members, members[1])
    assert len(lines) == {"binary": 6, "multiclass": 6, "regression": 7, "ranking": 3}[task]
    assert all(line.loss == 0 for line in lines)
    assert all(line.lower in (0, None) for line in lines)
    assert not broken_names(lines)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_what_a_report_draws_is_json(task: str) -> None:
    given = case(task, change=lambda answers: answers * 0.9)
    drawn = [flips.measure(given)[1], calibration.measure(given)[1], scores.measure(given)[1]]
    for each in drawn:
        assert each is not None or task == "regression"
        if each is not None:
            assert json.loads(json.dumps(each.as_dict(), allow_nan=False))


def test_lists_have_no_calibration_and_no_scores() -> None:
    assert calibration.measure(case("ranking")) == ([], None)
    assert scores.measure(case("ranking")) == ([], None)


# What the checks share.


def test_errors_order_rows_by_how_wrong_they_are() -> None:
    chances = np.array([[0.1, 0.9], [0.7, 0.3]])
    assert errors("multiclass", np.array([1, 1]), chances).tolist() == pytest.approx([0.1, 0.7])
    assert errors("binary", np.array([1, 1]), chances[:, 1:]).tolist() == pytest.approx([0.1, 0.7])
    assert errors("regression", np.array([1.0, 2.0]), np.array([[3.0], [2.0]])).tolist() == [2, 0]
    items = np.array([[7, 8], [8, 7], [1, 2]])
    assert errors("ranking", np.array([7, 7, 7]), items).tolist() == [0, 0.5, 1]
    assert overlap(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [8, 9]])).tolist() == [0.5, 0]


@pytest.mark.parametrize("answer", [1.5, -0.1, float("nan")])
def test_what_is_no_probability_is_refused(answer: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        probabilities(np.array([0.5, answer]))


def test_whole_groups_are_resampled() -> None:
    groups = np.array(["a", "b", "a", "c"])
    for weights in resamples(4, groups, np.random.default_rng(0)):
        assert weights[0] == weights[2]
        assert weights[0] + weights[1] + weights[3] == 3


def test_the_bounds_of_a_mean_are_those_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(1, 2, 4000)
    drawn = resamples(4000, None, np.random.default_rng(1))
    found, lower, upper = bootstrap(lambda w: float(np.average(values, weights=w)), drawn, 0.95)
    assert found == pytest.approx(values.mean())
    assert found - lower == pytest.approx(1.645 * 2 / 4000**0.5, rel=0.2)
    assert upper - found == pytest.approx(1.645 * 2 / 4000**0.5, rel=0.2)


def test_the_bounds_take_back_what_resampling_adds() -> None:
    """Resamples of 0 to 100 around a figure of 10 are far too large, so the bounds lie below it."""
    draws = [np.array([float(one)]) for one in range(101)]
    assert bootstrap(lambda w: 10.0 if w is None else float(w[0]), draws, 0.95) == pytest.approx((10, -75, 15))


def test_a_figure_that_no_resample_has_is_not_bounded() -> None:
    found = bootstrap(lambda w: 1.0 if w is None else float("nan"), [np.ones(3)], 0.95)
    assert np.isnan(found[1:]).all()


# Flips.


def test_the_flips_of_one_class_are_counted_and_seen() -> None:
    def forget_foxes(answers: np.ndarray) -> np.ndarray:
        fox = answers.argmax(axis=1) == 2
        answers[fox] = answers[fox][:, [2, 1, 0]]
        return answers

    given = case("multiclass", change=forget_foxes)
    said = given.original.argmax(axis=1)
    lines, found = flips.measure(given)
    assert found.changed.rows == (said == 2).sum()
    assert found.spoilt.rows == ((said == 2) & (given.labels == 2)).sum()
    assert found.mended.rows == ((said == 2) & (given.labels == 0)).sum()
    assert broken_names(lines) == {"decisions that changed", "decisions from right to wrong"}
    assert lines[1].note == f"{found.spoilt.rows} of 2000 rows became wrong, {found.mended.rows} became right"


def test_a_few_flips_are_within_the_margins() -> None:
    lines, found = flips.measure(case("binary", change=lambda p: sigmoid(np.log(p / (1 - p)) + 0.05)))
    assert found.changed.rows > 0
    assert not broken_names(lines)


def test_the_bounds_of_a_share_are_exact() -> None:
    """No flip among n rows is compatible with a share up to 1 - 0.05 ** (1 / n), and n flips with 0.05 ** (1 / n)."""
    none = flips.measure(case("binary", 50))[1].changed
    assert (none.lower, none.upper) == (0, pytest.approx(1 - 0.05 ** (1 / 50)))
    every = flips.measure(case("binary", 50, lambda answers: 1 - answers))[1].changed
    assert (every.lower, every.upper) == (pytest.approx(0.05 ** (1 / 50)), 1)


def test_rows_that_belong_together_know_less_than_as_many_others() -> None:
    given = case("binary", 50, lambda p: np.where(np.arange(50)[:, None] % 3, p, 1 - p))
    rows = np.repeat(np.arange(50), 20)
    many = replace(
        given, labels=given.labels[rows], original=given.original[rows], shipped=given.shipped[rows], groups=rows
    )
    grouped, alone = (flips.measure(one)[1].changed for one in (many, replace(many, groups=None)))
    assert grouped.share == alone.share
    assert grouped.upper - grouped.lower > 3 * (alone.upper - alone.lower)


def test_the_row_that_moved_most_towards_wrong_comes_first() -> None:
    given = case("multiclass", 300)
    row = int(np.flatnonzero(given.original[np.arange(300), given.labels] > 0.9)[3])
    label = int(given.labels[row])
    given.shipped[row] = np.roll([0.98, 0.01, 0.01], label + 1)
    better = int(np.flatnonzero(given.original.argmax(axis=1) != given.labels)[0])
    given.shipped[better] = np.eye(3)[given.labels[better]]
    (worst,) = flips.measure(given)[1].worst
    names = CLASSES["multiclass"]
    assert (worst.row, worst.label, worst.original) == (row, names[label], names[label])
    assert worst.shipped == names[(label + 1) % 3]
    assert worst.shipped_error == pytest.approx(0.99)
    assert worst.original_error < 0.1


def test_only_so_many_rows_are_listed_and_the_worst_of_them() -> None:
    given = case("regression", 300, lambda answers: answers + np.arange(0, 3000, 10, dtype=np.float32)[:, None])
    worst = flips.measure(given, worst=3)[1].worst
    assert [one.row for one in worst] == [299, 298, 297]
    assert worst[0].shipped - worst[0].original == pytest.approx(2990)


def test_quantities_that_moved_are_seen() -> None:
    def some(answers: np.ndarray) -> np.ndarray:
        answers[::4] += 2
        return answers

    lines, found = flips.measure(case("regression", change=some))
    assert found.changed.rows == 500
    assert found.spoilt.rows + found.mended.rows <= 500
    assert found.spoilt.rows > 400
    assert [broken(line) for line in lines] == [True, True]


def test_lists_of_other_items_are_seen() -> None:
    def others(items: np.ndarray) -> np.ndarray:
        items[:, :4] += 100
        return items

    given = case("ranking", change=others)
    lines, found = flips.measure(given)
    assert found.changed.share == pytest.approx(0.4)
    assert found.spoilt.rows == (given.original[:, :4] == given.labels[:, None]).any(axis=1).sum()
    assert len(broken_names(lines)) == 2
    assert found.worst[0].shipped == given.shipped[found.worst[0].row, :10].tolist()


def test_the_order_of_a_list_is_no_change() -> None:
    lines, _ = flips.measure(case("ranking", change=lambda items: items[:, ::-1].copy()), top=12)
    assert all(line.loss == 0 for line in lines)


# Calibration.


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_overconfidence_is_seen_though_no_decision_changes(task: str) -> None:
    given = case(task, change=overconfident)
    assert flips.measure(given)[1].changed.rows == 0
    (line,), drawn = calibration.measure(given)
    assert broken(line)
    assert line.original is not None
    assert line.shipped is not None
    assert line.original < 0.04
    assert line.shipped > 0.08
    assert drawn is not None
    assert sum(drawn.shipped.rows) == 2000
    curve = drawn.shipped
    assert curve.confidence == sorted(curve.confidence)
    assert np.average(np.abs(np.array(curve.observed) - 0.5), weights=curve.rows) < np.average(
        np.abs(np.array(curve.confidence) - 0.5), weights=curve.rows
    )
    assert sum(
        count * abs(one - other)
        for one, other, count in zip(curve.confidence, curve.observed, curve.rows, strict=True)
    ) / 2000 == pytest.approx(line.shipped)  # fmt: skip


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_little_noise_is_no_lack_of_calibration(task: str) -> None:
    noise = 0.1 * np.random.default_rng(3).normal(size=(2000, 3))

    def noisy(answers: np.ndarray) -> np.ndarray:
        if answers.shape[1] == 1:
            return sigmoid(np.log(answers / (1 - answers)) + noise[:, :1])
        return softmax(np.log(answers) + noise)

    assert not broken_names(calibration.measure(case(task, change=noisy))[0])


def test_the_calibration_error_of_one_confidence_is_its_distance_from_the_truth() -> None:
    given = case("binary", 400, lambda answers: np.full_like(answers, 0.75))
    (line,), drawn = calibration.measure(replace(given, labels=np.arange(400) % 2))
    assert line.shipped == pytest.approx(0.25)
    assert drawn is not None
    assert (drawn.about, drawn.shipped.rows, drawn.shipped.observed) == ("class yes", [400], [0.5])


def test_bins_hold_equal_numbers_of_rows() -> None:
    drawn = calibration.measure(case("binary", 1500))[1]
    assert drawn is not None
    assert drawn.original.rows == [100] * 15


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda answers: answers + 0.4, {"bias of the answers"}),
        (lambda answers: answers - 0.4, {"bias of the answers"}),
        (lambda answers: answers * 0.7, {"spread of the residuals"}),
        (lambda answers: answers + 0.001, set()),
    ],
)
def test_quantities_that_are_off_or_scattered_are_seen(
    change: Callable[[np.ndarray], np.ndarray], names: set[str]
) -> None:
    lines, drawn = calibration.measure(case("regression", change=change))
    assert drawn is None
    assert broken_names(lines) == names


def test_the_spread_of_residuals_keeps_its_digits_far_from_zero() -> None:
    given = case("regression", change=lambda answers: answers + np.float32(4096))
    line = calibration.measure(given)[0][1]
    assert line.original == pytest.approx((given.original[:, 0] - given.labels).std(dtype=np.float64))
    assert line.loss == pytest.approx(0, abs=1e-3)


# Score distribution.


@pytest.mark.parametrize(
    ("task", "change"),
    [
        ("binary", lambda p: sigmoid(np.log(p / (1 - p)) + 1)),
        ("multiclass", overconfident),
        ("regression", lambda answers: answers + 1.5),
    ],
)
def test_shifted_scores_are_seen(task: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    lines, drawn = scores.measure(case(task, change=change))
    assert len(broken_names(lines)) == 2
    assert drawn is not None
    assert sum(drawn.original) == sum(drawn.shipped) == 2000
    assert len(drawn.edges) == len(drawn.original) + 1
    assert drawn.original != drawn.shipped


def test_the_distance_is_scipys() -> None:
    given = case("regression", change=lambda answers: answers + 1.5)
    assert scores.measure(given)[0][1].loss == ks_2samp(given.original[:, 0], given.shipped[:, 0]).statistic


def test_scores_crowded_at_one_have_not_shifted() -> None:
    crowded = 1 - 1e-4 * np.random.default_rng(0).random((2000, 1))
    given = replace(case("binary"), original=crowded, shipped=crowded - 1e-3)
    assert all(line.loss == 0 for line in scores.measure(given)[0])
    assert len(broken_names(scores.measure(given, resolution=0)[0])) == 2


def test_the_stability_index_is_its_sum() -> None:
    original = np.arange(1000.0)
    shipped = np.where(original < 500, original, 999.0)
    before, after = np.full(10, 100.5) / 1005, np.array([100.5] * 5 + [0.5] * 4 + [500.5]) / 1005
    assert scores.stability(original, shipped) == pytest.approx(((after - before) * np.log(after / before)).sum())


# Membership inference.


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_memorised_its_train_rows_is_seen(task: str) -> None:
    labels, original = truth(task, 800, seed=5)
    known = original.copy()
    some = slice(0, 400)
    if task == "binary":
        known[some, 0] = labels[some]
    elif task == "multiclass":
        known[some] = np.eye(3)[labels[some]]
    else:
        known[some, 0] = labels[some]
    (line,) = privacy.measure(case(task), labels, original, known)
    assert line.n == 2800
    assert line.original == pytest.approx(0.5, abs=0.04)
    assert line.shipped is not None
    assert line.shipped > 0.6
    assert broken(line)


def test_an_original_that_leaks_as_much_is_no_fault_of_the_exported_file() -> None:
    labels, _ = truth("binary", 800, seed=5)
    (line,) = privacy.measure(case("binary"), labels, labels.astype(np.float32), labels.astype(np.float32))
    assert line.original == line.shipped
    assert line.shipped is not None
    assert line.shipped > 0.9
    assert not broken(line)


def test_a_sample_of_either_side_is_enough() -> None:
    given = replace(case("binary"), groups=np.arange(2000) // 4)
    (line,) = privacy.measure(given, *truth("binary", 800, seed=5), given.shipped[:800], rows=300)
    assert line.n == 600
    assert line.note == "300 rows of train, 300 of test"
