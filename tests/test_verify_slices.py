"""Classes and slices: a destroyed one is found behind a good average, and honest ones raise no alarm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import UsageError
from tasks.core.measured import Measured
from tasks.core.metrics import Metric, find
from tasks.verify import slices
from tasks.verify.case import Case, Scorer

AUC, ACCURACY, RMSE = find("auc", "binary"), find("accuracy", "multiclass"), find("rmse", "regression")
MARGIN = 0.02


def case(metric: Metric, task: str, labels: np.ndarray, original: np.ndarray, shipped: np.ndarray) -> Case:
    classes = tuple("abcd") if task == "multiclass" else (0, 1) if task == "binary" else ()
    return Case(labels, original, shipped, metric, task, classes, {}, None, None, Scorer(Path("none")))


def four_classes(count: int = 2000, flips: float = 0.02, seed: int = 0) -> tuple[Case, np.random.Generator]:
    """Two models of one quality, right in nine rows of ten, that differ on a few rows."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    said = np.where(random.random(count) < 0.9, labels, (labels + 1) % 4)
    other = np.where(random.random(count) < flips, np.where(random.random(count) < 0.9, labels, (labels + 1) % 4), said)
    return case(ACCURACY, "multiclass", labels, np.eye(4)[said], np.eye(4)[other]), random


def ranked(count: int = 3000, noise: float = 0.1, seed: int = 0) -> tuple[Case, np.random.Generator]:
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.3).astype(np.float32)
    original = labels * 1.5 + random.normal(size=count)
    return case(AUC, "binary", labels, original, original + noise * random.normal(size=count)), random


def measured(given: Case, columns: dict[str, Any], fewest_rows: int = 30) -> list[Measured]:
    return slices.measure(given, columns, MARGIN, MARGIN, fewest_rows)


def alarms(found: list[Measured]) -> list[str]:
    return [one.name for one in found if one.lower is not None and one.margin is not None and one.lower > one.margin]


def names(found: list[Measured], kind: str = "slice") -> list[str]:
    return [one.name for one in found if one.kind == kind]


def test_each_class_has_its_recall() -> None:
    given, _ = four_classes()
    found = measured(given, {})
    assert names(found, "class") == [f"recall of {value}" for value in "abcd"]
    said = given.shipped.argmax(axis=1)
    for index, one in enumerate(found):
        own = given.labels == index
        assert one.rule == "no_harm"
        assert one.n == own.sum()
        assert one.shipped == pytest.approx((said[own] == index).mean())
        assert one.loss == pytest.approx((one.original or 0) - (one.shipped or 0))
        assert one.lower is not None
        assert one.upper is not None
        assert one.lower < (one.loss or 0) < one.upper
        assert one.margin == MARGIN
    assert alarms(found) == []


def test_a_destroyed_class_is_found_though_the_average_gains() -> None:
    given, _ = four_classes(4000)
    rare = np.flatnonzero(given.labels == 2)[:60]
    keep = np.concatenate([np.flatnonzero(given.labels != 2), rare])
    shipped = np.eye(4)[given.labels[keep]]
    shipped[-60:] = np.eye(4)[0]
    broken = replace(given, labels=given.labels[keep], original=given.original[keep], shipped=shipped)
    assert broken.metric(broken.labels, broken.shipped) > broken.metric(broken.labels, broken.original)
    assert alarms(measured(broken, {})) == ["recall of c"]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_destroyed_slice_is_found_though_the_average_holds(grouped: bool) -> None:
    given, random = four_classes(4000)
    where = np.array(["home", "work", "away"])[np.where(random.random(4000) < 0.03, 2, random.integers(0, 2, 4000))]
    shipped = given.shipped.copy()
    shipped[where == "away"] = np.roll(np.eye(4)[given.labels[where == "away"]], 1, axis=1)
    groups = np.arange(4000) // 2 if grouped else None
    found = measured(replace(given, shipped=shipped, groups=groups), {"place": where})
    assert "accuracy where place is away" in alarms(found)
    assert not {"accuracy where place is home", "accuracy where place is work"} & set(alarms(found))


def test_a_destroyed_slice_is_found_among_hundreds_by_a_metric_that_is_no_share_of_rows() -> None:
    """Far beyond what quantiles of a thousand resamples could reach."""
    given, random = ranked(15_000)
    cell = random.integers(0, 300, 15_000)
    shipped = given.shipped.copy()
    shipped[cell == 7] *= -1
    found = measured(replace(given, shipped=shipped), {"cell": cell.astype(str)})
    assert len(names(found)) == 300
    assert alarms(found) == ["auc where cell is 7"]


def test_a_true_loss_of_the_margin_raises_an_alarm_in_few_families_only() -> None:
    """Ten slices and four classes, each at the edge of what is allowed: at most about one family of twenty."""
    families = 30
    alarmed = 0
    for seed in range(families):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 4, 1500)
        said = np.where(random.random(1500) < 0.9, labels, (labels + 1) % 4)
        lost, won = random.random(1500) < MARGIN / 0.9 + 0.01 / 9, random.random(1500) < 0.01
        other = np.where((said == labels) & lost, (labels + 1) % 4, np.where((said != labels) & won, labels, said))
        given = case(ACCURACY, "multiclass", labels, np.eye(4)[said], np.eye(4)[other])
        alarmed += bool(alarms(measured(given, {"x": random.integers(0, 10, 1500).astype(str)})))
    assert alarmed <= 5, "0.3 % is the chance of six or more of 30 at 5 %"


def test_holm_takes_the_least_first_and_stops_at_the_first_that_is_not_rejected() -> None:
    """Levels 0.05 / 4, / 3, / 2; the third p is too large, so the fourth is held to its level."""
    assert slices._holm([0.01, 0.04, 0.03, 0.005], 0.05) == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    assert slices._holm([], 0.05) == []


@pytest.mark.parametrize("seed", range(20))
def test_holm_rejects_what_adjusted_p_do(seed: int) -> None:
    chances = np.random.default_rng(seed).random(12) ** 4
    order = np.argsort(chances)
    adjusted = np.minimum(np.maximum.accumulate(chances[order] * np.arange(12, 0, -1)), 1)
    rejected = {int(index) for index, p in zip(order, adjusted, strict=True) if p <= 0.05}
    levels = slices._holm(chances.tolist(), 0.05)
    assert {index for index in range(12) if chances[index] <= levels[index]} == rejected


def test_more_slices_make_each_bound_wider() -> None:
    given, random = four_classes()
    few = measured(given, {})
    many = measured(given, {"x": random.integers(0, 12, 2000).astype(str)})
    assert many[0].name == few[0].name
    assert (many[0].upper or 0) > (few[0].upper or 0)
    assert (many[0].lower or 0) < (few[0].lower or 0)


def parts(values: np.ndarray) -> dict[str, np.ndarray]:
    return dict(slices._cut(values))


def test_numbers_are_cut_at_their_quartiles() -> None:
    found = parts(np.random.default_rng(0).permutation(np.arange(1.0, 101.0)))
    assert set(found) == {"is up to 25", "is over 25, up to 50", "is over 50, up to 75", "is over 75"}
    assert [len(rows) for rows in found.values()] == [25] * 4


@pytest.mark.parametrize(
    "values",
    [
        np.array([0.0] * 90 + list(range(1, 11))),
        np.array([5, 5, 5, 5, 5, 5, 1, 2, 3, 4]),
        np.array([np.nan, np.inf, -np.inf, 1, 2, 3, 4, 5]),
        np.array(["2020-01-01", "NaT", *(f"2021-0{month}-01" for month in range(1, 8))], dtype="datetime64[D]"),
        np.array(["a", None, "b", float("nan"), "a"], dtype=object),
        np.full(4, np.nan),
        np.array([True, False, True]),
    ],
    ids=["mostly zero", "mostly the largest", "infinite", "times", "objects", "all missing", "booleans"],
)
def test_every_row_is_in_one_slice(values: np.ndarray) -> None:
    found = parts(values)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(values)))
    assert all(len(rows) for rows in found.values())


def test_few_numbers_are_slices_by_value_and_the_missing_is_one_of_its_own() -> None:
    found = parts(np.array([0.0, 1, np.nan, 1, 2.5, np.nan]))
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "is missing": [2, 5],
        "is 0": [0],
        "is 1": [1, 3],
        "is 2.5": [4],
    }
    assert list(parts(np.array(["x", None], dtype=object))) == ["is missing", "is x"]


def test_a_column_of_one_value_a_row_may_have_a_second_axis() -> None:
    given, random = four_classes()
    values = random.normal(size=(2000, 1))
    assert measured(given, {"x": values}) == measured(given, {"x": values[:, 0]})


@pytest.mark.parametrize("shape", [(1999,), (2000, 2), (2000, 1, 1)])
def test_a_column_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    given, _ = four_classes()
    with pytest.raises(UsageError, match="one value for each"):
        measured(given, {"x": np.zeros(shape)})


def test_small_slices_are_counted_not_dropped() -> None:
    given, _ = four_classes()
    values = np.array(["big"] * 1950 + [f"small{index // 5}" for index in range(50)])
    *tested, last = measured(given, {"x": values})
    assert names(tested) == ["accuracy where x is big"]
    assert (last.rule, last.problems, last.n) == ("nothing_found", (), 50)
    assert "10 with fewer than 30 rows" in last.note
    assert "x is small0" in last.note
    assert "and 5 more" in last.note


def test_a_class_without_rows_is_counted() -> None:
    given, _ = four_classes()
    keep = given.labels != 3
    found = measured(
        replace(given, labels=given.labels[keep], original=given.original[keep], shipped=given.shipped[keep]), {}
    )
    assert len(names(found, "class")) == 3
    assert "recall of d" in found[-1].note


def test_a_slice_in_which_the_metric_has_no_value_is_noted() -> None:
    given, _ = ranked()
    values = np.where(given.labels == 1, "late", np.where(np.arange(3000) % 2 == 0, "even", "late"))
    *_, last = measured(given, {"x": values})
    assert "1 where auc has no value: auc where x is even" in last.note


def test_a_slice_with_too_little_to_vary_is_noted() -> None:
    given, _ = ranked(200)
    lone = np.flatnonzero(given.labels == 1)[0]
    values = np.where((given.labels == 0) | (np.arange(200) == lone), "x", "y")
    assert "too few or too much alike" in measured(given, {"x": values})[-1].note


def test_a_figure_that_only_the_candidate_lacks_is_left_to_the_judge() -> None:
    def prepare(labels: np.ndarray, answers: np.ndarray) -> Any:
        return lambda _: float(answers.mean()) if answers.max() < 5 else math.nan

    odd = Metric("odd", ("regression",), True, False, prepare)
    given = case(odd, "regression", np.zeros(100), np.ones(100), np.where(np.arange(100) < 50, 9.0, 1.0))
    found = measured(given, {"x": np.where(np.arange(100) < 50, "broken", "whole")})
    (broken,) = [one for one in found if one.name.endswith("broken")]
    assert broken.loss is not None
    assert math.isnan(broken.loss)


def test_a_metric_with_a_unit_is_measured_in_it_with_a_relative_margin() -> None:
    random = np.random.default_rng(0)
    labels = random.normal(size=2000) * 100
    original, shipped = labels + random.normal(size=2000), labels + random.normal(size=2000)
    far = np.arange(2000) < 200
    shipped[far] += 5
    given = case(RMSE, "regression", labels, original, shipped)
    found = slices.measure(given, {"far": far}, "20%", None, 30)
    assert names(found) == ["rmse where far is False", "rmse where far is True"]
    assert all(one.margin == pytest.approx(0.2 * (one.original or 0)) for one in found)
    assert alarms(found) == ["rmse where far is True"]


def test_a_note_says_what_could_go_unseen_and_shrinks_with_the_rows() -> None:
    def unseen(count: int) -> float:
        note = measured(four_classes(count)[0], {})[0].note
        assert "one of 4 tests" in note
        return float(note.split("below ")[1].split()[0])

    assert MARGIN < unseen(20_000) < unseen(2000) < unseen(200)
