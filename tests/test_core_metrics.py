"""Metrics against their definitions, cases worked out by hand, and rows that are repeated instead of weighted."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import UsageError
from tasks.core.metrics import Auc, Metric, auc, class_recalls, find, names, usual


def by_definition(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Every pair of a positive and a negative row, one by one."""
    weight = np.ones(len(labels)) if weights is None else weights
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weight[i] * weight[j]
            total += pair
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
    return won / total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_auc_is_its_definition_with_ties_and_weights(seed: int, distinct: int) -> None:
    random = np.random.default_rng(seed)
    labels = (random.random(60) < 0.3).astype(np.float32)
    labels[:2] = 0, 1
    scores = random.integers(0, distinct, 60).astype(np.float32)
    weights = random.integers(0, 4, 60)
    weights[:2] = 1
    assert auc(labels, scores) == pytest.approx(by_definition(labels, scores))
    assert Auc(labels, scores)(weights) == pytest.approx(by_definition(labels, scores, weights))


def test_weights_are_how_often_a_row_occurs() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, 50), random.random(50)
    drawn = random.integers(0, 50, 50)
    weighted = Auc(labels, scores)(np.bincount(drawn, minlength=50))
    assert weighted == pytest.approx(auc(labels[drawn], scores[drawn]))


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        ([0, 0, 1, 1], [1, 2, 3, 4], 1.0),
        ([0, 0, 1, 1], [4, 3, 2, 1], 0.0),
        ([0, 1, 0, 1], [7, 7, 7, 7], 0.5),
        ([0, 1], [-1e38, 1e38], 1.0),
    ],
)
def test_known_values(labels: list[int], scores: list[float], expected: float) -> None:
    assert auc(np.array(labels), np.array(scores)) == expected


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_one_class_has_no_auc(labels: list[int]) -> None:
    assert np.isnan(auc(np.array(labels), np.array([0.1, 0.2])))


def test_a_class_without_weight_has_no_auc() -> None:
    assert np.isnan(Auc(np.array([0, 1]), np.array([0.1, 0.2]))(np.array([3, 0])))


def test_no_rows_have_no_auc() -> None:
    assert np.isnan(auc(np.empty(0), np.empty(0)))


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([0, 1], [0.1, float("nan")]), ([0, 1], [0.1, float("inf")]), ([0, 1], [0.1]), ([[0, 1]], [[0.1, 0.2]])],
)
def test_scores_that_cannot_be_ranked_are_refused(labels: list[int], scores: list[float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        auc(np.array(labels), np.array(scores))


# --- Every metric

BINARY = ("auc", "average_precision", "logloss", "accuracy", "macro_f1")
MULTICLASS = ("logloss", "accuracy", "macro_f1", "top2")
REGRESSION = ("rmse", "mae", "r2")
RANKING = ("hr@3", "ndcg@3", "mrr@3")
EVERY = [(task, name) for task, group in (("binary", BINARY), ("multiclass", MULTICLASS), ("regression", REGRESSION),
                                          ("ranking", RANKING)) for name in group]  # fmt: skip


def some(task: str, seed: int = 0, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    if task == "binary":
        return np.r_[0, 1, random.integers(0, 2, count - 2)], random.integers(0, 12, count) / 12
    if task == "multiclass":
        return np.r_[0, 1, 2, 3, random.integers(0, 4, count - 4)], random.dirichlet([1, 1, 1, 1], count)
    if task == "regression":
        return random.normal(10, 3, count), random.normal(10, 3, (count, 1))
    items = np.array([f"item {i}" for i in range(9)])
    return items[random.integers(0, 9, count)], np.stack([random.permutation(items)[:5] for _ in range(count)])


@pytest.mark.parametrize(("task", "name"), EVERY)
@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_how_often_a_row_occurs_in_every_metric(task: str, name: str, seed: int) -> None:
    labels, answers = some(task, seed)
    metric = find(name, task)
    drawn = np.random.default_rng(seed).integers(0, len(labels), len(labels))
    weights = np.bincount(drawn, minlength=len(labels))
    expected = metric(labels[drawn], answers[drawn])
    figure = metric.prepare(labels, answers)
    assert figure(weights) == pytest.approx(expected)
    assert figure(weights.astype(np.float64)) == pytest.approx(expected)
    assert figure(None) == pytest.approx(figure(np.ones(len(labels))))


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_every_metric_prefers_the_right_answers_in_its_direction(task: str, name: str) -> None:
    labels, answers = some(task)
    right = {
        "binary": labels,
        "multiclass": np.eye(4)[labels if task == "multiclass" else 0],
        "regression": labels,
        "ranking": np.stack([labels, labels, labels], axis=1),
    }[task]
    metric = find(name, task)
    best, middling = metric(labels, right), metric(labels, answers)
    assert metric.loss(best, middling) > 0
    assert not metric.bounded or (0 <= middling <= 1 and best == pytest.approx(1))


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_no_rows_have_no_figure(task: str, name: str) -> None:
    labels, answers = some(task)
    assert math.isnan(find(name, task)(labels[:0], answers[:0]))
    assert math.isnan(find(name, task).prepare(labels, answers)(np.zeros(len(labels))))


HAND = {
    # 3 of 4 rows right; class 1 has recall 1/2 and precision 1, class 0 recall 1 and precision 2/3: F1 2/3 and 4/5.
    "accuracy": ("binary", [0, 0, 1, 1], [0.1, 0.4, 0.5, 0.9], 0.75),
    "macro_f1": ("binary", [0, 0, 1, 1], [0.1, 0.4, 0.5, 0.9], (2 / 3 + 4 / 5) / 2),
    "logloss": ("binary", [0, 1], [0.5, 0.25], -(math.log(0.5) + math.log(0.25)) / 2),
    # Best first: hit, miss, hit: precision 1 and 2/3 where recall rises by a half each.
    "average_precision": ("binary", [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], (1 + 2 / 3) / 2),
    # All tied: one step, whose precision is the share of positives.
    "average_precision ": ("binary", [1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], 0.25),
    "top2": ("multiclass", [0, 1, 2], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], 2 / 3),
    # Of equal probabilities the first wins, as in argmax: class 1 is second here.
    "accuracy ": ("multiclass", [0, 1], [[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]], 0.5),
    # Classes 0 and 1: F1 1 and 2/3; class 2 has no row and does not count, its false answer does.
    "macro_f1 ": ("multiclass", [0, 1, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]], (1 + 2 / 3) / 2),
    "rmse": ("regression", [1.0, 2.0], [4.0, 6.0], math.sqrt(12.5)),
    "mae": ("regression", [1.0, 2.0], [4.0, 6.0], 3.5),
    "r2": ("regression", [1.0, 2.0, 3.0], [1.0, 2.0, 4.0], 0.5),
    "hr@2": ("ranking", [7, 8, 9], [[7, 1, 2], [1, 8, 2], [1, 2, 9]], 2 / 3),
    "ndcg@3": ("ranking", [7, 8, 9], [[7, 1, 2], [1, 8, 2], [1, 2, 9]], (1 + 1 / math.log2(3) + 0.5) / 3),
    "mrr@3": ("ranking", [7, 8, 5], [[7, 1, 2], [1, 8, 2], [1, 2, 9]], 0.5),
}


@pytest.mark.parametrize("case", HAND)
def test_cases_worked_out_by_hand(case: str) -> None:
    task, labels, answers, expected = HAND[case]
    assert find(case.strip(), task)(np.array(labels), np.array(answers)) == pytest.approx(expected)


def test_two_classes_may_be_one_probability_or_two() -> None:
    labels, second = some("binary")
    for name in ("logloss", "accuracy", "macro_f1"):
        metric = find(name, "binary")
        assert metric(labels, second[:, None]) == metric(labels, second)
        assert metric(labels, np.stack([1 - second, second], axis=1)) == metric(labels, second)


def test_a_certain_mistake_costs_much_and_not_everything() -> None:
    assert 10 < find("logloss", "binary")(np.array([1]), np.array([0.0], dtype=np.float32)) < 20


def test_r2_of_a_constant_is_undefined_and_of_a_far_origin_is_exact() -> None:
    metric = find("r2", "regression")
    assert math.isnan(metric(np.full(5, 0.1), np.arange(5.0)))
    labels, answers = some("regression")
    assert metric(labels + 1e8, answers + 1e8) == pytest.approx(metric(labels, answers), rel=1e-5)


def test_recall_of_each_class() -> None:
    labels, answers = np.array([0, 0, 1, 1]), np.eye(4)[[0, 1, 1, 1]]
    assert class_recalls(labels, answers, 4)[:2] == [0.5, 1.0]
    assert np.isnan(class_recalls(labels, answers, 4)[2:]).all()
    assert class_recalls(labels, np.array([0.1, 0.9, 0.9, 0.2]), 2) == [0.5, 0.5]


def test_support_counts_the_rarest_class_where_classes_are_compared() -> None:
    labels = np.array([0, 0, 0, 1])
    support = {name: find(name, "binary").support(labels) for name in BINARY}
    assert support == {"auc": 1, "average_precision": 1, "logloss": 4, "accuracy": 4, "macro_f1": 1}
    assert find("macro_f1", "multiclass").support(np.array([0, 2, 2])) == 0
    assert find("auc", "binary").support(np.zeros(3)) == 0


@pytest.mark.parametrize(
    ("task", "name", "labels", "answers"),
    [
        ("multiclass", "accuracy", [0, 1], [[0.1, 0.2, np.nan], [0.1, 0.2, 0.7]]),
        ("multiclass", "accuracy", [0, 3], [[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]),
        ("multiclass", "macro_f1", [0], [[0.1, 0.2, 0.7], [0.1, 0.2, 0.7]]),
        ("regression", "rmse", [0.0, np.nan], [0.0, 0.0]),
        ("regression", "mae", [0.0, 1.0], [0.0, np.inf]),
        ("ranking", "hr@1", [1, 2], [["a"], ["b"]]),
        ("ranking", "hr@1", [1, 2], [1, 2]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(task: str, name: str, labels: list[Any], answers: list[Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        find(name, task)(np.array(labels), np.array(answers))


# --- By name


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("acuracy", "binary", "did you mean `accuracy`"),
        ("rmse", "binary", "is for regression(.|\n)*choose from accuracy, auc"),
        ("hr@0", "ranking", "must be a metric that exists"),
        ("top5", "binary", "is for multiclass"),
        ("ndcg10", "ranking", "did you mean `ndcg@10`"),
    ],
)
def test_a_name_that_does_not_fit(name: str, task: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find(name, task)


def test_a_k_beyond_the_answer_is_a_mistake_of_the_settings() -> None:
    labels, answers = some("multiclass")
    with pytest.raises(UsageError, match="there are 4 classes"):
        find("top4", "multiclass")(labels, answers)
    labels, answers = some("ranking")
    with pytest.raises(UsageError, match="answers 5 items"):
        find("hr@6", "ranking")(labels, answers)


def test_what_reports_show_fits_the_answer() -> None:
    assert usual("multiclass", 5) == ["accuracy", "macro_f1", "logloss"]
    assert usual("multiclass", 6)[-1] == "top5"
    assert usual("ranking", 9) == []
    for task in ("binary", "multiclass", "regression", "ranking"):
        for name in (*usual(task, 100), *names(task)):
            assert task in find(name, task).tasks


# --- Plug-ins


def offer(monkeypatch: pytest.MonkeyPatch, found: object) -> None:
    class Point(EntryPoint):
        def load(self) -> object:
            return found

    point = Point("mine", "package:mine", "assay.metrics")
    monkeypatch.setattr("tasks.core.plugins.entry_points", lambda group, name="mine": [point] if name == "mine" else [])


def half_error(labels: np.ndarray, answers: np.ndarray) -> float:
    return float(np.abs(labels - answers).mean() / 2)


def with_attributes(**attributes: object) -> Callable[[np.ndarray, np.ndarray], float]:
    def function(labels: np.ndarray, answers: np.ndarray) -> float:
        return half_error(labels, answers)

    for name, value in attributes.items():
        setattr(function, name, value)
    return function


def test_a_plain_function_is_a_metric_whose_rows_are_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, with_attributes(tasks=("regression",), higher_is_better=False))
    metric = find("mine", "regression")
    assert (metric.name, metric.higher_is_better, metric.bounded) == ("mine", False, False)
    figure = metric.prepare(np.array([0.0, 0.0, 0.0]), np.array([2.0, 4.0, 100.0]))
    assert figure(np.array([1, 3, 0])) == pytest.approx((2 + 3 * 4) / 4 / 2)
    assert metric.support(np.zeros(3)) == 3
    with pytest.raises(ValueError, match="whole weights"):
        figure(np.array([0.5, 1, 1]))


def test_a_whole_metric_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Metric("other", ("binary",), True, True, Auc, len))
    assert find("mine", "binary").prepare is Auc
    with pytest.raises(UsageError, match="is for binary"):
        find("mine", "regression")


def test_everything_wrong_with_a_plug_in_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(labels: np.ndarray) -> float:
        return 0.0

    function.tasks, function.bounded, function.support = ("pixels",), "yes", 3  # type: ignore[attr-defined]
    offer(monkeypatch, function)
    with pytest.raises(UsageError) as raised:
        find("mine", "regression")
    for problem in ("(labels, answers)", "'pixels'", "`higher_is_better`", "`bounded`", "`support`"):
        assert problem in str(raised.value)
