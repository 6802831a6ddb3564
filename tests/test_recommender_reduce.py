"""A smaller two towers: out of the trained one in closed form, taught by it, and without users who say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import torch
from recommender_world import WORKLOAD, by_file, by_torch, exported, fitted, interactions, questions, session
from torch import Tensor

from tasks.compress import graph as compression
from tasks.core.settings import Tune
from tasks.core.workloads.onnx_export import finish
from tasks.core.workloads.recommender import reduce, training
from tasks.core.workloads.recommender.encoder import RecommenderEncoder
from tasks.core.workloads.recommender.network import TwoTowerNetwork

MODEL = WORKLOAD.models["two_tower"]
DIM = 64
World = tuple[RecommenderEncoder, TwoTowerNetwork, tuple[Tensor, ...]]


def values(dim: int = DIM) -> dict[str, Any]:
    defaults = {name: field.default for name, field in MODEL.space.model_fields.items()}
    return defaults | {"dim": dim, "user_dropout": 0.5}


@pytest.fixture(scope="module")
def world() -> World:
    """Most of what a history says lies in a few directions, as after a training, hidden by a turn of the space."""
    encoder, model = fitted(dim=DIM)
    with torch.no_grad():
        fading = torch.linalg.qr(torch.randn(DIM, DIM))[0] * 0.9 ** torch.arange(DIM)
        for table in (model.history_items, model.users):
            table.copy_(torch.randn_like(table) @ fading.T)
        model.items.normal_()
    return encoder, model, WORKLOAD.examples(encoder, interactions())


def scores(model: Any, examples: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(*reduce.last_moments(examples))
    return found


def error(world: World, smaller: Any) -> float:
    _, model, examples = world
    wanted = scores(model, examples)
    return float((scores(smaller, examples) - wanted).square().mean() / wanted.square().mean())


def reduced(world: World, share: float) -> tuple[dict[str, Any], Any]:
    encoder, model, examples = world
    return MODEL.reduced(model, encoder, values(), share, examples)


def test_the_scores_change_more_the_smaller_it_gets_and_not_at_all_at_full_size(world: World) -> None:
    dims, errors = [], []
    for share in (1.0, 0.75, 0.5, 0.25):
        smaller, model = reduced(world, share)
        dims.append((smaller["dim"], model.items.shape[0], model.history_items.shape[1]))
        errors.append(error(world, model))
    assert dims == [(dim, dim, dim) for dim in (64, 48, 32, 16)]
    assert errors[0] < 1e-8
    assert errors[0] < errors[1] < errors[2] < errors[3] < 0.5


def test_no_other_cut_of_the_items_keeps_the_scores_better(world: World) -> None:
    encoder, model, _ = world
    smaller, network = reduced(world, 0.25)
    cut = MODEL.build(encoder, smaller)
    state = model.state_dict()
    tables = {"items": state["items"][:16]} | {name: state[name][:, :16] for name in ("history_items", "users")}
    cut.load_state_dict(state | tables)
    plain = MODEL.build(encoder, smaller)
    reduce.move(model, plain, torch.eye(DIM))  # the best cut for queries that point everywhere alike
    assert error(world, network) < 0.5 * min(error(world, cut), error(world, plain))


def test_the_cut_is_the_best_of_its_rank() -> None:
    torch.manual_seed(0)
    asked, items = torch.randn(300, 24) * torch.linspace(0.1, 3, 24), torch.randn(24, 90)
    left, right = reduce.turned(items, asked, 8)
    least = torch.linalg.svdvals(asked @ items)[8:].square().sum()
    torch.testing.assert_close(((asked @ (items - left @ right)) ** 2).sum(), least, rtol=1e-3, atol=0.0)
    assert 0.5 < float(left.square().mean().sqrt() * 24**0.5) / float(right.square().mean().sqrt()) < 20


@pytest.mark.parametrize(
    ("dim", "share", "expected"),
    [(512, 0.5, 256), (512, 0.74, 384), (512, 1.0, 512), (512, 0.001, 16), (40, 1.0, 40), (40, 0.7, 32), (8, 0.5, 8)],
)
def test_a_size_is_a_multiple_of_sixteen_and_never_more_than_before(dim: int, share: float, expected: int) -> None:
    assert reduce.size(dim, share) == expected


def test_more_dimensions_than_items_or_users_are_cut_like_any_other() -> None:
    encoder, model = fitted(dim=40, users=4, items=9, each=3)
    examples = WORKLOAD.examples(encoder, interactions(users=4, items=9, each=3))
    for share, dim in ((1.0, 40), (0.9, 32), (0.4, 16)):
        smaller, network = MODEL.reduced(model, encoder, values(40), share, examples)
        assert smaller["dim"] == dim
        assert error((encoder, model, examples), network) < 1e-6  # nine items need no more than nine dimensions


def test_the_trained_network_and_the_generator_of_random_numbers_stay_as_they_are(world: World) -> None:
    _, model, _ = world
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    reduced(world, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def faint(world: World) -> World:
    """The same with users whose own vectors hardly count."""
    encoder, model, examples = world
    other = MODEL.build(encoder, values())
    other.load_state_dict(model.state_dict() | {"users": model.users * 1e-3})
    return encoder, other, examples


def test_users_who_hardly_change_a_score_are_left_out(world: World) -> None:
    assert reduced(world, 1.0)[0]["user_dropout"] == 0.5
    smaller, model = reduced(faint(world), 1.0)
    assert smaller["user_dropout"] == 1.0
    assert model.users is None
    assert error(faint(world), model) < 1e-3


def test_without_users_vectors_the_file_takes_users_and_answers_by_the_history(world: World) -> None:
    encoder = world[0]
    model = reduced(faint(world), 0.5)[1]
    rows = questions("text")
    core = exported(encoder, model, rows)
    found = by_file(session(core, encoder), encoder.raw_inputs(rows))
    expected = by_torch(encoder, model.eval(), rows)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
    unknown = rows.set_column(0, "who", pa.array(["nobody"] * len(rows)))
    again = by_file(session(core, encoder), encoder.raw_inputs(unknown))
    np.testing.assert_array_equal(again["items"], found["items"])
    assert not any(node.name == "encode_user" for node in encoder.wrap(core).graph.node)


def test_a_known_user_without_vector_and_history_gets_what_most_took(world: World) -> None:
    model = reduced(faint(world), 0.5)[1].eval()
    with torch.no_grad():
        known, unknown = (model(torch.tensor([[code]]), torch.tensor([[0]])) for code in (1, 0))
    torch.testing.assert_close(known, model.bias[None] + model.popularity)
    torch.testing.assert_close(known, unknown)


def test_int4_goes_through_the_wrapped_file(world: World) -> None:
    encoder = world[0]
    model = reduced(faint(world), 0.5)[1]
    core = exported(encoder, model, questions("text"))
    small = compression.find("int4_weights")(core, {}).model
    whole = onnx.ModelProto.FromString(finish(encoder.wrap(small), {}).SerializeToString())
    assert whole.ByteSize() < 0.5 * encoder.wrap(core).ByteSize()
    asked = encoder.raw_inputs(interactions_asked())
    best, other = (by_file(session(one, encoder), asked)["items"][:, :10] for one in (core, small))
    overlap = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(best, other, strict=True)]
    assert np.mean(overlap) > 7


def interactions_asked() -> pa.Table:
    """Questions with usual histories."""
    rows = interactions()
    histories = [rows["what"].slice(12 * user, 11).to_pylist() for user in range(20)]
    return pa.table({"who": rows["who"].take(pa.array(range(0, 240, 12))), "history": histories})


def divergence(student: Any, world: World, draws: int = 20) -> float:
    encoder, teacher, examples = world
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [WORKLOAD.distillation_loss(student, teacher, examples, encoder, Tune()) for _ in range(draws)]
    return float(torch.stack(losses).mean())


def test_a_network_does_not_diverge_from_itself(world: World) -> None:
    _, model, _ = world
    assert abs(divergence(model, world, 2)) < 1e-5
    assert divergence(reduced(world, 0.25)[1], world) > 0.05


@pytest.mark.parametrize("sampled", [False, True])
def test_distillation_brings_a_smaller_network_nearer(
    world: World, sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, teacher, examples = world
    student = reduced(world, 0.25)[1]
    before = divergence(student, world)
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    if sampled:
        monkeypatch.setattr(training, "FULL_SOFTMAX", 10)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for _ in range(30):
        loss = WORKLOAD.distillation_loss(student.train(), teacher, examples, encoder, Tune())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    monkeypatch.undo()
    assert divergence(student, world) < 0.8 * before
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
