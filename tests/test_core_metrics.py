"""AUC against its definition: the chance that a positive row scores above a negative one, ties counting half."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.metrics import Auc, auc


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
