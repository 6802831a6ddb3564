"""Smaller networks: cut, shortened, new ones of the same kind, merged; and how they learn from the original."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_array_workload import VALUES
from test_array_workload import world as images
from torch import nn

from tasks.compress.network import depth, distill, family, merge, structured
from tasks.compress.network.clock import Clock
from tasks.core.settings import Tune
from tasks.core.training import Recipe
from tasks.core.workloads.array import WORKLOAD

WIDE = {**VALUES, "width": 16, "blocks": 2, "first_stride": 1}


def residual(values: dict[str, Any] = WIDE) -> tuple[nn.Module, Any, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    encoder, table = images((8, 8))
    network = WORKLOAD.models["resnet"].build(encoder, values).eval()
    return network, encoder, WORKLOAD.examples(encoder, table)


def lessons_of(network: nn.Module, encoder: Any, examples: Any, *others: nn.Module) -> distill.Lessons:
    """Without augmentation."""
    networks = [network, *others]
    return distill.prepare(WORKLOAD, encoder, Tune(augment="none"), networks, examples, None, "multiclass", 0)


def weights(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "hessian"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_channels_are_really_taken_out(importance: str, scope: str) -> None:
    network, encoder, examples = residual()
    before = weights(network)
    lessons = lessons_of(network, encoder, examples)
    smaller, kept = structured.cut(network, examples[:1], 0.5, importance, scope, lessons.pool, lessons.loss)
    assert weights(smaller) < 0.6 * before
    assert smaller(examples[0]).shape == (40, 3)
    assert kept["linear"] == "its outputs are answers"
    assert weights(network) == before, "the original is left as it is"


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "hessian"])
def test_a_share_goes_in_steps_between_which_the_network_recovers(importance: str) -> None:
    network, encoder, examples = residual({**WIDE, "width": 64, "blocks": 1})
    lessons = lessons_of(network, encoder, examples)
    between: list[int] = []

    def recover(smaller: nn.Module) -> None:
        between.append(weights(smaller.train()))

    given = (network, examples[:1], 0.5, importance, "layer", lessons.pool, lessons.loss)
    smaller, _ = structured.cut(*given, 3, recover)
    first, second = between
    assert weights(network) > first > second > weights(smaller)
    assert weights(smaller) == weights(structured.cut(*given)[0]), "as many as at once"
    assert not smaller.training


def test_second_order_importance_counts_every_row() -> None:
    """The same rows in another order are the same evidence."""
    network, encoder, examples = residual()
    lessons = lessons_of(network, encoder, examples)
    cuts = [
        structured.cut(network, examples[:1], 0.5, "hessian", "layer", pool, lessons.loss)[0]
        for pool in (lessons.pool, tuple(part.flip(0) for part in lessons.pool))
    ]
    torch.testing.assert_close(cuts[0](examples[0]), cuts[1](examples[0]))


def test_widths_stay_multiples_of_what_kernels_like() -> None:
    network, encoder, examples = residual({**WIDE, "width": 32})
    lessons = lessons_of(network, encoder, examples)
    smaller, _ = structured.cut(network, examples[:1], 0.4, "magnitude", "layer", lessons.pool, lessons.loss)
    widths = {layer.out_channels for layer in smaller.modules() if isinstance(layer, nn.Conv2d)}
    assert all(width % 16 == 0 for width in widths)


class Branched(nn.Module):
    """Two answers, and a table that no dependency graph can cut."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 32)
        self.logits = nn.Linear(32, 3)
        self.vector = nn.Linear(32, 5)
        self.table = nn.Parameter(torch.randn(32))

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.hidden(values)) * self.table
        return self.logits(hidden), self.vector(hidden)


def test_the_answers_of_a_network_with_several_keep_their_shapes() -> None:
    network = Branched()
    values = torch.randn(20, 6)
    goal = (values, network(values)[0].detach())

    def loss(pupil: nn.Module, batch: Any) -> torch.Tensor:
        return distill.divergence(pupil(batch[0])[0], batch[1], "multiclass")

    smaller, kept = structured.cut(network, (values,), 0.5, "taylor", "layer", goal, loss)
    assert [answer.shape for answer in smaller(values)] == [(20, 3), (20, 5)]
    assert smaller.hidden.out_features == 16
    assert set(kept) == {"logits", "vector"}


def test_layers_too_narrow_to_cut_are_kept_and_named() -> None:
    network = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 1))
    values = torch.randn(8, 4)
    _, kept = structured.cut(network, (values,), 0.3, "magnitude", "layer", (values,), lambda *_: torch.zeros(()))
    assert kept == {"0": "no whole block of its channels could go", "2": "its outputs are answers"}


def test_blocks_of_one_shape_before_and_after_can_go() -> None:
    network, _, examples = residual()
    blocks = depth.removable(network, examples[:1])
    assert blocks == ["blocks.0", "blocks.1", "blocks.3"], "blocks.2 halves the axes"
    shorter = depth.without(network, blocks)
    assert weights(shorter) < weights(network)
    assert shorter(examples[0]).shape == (40, 3)
    assert isinstance(network.get_submodule("blocks.1"), nn.Module)
    assert weights(network) == weights(residual()[0])


def test_blocks_go_by_measured_damage() -> None:
    network, _, _ = residual()
    scores = {"blocks.0": 0.5, "blocks.1": 0.9, "blocks.3": 0.7}

    def evaluate(one: nn.Module) -> float:
        return next(score for name, score in scores.items() if isinstance(one.get_submodule(name), nn.Identity))

    damage = depth.by_damage(network, list(scores), evaluate, lambda score: 1.0 - score)
    assert list(damage) == ["blocks.1", "blocks.3", "blocks.0"]


def test_students_are_smaller_and_in_blocks_that_kernels_like() -> None:
    encoder, _ = images((28, 28))
    values = {**VALUES, "width": 32, "stages": 3, "first_stride": 1}
    model = WORKLOAD.models["resnet"]
    sizes = [weights(model.build(encoder, student)) for student in model.students(values)]
    assert len(sizes) > 10
    assert max(sizes) < 1.01 * weights(model.build(encoder, values))
    assert min(sizes) < 0.1 * max(sizes)
    assert all(width % 16 == 0 for student in model.students(values) for width in student["widths"])
    assert values not in model.students(values)


def test_a_student_learns_the_answers_of_its_teacher() -> None:
    teacher, encoder, examples = residual()
    lessons = distill.prepare(WORKLOAD, encoder, Tune(), [teacher], examples, None, "multiclass", 0)
    student = WORKLOAD.models["resnet"].build(encoder, {**VALUES, "width": 16, "first_stride": 2, "dropout": 0.0})

    def distance(one: nn.Module) -> float:
        with torch.no_grad():
            return float(distill.divergence(one.eval()(examples[0]), teacher(examples[0]), "multiclass"))

    before = distance(student)
    distill.teach(student, lessons, Recipe(0.01, 0.0, 40, 20, None), lambda one: -distance(one), seed=0)
    assert distance(student) < 0.2 * before


def test_the_teacher_answers_the_very_views_that_the_student_sees() -> None:
    teacher, encoder, examples = residual()
    lessons = distill.prepare(WORKLOAD, encoder, Tune(augment="flip"), [teacher], examples, None, "multiclass", 0)
    assert lessons.passes == 4
    inputs, logits = lessons.pool
    assert len(inputs) == 4 * len(examples[0])
    assert not torch.equal(inputs[:40], inputs[40:80])
    torch.testing.assert_close(teacher(inputs), logits, atol=1e-4, rtol=1e-4)
    assert len(lessons.first(2)[0]) == 80
    plain = lessons_of(teacher, encoder, examples)
    assert plain.passes == 2, "the second view shows the images in another light"
    torch.testing.assert_close(plain.pool[0][: len(examples[0])], examples[0])
    assert not torch.equal(plain.pool[0][len(examples[0]) :], examples[0])
    torch.testing.assert_close(teacher(plain.pool[0]), plain.pool[1], atol=1e-4, rtol=1e-4)
    assert not teacher.training


def test_an_ensemble_teaches_the_mean_of_its_logits() -> None:
    first, encoder, examples = residual()
    second = WORKLOAD.models["resnet"].build(encoder, WIDE).eval()
    lessons = lessons_of(first, encoder, examples, second)
    inputs, logits = lessons.pool
    torch.testing.assert_close(logits, (first(inputs) + second(inputs)) / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("task", "width", "least"), [("multiclass", 4, 0.0), ("regression", 1, 0.0), ("binary", 1, None)]
)
def test_the_divergence_is_least_for_the_teachers_own_answers(task: str, width: int, least: float | None) -> None:
    goal = torch.randn(30, width)
    same, other = distill.divergence(goal, goal, task), distill.divergence(goal + torch.randn(30, width), goal, task)
    assert same < other
    if least is not None:
        assert float(same) == pytest.approx(least, abs=1e-6)


def test_a_soup_takes_in_what_helps_and_refuses_what_does_not() -> None:
    states = [{"w": torch.tensor([value])} for value in (1.0, 3.0, 100.0)]
    soup, members, score = merge.greedy_soup(states, lambda state: -abs(float(state["w"]) - 2.0), lambda a, b: a - b)
    assert members == [0, 1]
    assert float(soup["w"]) == 2.0
    assert score == 0.0
    assert float(states[0]["w"]) == 1.0


def test_norms_of_a_soup_are_estimated_on_whole_batches() -> None:
    norm = torch.nn.BatchNorm1d(2)  # which refuses a batch of one row
    rows = torch.randn(33, 2)
    family._estimate_norms(norm, (rows,), lambda network, batch: network(batch[0]).sum(), 32)
    torch.testing.assert_close(norm.running_mean, rows[:32].mean(0))
    family._estimate_norms(norm, (rows,), lambda network, batch: network(batch[0]).sum(), 100)
    torch.testing.assert_close(norm.running_mean, rows.mean(0))


def test_a_killed_search_does_not_get_its_time_back(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [100.0]
    monkeypatch.setattr("tasks.compress.network.clock.time.monotonic", lambda: moment[0])
    clock = Clock(tmp_path / "clock.json", 60.0)
    moment[0] += 500  # before it starts
    clock.start()
    moment[0] += 45
    clock.save()
    moment[0] = 0.0  # another process, another start
    again = Clock(tmp_path / "clock.json", 77.0)  # measured anew on a busier machine: the budget stays what it was
    again.start()
    assert again.left == pytest.approx(15.0)
    moment[0] += 20
    assert again.left < 0


def test_a_teachers_mistakes_on_train_are_not_handed_on() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    found = distill.put_right(logits, torch.tensor([0, 1, 0]))
    assert found.tolist() == [[3.0, 1.0, 0.0], [1.0, 3.0, 0.0], [2.0, 1.0, 0.0]]
    network, encoder, examples = residual()
    lessons = distill.prepare(
        WORKLOAD, encoder, Tune(augment="none"), [network], examples, None, "multiclass", 0, labels=examples[-1]
    )
    assert (lessons_of(network, encoder, examples).first(1)[-1].argmax(1) != examples[-1]).any()
    for view in lessons.pool[-1].split(len(examples[-1])):
        assert torch.equal(view.argmax(1), examples[-1])
