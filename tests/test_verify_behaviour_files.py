"""Checks that run two models on changed rows: explanation drift and robustness to corruption."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from scipy.stats import spearmanr

from deploy.signature import Signature, Tensor
from tasks.core import files
from tasks.core.measured import Measured
from tasks.core.metrics import find
from tasks.verify.behaviour import explanation, robustness, sample
from tasks.verify.case import Case, Scorer
from tasks.verify.stored import Column

Columns = Mapping[str, np.ndarray]
INT64_MISSING = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Model(Scorer):
    """A scorer that is a function, and remembers what it was asked."""

    folder: Path = Path()
    function: Callable[[Columns], np.ndarray] = field(kw_only=True)
    asked: list[Columns] = field(default_factory=list, kw_only=True)

    def answers(self, columns: Columns, batch: int | None = None, threads: int | None = None) -> np.ndarray:
        self.asked.append(columns)
        return self.function(columns)


def pair(
    task: str,
    columns: Columns,
    labels: np.ndarray,
    original: Callable[[Columns], np.ndarray],
    shipped: Callable[[Columns], np.ndarray],
) -> Case:
    name = {"binary": "accuracy", "multiclass": "accuracy", "regression": "rmse", "ranking": "hr@3"}[task]
    files = Model(function=original), Model(function=shipped)
    return Case(
        labels, original(columns), shipped(columns), find(name, task), task, tuple(range(3)), columns, None, *files
    )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def asked(given: Case) -> tuple[list[Columns], list[Columns]]:
    assert isinstance(given.original_file, Model)
    assert isinstance(given.shipped_file, Model)
    return given.original_file.asked, given.shipped_file.asked


# Tables whose numbers lie on a grid, so that a model can be one that fails beside it.


def table(count: int = 1500) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    gaps = random.random(count) < 0.2
    return {
        "x": (random.integers(-8, 9, (count, 1)) / 2 + 0.25).astype(np.float32),
        "y": np.where(gaps, np.nan, random.normal(size=count))[:, None].astype(np.float32),
        "code": np.where(random.random(count) < 0.1, INT64_MISSING, random.integers(0, 9, count))[:, None],
        "city": random.choice(["", "Ünï", "東京"], (count, 1)),
        "full": random.integers(0, 2**40, (count, 1)),
        "floor": random.integers(0, 9, (count, 1)).astype(np.float64),
    }


def steady(columns: Columns) -> np.ndarray:
    return columns["x"] + 0.2 * np.nan_to_num(columns["y"])


def on_the_grid_only(columns: Columns) -> np.ndarray:
    off = np.abs((columns["x"] - 0.25) * 2 - np.rint((columns["x"] - 0.25) * 2)) > 0.01
    return np.where(off, -steady(columns), steady(columns))


def lost_without_a_city(columns: Columns) -> np.ndarray:
    return np.where(columns["city"] == "", -steady(columns), steady(columns))


def ranked(scores: np.ndarray) -> np.ndarray:
    """Items 0 to 5, nearest to the score first."""
    return np.asarray(np.abs(np.arange(6) - 2.5 - scores).argsort(axis=1)[:, :3])


ANSWERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "binary": lambda scores: sigmoid(3 * scores),
    "multiclass": lambda scores: np.concatenate([sigmoid(-scores), sigmoid(scores), 0 * scores], axis=1),
    "regression": lambda scores: scores,
    "ranking": ranked,
}
LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "binary": lambda scores: (scores[:, 0] > 0).astype(np.int64),
    "multiclass": lambda scores: (scores[:, 0] > 0).astype(np.int64),
    "regression": lambda scores: scores[:, 0] + np.sin(100 * scores[:, 0]),
    "ranking": lambda scores: ranked(scores)[:, 0],
}


def grid(task: str, shipped: Callable[[Columns], np.ndarray], columns: Columns | None = None) -> Case:
    columns = table() if columns is None else columns
    answer = ANSWERS[task]
    return pair(task, columns, LABELS[task](steady(columns)), lambda c: answer(steady(c)), lambda c: answer(shipped(c)))


def broken(lines: list[Measured]) -> set[str]:
    """Names of what the judge would not let pass."""
    names = set()
    for line in lines:
        if line.rule == "nothing_found":
            names |= {line.name} if line.problems else set()
            continue
        assert line.rule == "no_harm"
        assert None not in (line.lower, line.loss, line.upper, line.margin)
        assert line.lower <= line.loss <= line.upper  # type: ignore[operator]
        names |= {line.name} if line.lower > line.margin else set()  # type: ignore[operator]
    return names


# Robustness.


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "ranking"])
def test_an_identical_pair_loses_nothing_under_corruption(task: str) -> None:
    lines = robustness.measure(grid(task, steady))
    assert [line.name.partition(" under ")[2] for line in lines] == ["noise", "missing values"]
    for line in lines:
        assert (line.loss, line.lower, line.upper) == (0, 0, 0)
        assert line.original == line.shipped


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "ranking"])
def test_a_model_that_breaks_under_noise_is_seen(task: str) -> None:
    lines = robustness.measure(grid(task, on_the_grid_only))
    assert broken(lines) == {f"{grid(task, steady).metric.name} under noise"}


def test_a_model_that_breaks_without_a_value_is_seen() -> None:
    """Where the value is absent in some clean rows, too, only the loss beyond that counts."""
    lines = robustness.measure(grid("binary", lost_without_a_city))
    assert broken(lines) == {"accuracy under missing values"}
    assert lines[1].loss == pytest.approx(0.05 * 2 / 3, abs=0.02)
    assert "on clean rows 1 and 0.6" in lines[1].note


def test_a_loss_that_clean_rows_have_as_well_is_no_lack_of_robustness() -> None:
    assert not broken(robustness.measure(grid("binary", lambda c: np.where(c["full"] % 3 == 0, -1, 1) * steady(c))))


def test_answers_that_are_no_numbers_are_found() -> None:
    clean = table()
    seen = set(clean["x"].ravel().tolist())

    def gives_up(columns: Columns) -> np.ndarray:
        return np.where(np.isin(columns["x"], list(seen)), steady(columns), np.nan)

    lines = robustness.measure(grid("regression", gives_up))
    assert broken(lines) == {"noise: finite answers"}
    assert lines[0].problems[0].startswith("the exported file's answers to 1500 of 1500 rows are not finite")


def test_rows_that_the_original_cannot_answer_either_do_not_count() -> None:
    def gives_up(columns: Columns) -> np.ndarray:
        return np.where(columns["city"] == "", np.nan, columns["x"])

    columns = table()
    columns["x"] = np.where(columns["x"] == 0.25, np.float32(0.75), columns["x"])
    labels = LABELS["regression"](columns["x"])
    lines = robustness.measure(pair("regression", columns, labels, gives_up, gives_up))
    absent = int((columns["city"] == "").sum())
    assert [line.loss for line in lines] == [0, 0]
    assert lines[0].n == 1500 - absent
    assert lines[1].n < 1500 - absent


def test_each_model_is_asked_once_for_rows_of_the_same_datatypes() -> None:
    given = grid("binary", steady)
    robustness.measure(given)
    for calls in asked(given):
        (columns,) = calls
        assert {name: array.dtype for name, array in columns.items()} == {
            name: array.dtype for name, array in given.columns.items()
        }
        assert {array.shape for array in columns.values()} == {(4500, 1)}


def test_only_what_may_change_does() -> None:
    given = grid("binary", steady)
    robustness.measure(given)
    clean, noisy, gappy = (
        {name: array[start : start + 1500] for name, array in asked(given)[0][0].items()} for start in (0, 1500, 3000)
    )
    for name, array in given.columns.items():
        np.testing.assert_array_equal(clean[name], array)
        if name in ("x", "y"):
            assert (noisy[name] != array).mean() > 0.9
            np.testing.assert_array_equal(np.isnan(noisy[name]), np.isnan(array))
            assert np.nanstd(noisy[name] - array) == pytest.approx(0.05 * np.nanstd(array), rel=0.1)
        else:
            np.testing.assert_array_equal(noisy[name], array)
    np.testing.assert_array_equal(gappy["full"], clean["full"])
    np.testing.assert_array_equal(gappy["x"], clean["x"])
    assert 0.03 < np.isnan(gappy["y"]).mean() - np.isnan(clean["y"]).mean() < 0.06
    assert 0.02 < (gappy["city"] == "").mean() - (clean["city"] == "").mean() < 0.06
    assert 0.03 < (gappy["code"] == INT64_MISSING).mean() - (clean["code"] == INT64_MISSING).mean() < 0.07


def test_noise_is_as_small_as_each_place_of_a_series_is() -> None:
    series = np.random.default_rng(0).normal(0, [1, 1000, 0], (800, 4, 3)).astype(np.float32)
    given = pair("binary", {"s": series}, np.arange(800) % 2, *[lambda c: np.full(len(c["s"]), 0.5)] * 2)
    robustness.measure(given)
    noise = asked(given)[0][0]["s"][800:1600] - series
    assert noise.std(axis=(0, 1)) == pytest.approx([0.05, 50, 0], rel=0.1)


def test_where_the_original_cannot_answer_nothing_is_proven() -> None:
    seen = set(table()["x"].ravel().tolist())

    def gives_up(columns: Columns) -> np.ndarray:
        return np.where(np.isin(columns["x"], list(seen)), steady(columns), np.nan)

    columns = table()
    given = pair("regression", columns, LABELS["regression"](columns["x"]), gives_up, steady)
    noise, gaps = robustness.measure(given)
    assert (noise.rule, noise.fails_as) == ("nothing_found", "INCONCLUSIVE")
    assert "the original's answers" in noise.problems[0]
    assert gaps.loss == 0


def test_the_same_seed_corrupts_alike_and_another_does_not() -> None:
    given = grid("regression", on_the_grid_only)
    assert robustness.measure(given) == robustness.measure(given)
    assert robustness.measure(given)[0].loss != robustness.measure(replace(given, seed=1))[0].loss


def test_a_sample_of_rows_is_enough() -> None:
    given = grid("binary", steady)
    assert {line.n for line in robustness.measure(given, rows=200)} == {200}


def test_large_rows_are_fewer() -> None:
    columns = {"image": np.broadcast_to(np.uint8(0), (1000, 1 << 20))}
    assert len(sample(columns, 1000, 8, 0)) == 32
    drawn = sample({"x": np.zeros(1000)}, 100, 8, 0)
    assert len(set(drawn.tolist())) == 100
    assert (np.diff(drawn) > 0).all()


def test_without_numbers_or_an_original_nothing_is_measured() -> None:
    assert robustness.measure(replace(grid("binary", steady), original_file=None)) == []
    random = np.random.default_rng(0)
    histories = {"user": np.arange(100)[:, None], "history": random.integers(0, 6, (100, 8))}
    given = pair("ranking", histories, np.arange(100) % 6, lambda c: c["history"][:, :3], lambda c: c["history"][:, :3])
    assert robustness.measure(given) == []


def pictures(dtype: str, shape: tuple[int, ...], most: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The left half is brighter than the right one, or darker."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    images = random.normal(0.4, 0.02, (400, 8, 8, 1))
    images[:, :, :4] += (labels * 0.12 - 0.06)[:, None, None, None]
    images[:, 0, 0], images[:, 7, 7] = 0, 1
    return {"image": (images * most).astype(dtype).reshape(400, *shape)}, labels


@pytest.mark.parametrize(
    ("dtype", "shape", "most"),
    [("uint8", (8, 8, 1), 255), ("uint8", (8, 8), 255), ("float32", (1, 8, 8), 1)],
)
def test_a_model_that_breaks_in_another_light_is_seen(dtype: str, shape: tuple[int, ...], most: float) -> None:
    columns, labels = pictures(dtype, shape, most)

    def sides(given: Columns) -> np.ndarray:
        assert given["image"].dtype == dtype
        assert 0 <= given["image"].min() <= given["image"].max() <= most
        return given["image"].reshape(-1, 8, 2, 4).mean(axis=(1, 3), dtype=np.float64) / most

    def compares(given: Columns) -> np.ndarray:
        left, right = sides(given).T
        return sigmoid(100 * (left - right))

    def knows_the_light(given: Columns) -> np.ndarray:
        return sigmoid(100 * (sides(given)[:, 0] - 0.4))

    lines = robustness.measure(pair("binary", columns, labels, compares, knows_the_light))
    corruptions = ["noise", "brightness", "contrast", "a shift by a pixel"]
    assert [line.name for line in lines] == [f"accuracy under {one}" for one in corruptions]
    assert broken(lines) == {"accuracy under brightness"}
    assert not broken(robustness.measure(pair("binary", columns, labels, compares, compares)))


@pytest.mark.parametrize("shape", [(3, 5, 6), (5, 6, 3), (5, 6)])
def test_a_shift_moves_pixels_and_not_channels(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (20, *shape)).astype(np.uint8)
    given = pair("binary", {"i": image}, np.arange(20) % 2, *[lambda c: np.full(len(c["i"]), 0.5)] * 2)
    robustness.measure(given)
    shifted = asked(given)[0][0]["i"][-20:]
    order = {(3, 5, 6): (0, 2, 3, 1), (5, 6, 3): (0, 1, 2, 3), (5, 6): (0, 1, 2)}[shape]
    before, after = image.transpose(order), shifted.transpose(order)
    np.testing.assert_array_equal(after[:, 1:, 1:], before[:, :-1, :-1])
    np.testing.assert_array_equal(after[:, 0, 1:], before[:, 0, :-1])


def test_a_model_that_breaks_at_another_gain_is_seen() -> None:
    random = np.random.default_rng(0)
    series = random.choice([-1.0, 1.0], (600, 1, 1)) * np.linspace(1, 2, 32).reshape(1, 16, 2)

    def sums(columns: Columns) -> np.ndarray:
        return sigmoid(columns["s"].sum(axis=(1, 2)))

    def saturates(columns: Columns) -> np.ndarray:
        total = columns["s"].sum(axis=(1, 2))
        return np.where(np.abs(total) > 51, 1 - sigmoid(total), sigmoid(total))

    labels = (series.sum(axis=(1, 2)) > 0).astype(np.int64)
    lines = robustness.measure(pair("binary", {"s": series}, labels, sums, saturates))
    assert [line.name for line in lines] == ["accuracy under noise", "accuracy under gain"]
    assert broken(lines) == {"accuracy under gain"}


# Explanation drift.


class StandIn:
    """What the check needs of Captum's class."""

    def __init__(self, forward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        self.forward = forward

    def attribute(self, inputs: torch.Tensor, **how: Any) -> torch.Tensor:
        (rows,) = how["additional_forward_args"]
        assert how["perturbations_per_eval"] == inputs.shape[1]
        ablated = [
            inputs.clone().index_fill_(1, torch.tensor([one]), how["baselines"]) for one in range(inputs.shape[1])
        ]
        answers = self.forward(torch.cat(ablated), rows.repeat(inputs.shape[1]))
        return (self.forward(inputs, rows) - answers.reshape(inputs.shape[1], -1)).T


@pytest.fixture
def captum(monkeypatch: pytest.MonkeyPatch) -> None:
    package, attr = ModuleType("captum"), ModuleType("captum.attr")
    attr.FeatureAblation = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "captum", package)
    monkeypatch.setitem(sys.modules, "captum.attr", attr)


def mixed(count: int = 300) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    columns = {name: random.normal(size=(count, 1)).astype(np.float32) for name in "abc"}
    columns["city"] = random.choice(["Ünï", "東京", "東京"], (count, 1))
    columns["seats"] = random.integers(0, 100, (count, 1))
    return columns


def weighing(**weights: float) -> Callable[[Columns], np.ndarray]:
    """A weighted sum of the columns of :func:`mixed`."""

    def scores(columns: Columns) -> np.ndarray:
        numbers = {**columns, "city": columns["city"] == "Ünï", "seats": columns["seats"] / 50 - 1}
        return np.asarray(sum(weight * numbers[name] for name, weight in weights.items()))

    return scores


ORIGINAL = weighing(a=3, b=1.5, city=0.7, seats=0.3)
#: Nearly as the original, as an honest int8 twin is.
TWIN = weighing(a=3.1, b=1.45, city=0.72, seats=0.29)
#: As often right if b and c tell the same, but for other reasons.
OTHER = weighing(c=3, b=0.1, city=0.1, seats=1.5)


def explained(task: str, shipped: Callable[[Columns], np.ndarray], columns: Columns | None = None) -> Case:
    columns = mixed() if columns is None else columns
    answer = ANSWERS[task]
    labels = LABELS[task](ORIGINAL(columns))
    return pair(task, columns, labels, lambda c: answer(ORIGINAL(c)), lambda c: answer(shipped(c)))


@pytest.mark.usefixtures("captum")
class TestExplanation:
    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "ranking"])
    def test_an_identical_pair_agrees(self, task: str) -> None:
        (line,), found = explanation.measure(explained(task, ORIGINAL))
        assert (line.loss, line.lower, line.upper) == pytest.approx((0, 0, 0), abs=1e-12)
        assert line.n == 200
        assert found.original == found.shipped
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["note"] == ""

    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "ranking"])
    def test_a_model_that_looks_at_another_column_is_seen(self, task: str) -> None:
        (line,), found = explanation.measure(explained(task, OTHER))
        assert broken([line])
        assert line.loss == pytest.approx(1 - np.mean(found.agreement))
        assert found.features == ["a", "b", "c", "city", "seats"]
        assert (found.original[2], found.shipped[0]) == (0, 0)
        assert np.argmax(found.original) == 0
        assert np.argmax(found.shipped) == 2

    @pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
    def test_a_twin_agrees(self, task: str) -> None:
        (line,), _ = explanation.measure(explained(task, TWIN))
        assert not broken([line])
        assert line.shipped is not None
        assert line.shipped > 0.9

    def test_lists_are_as_long_as_the_longest_of_the_rows_that_are_explained(self) -> None:
        lengths = np.arange(300) % 7 + 1
        history = np.where(np.arange(7) < lengths[:, None], 1 + np.arange(7), 0)
        history[:, 0] = np.random.default_rng(0).integers(1, 50, 300)

        def taken(rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"history": history[rows][:, : lengths[rows].max()]}

        column: Any = Column(SimpleNamespace(taken=taken), "history", (300, 1), history.dtype)  # type: ignore[arg-type]
        given = pair(
            "regression", {"history": history}, history[:, 0] * 1.0, *[lambda c: c["history"][:, :1] * 1.0] * 2
        )
        (line,), found = explanation.measure(replace(given, columns={"history": column}))
        assert line.loss == pytest.approx(0)
        assert len(found.features) == 6

    def test_each_model_is_asked_twice_for_rows_of_the_same_datatypes(self) -> None:
        given = explained("binary", TWIN)
        explanation.measure(given)
        for calls in asked(given):
            assert sorted(len(columns["a"]) for columns in calls) == [200, 1000]
            for columns in calls:
                assert {name: array.dtype for name, array in columns.items()} == {
                    name: array.dtype for name, array in given.columns.items()
                }

    def test_a_column_is_replaced_by_what_is_usual(self) -> None:
        columns = mixed(101)
        columns["a"][::3] = np.nan
        file = Model(function=lambda given: np.nan_to_num(TWIN(given)))
        explanation.measure(replace(explained("regression", TWIN, columns), original_file=file, shipped_file=file))
        ablated = max(file.asked, key=lambda one: len(one["a"]))
        usual = {"a": sorted(columns["a"][~np.isnan(columns["a"])])[33], "city": "東京", "seats": None}
        for index, name in enumerate(columns):
            block = {key: array[index * 101 : (index + 1) * 101] for key, array in ablated.items()}
            (value,) = np.unique(block[name])
            assert value in columns[name]
            assert usual.get(name) in (None, value)
            for other in set(columns) - {name}:
                np.testing.assert_array_equal(block[other], columns[other])

    def test_columns_that_do_not_matter_do_not_count(self) -> None:
        random = np.random.default_rng(1)
        columns = mixed() | {f"n{one}": random.normal(size=(300, 1)) for one in range(20)}
        noise = [{f"n{one}": float(random.normal(0, 1e-3)) for one in range(20)} for _ in range(2)]
        answers = [weighing(a=3, b=1.5, **one) for one in noise]
        (line,), _ = explanation.measure(pair("regression", columns, LABELS["regression"](columns["a"]), *answers))
        assert line.shipped is not None
        assert line.shipped > 0.9

    def test_saturated_probabilities_are_still_explained(self) -> None:
        def certain(columns: Columns) -> np.ndarray:
            return sigmoid(12 + ORIGINAL(columns) / 4)

        def for_other_reasons(columns: Columns) -> np.ndarray:
            return sigmoid(12 + OTHER(columns) / 4)

        columns = mixed()
        labels = np.ones(300, np.int64)
        assert broken(explanation.measure(pair("binary", columns, labels, certain, for_other_reasons))[0])
        assert not broken(explanation.measure(pair("binary", columns, labels, certain, certain))[0])

    def test_an_item_of_a_list_is_replaced_by_the_most_common_one(self) -> None:
        lists = np.tile(np.arange(10), (50, 1))
        lists[:, 7:] = 3
        file = Model(function=lambda columns: columns["history"].sum(axis=1).astype(float))
        labels = np.zeros(50, np.float32)
        given = pair("regression", {"history": lists}, labels, file.function, file.function)
        explanation.measure(replace(given, original_file=file))
        ablated = max(file.asked, key=lambda one: len(one["history"]))["history"]
        assert set(ablated[ablated != np.tile(lists, (6, 1))].tolist()) == {3}

    @pytest.mark.parametrize("shape", [(12, 12, 3), (12, 12)])
    def test_a_model_that_looks_at_another_part_of_a_picture_is_seen(self, shape: tuple[int, ...]) -> None:
        image = np.random.default_rng(0).integers(0, 256, (60, *shape)).astype(np.uint8)

        def corner(rows: slice) -> Callable[[Columns], np.ndarray]:
            return lambda columns: columns["i"][:, rows, rows].reshape(len(columns["i"]), -1).mean(axis=1) / 255

        labels = np.zeros(60, np.float32)
        given = pair("regression", {"i": image}, labels, corner(slice(0, 4)), corner(slice(8, 12)))
        (line,), found = explanation.measure(given)
        assert broken([line])
        assert len(found.features) == 36
        first, last = np.array(found.original).reshape(6, 6), np.array(found.shipped).reshape(6, 6)
        assert (first > 0).sum() == (last > 0).sum() == 4
        assert (first[:2, :2] > 0).all()
        assert (last[4:, 4:] > 0).all()

    def test_there_is_nothing_to_explain_without_an_original_or_a_choice_of_inputs(self) -> None:
        lines, found = explanation.measure(replace(explained("binary", TWIN), original_file=None))
        assert (lines, found.features) == ([], [])
        assert "no file" in found.note
        columns = {"a": mixed()["a"]}
        single = pair("regression", columns, columns["a"][:, 0], lambda c: c["a"], lambda c: c["a"])
        lines, found = explanation.measure(single)
        assert lines == []
        assert "single input" in found.note


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "ranking"])
def test_captum_itself_says_the_same(task: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("captum.attr", reason="the extra `explain` is not installed")
    columns = mixed() | {"image": np.random.default_rng(0).random((300, 8, 8, 3))}
    given = explained(task, lambda c: OTHER(c) + c["image"][:, :4, :4].mean(axis=(1, 2)).sum(axis=1)[:, None], columns)
    real, drawn = explanation.measure(given)
    request.getfixturevalue("captum")
    stand_in, drawn_too = explanation.measure(given)
    assert real[0].loss == pytest.approx(stand_in[0].loss)
    assert drawn.shipped == pytest.approx(drawn_too.shipped)
    for calls in asked(given):
        assert [len(columns["a"]) for columns in calls[:2]] == [200, 41 * 200]


def test_without_captum_the_check_says_what_would_add_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    lines, found = explanation.measure(explained("binary", TWIN))
    assert lines == []
    assert "explain" in found.note


def test_the_correlations_are_spearmans() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 4, (2, 50, 6)).astype(float)
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(explanation.correlations(one, other), expected)
    same, rising = np.zeros((1, 3)), np.array([[1.0, 2.0, 3.0]])
    assert explanation.correlations(same, same).tolist() == [1]
    assert explanation.correlations(same, rising).tolist() == [0]


# Real files, in processes of their own.


def exported(folder: Path, a: float, b: float) -> Scorer:
    """p = sigmoid(a * first + b * second)."""
    folder.mkdir()
    names = ("first", "second")
    nodes = [helper.make_node("Mul", [name, f"w_{name}"], [f"m_{name}"]) for name in names]
    nodes += [helper.make_node("Add", ["m_first", "m_second"], ["sum"]), helper.make_node("Sigmoid", ["sum"], ["p"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in names],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor(f"w_{name}", TensorProto.FLOAT, [], [w]) for name, w in zip(names, (a, b), strict=True)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    tensors = [Tensor(name, "FP32", (-1, 1)) for name in (*names, "p")]
    files.write_json(folder / "signature.json", Signature(tuple(tensors[:2]), (tensors[2],)).as_dict())
    return Scorer(folder, "cpu")


@pytest.fixture
def exported_pair(tmp_path: Path) -> Case:
    """One looks at the first column, the other at the second."""
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(300, 1)).astype(np.float32) for _ in range(2))
    answers = sigmoid(3 * first + 0.5 * second), sigmoid(0.5 * first + 3 * second)
    files = exported(tmp_path / "one", 3, 0.5), exported(tmp_path / "other", 0.5, 3)
    labels, columns = (first[:, 0] > 0).astype(np.int64), {"first": first, "second": second}
    return Case(labels, *answers, find("accuracy", "binary"), "binary", (0, 1), columns, None, *files)


def test_exported_files_are_corrupted(exported_pair: Case) -> None:
    (noise,) = robustness.measure(exported_pair)
    for found, answers in ((noise.original, exported_pair.original), (noise.shipped, exported_pair.shipped)):
        assert found == pytest.approx(exported_pair.metric(exported_pair.labels, answers), abs=0.03)
    assert noise.loss == pytest.approx(0, abs=0.05)


@pytest.mark.usefixtures("captum")
def test_exported_files_are_explained(exported_pair: Case) -> None:
    lines, found = explanation.measure(exported_pair)
    assert broken(lines)
    assert found.original[0] > 0.7
    assert found.shipped[1] > 0.7
