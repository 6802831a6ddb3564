"""Labels must belong to the rows: the original answers them better than shuffled ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.core.metrics import find
from tasks.verify import skill
from tasks.verify.case import Case, Scorer


def case(metric: str, task: str, labels: np.ndarray, answers: np.ndarray) -> Case:
    return Case(labels, answers, answers, find(metric, task), task, (0, 1), {}, None, None, Scorer(Path("none")))


def worlds() -> dict[str, Case]:
    random = np.random.default_rng(0)
    two, many = random.integers(0, 2, 500), random.integers(0, 4, 500)
    lists = np.argsort(random.random((500, 30)), axis=1)
    lists[::4, 0] = many[::4]
    return {
        "auc": case("auc", "binary", two, (two + 2 * random.normal(size=500))[:, None]),
        "accuracy": case("accuracy", "multiclass", many, np.eye(4)[np.where(random.random(500) < 0.5, many, 0)]),
        "rmse": case("rmse", "regression", two + 0.0, (0.3 * two + random.normal(0, 0.3, 500))[:, None]),
        "logloss": case("logloss", "binary", two, np.where(two == 1, 0.6, 0.4)[:, None]),
        "ndcg@10": case("ndcg@10", "ranking", many, lists[:, :10]),
    }


@pytest.mark.parametrize("name", worlds())
def test_shuffled_labels_are_found_whatever_the_metric(name: str) -> None:
    sound = worlds()[name]
    assert skill.measure(sound).problems == ()
    shuffled = replace(sound, labels=np.random.default_rng(1).permutation(sound.labels))
    found = skill.measure(shuffled)
    assert (found.kind, found.rule, found.fails_as, found.n) == ("data", "nothing_found", "ANOMALOUS", 500)
    assert "when the labels are shuffled" in found.problems[0]


def test_answers_that_are_all_alike_show_no_skill() -> None:
    constant = case("accuracy", "multiclass", np.arange(300) % 3, np.eye(3)[np.zeros(300, int)])
    assert "in 99 of 99 cases" in skill.measure(constant).problems[0]
