"""The recommender: torch and the exported file give the same answers, whatever is asked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from recommender_world import (
    FACTS,
    SHAPE,
    USERS,
    WORKLOAD,
    by_file,
    by_torch,
    exported,
    fitted,
    interactions,
    questions,
    session,
)

from tasks.compress import graph as compression
from tasks.core.errors import DataRejected
from tasks.core.settings import Tune
from tasks.core.workloads.recommender import encoder as encoders
from tasks.core.workloads.recommender import graph, network, training
from tasks.core.workloads.recommender.encoder import NOTHING, RecommenderEncoder
from tasks.core.workloads.recommender.network import TwoTowerNetwork
from tasks.core.workloads.recommender.start import Start


@pytest.fixture(scope="module", params=["text", "integer"])
def world(request: pytest.FixtureRequest) -> tuple[str, RecommenderEncoder, TwoTowerNetwork, Any]:
    encoder, model = fitted(request.param)
    rows = questions(request.param)
    return request.param, encoder, model, session(exported(encoder, model, rows), encoder)


@pytest.mark.parametrize("batch", [1, 7])
def test_torch_and_the_exported_graph_agree(world: Any, batch: int) -> None:
    kind, encoder, model, opened = world
    rows = questions(kind)
    expected = by_torch(encoder, model, rows)
    for start in range(0, len(rows), batch):
        found = by_file(opened, encoder.raw_inputs(rows.slice(start, batch)))
        part = slice(start, start + batch)
        np.testing.assert_allclose(found["scores"], expected["scores"][part], atol=1e-4)
        assert (found["items"] == expected["items"][part]).mean() > 0.99  # all but near-ties
        assert found["items"].shape == (batch, 100)


def test_no_rows_get_no_answers(world: Any) -> None:
    kind, encoder, _, opened = world
    found = by_file(opened, encoder.raw_inputs(questions(kind).slice(0, 0)))
    assert found["items"].shape == (0, 100)


def test_seen_items_are_no_answers(world: Any) -> None:
    kind, encoder, _, opened = world
    rows = questions(kind)
    found = by_file(opened, encoder.raw_inputs(rows))["items"]
    for answer, history in zip(found, rows["history"].to_pylist(), strict=True):
        assert len(set(answer.tolist())) == 100
        assert not set(answer.tolist()) & set(history)


def test_a_cold_user_is_answered_by_the_history_alone(world: Any) -> None:
    kind, encoder, _, opened = world
    rows = questions(kind)
    stranger = "nobody" if kind == "text" else -5
    inputs = encoder.raw_inputs(rows)
    asked = {**inputs, "user": np.full((7, 1), stranger)}
    nobody = {**inputs, "user": np.full((7, 1), NOTHING[kind])}
    first, second = by_file(opened, asked), by_file(opened, nobody)
    np.testing.assert_array_equal(first["items"], second["items"])
    assert not (first["items"][0] == first["items"][1]).all()
    assert not (first["items"][0] == by_file(opened, inputs)["items"][0]).all()


def test_nothing_known_is_answered_by_what_most_took() -> None:
    encoder, _ = fitted()
    model = TwoTowerNetwork(encoder, SHAPE).eval()
    rows = questions("text").slice(4, 1)
    answer = by_torch(encoder, model, rows)["items"][0]
    counts = dict(zip(encoder.items, encoder.counts, strict=True))
    taken = [counts[item] for item in answer.tolist()]
    assert taken == sorted(encoder.counts, reverse=True)[:100]


def test_unknown_items_and_padding_anywhere_are_ignored(world: Any) -> None:
    kind, encoder, _, opened = world
    known: list[Any] = ["what004", "what010"] if kind == "text" else [4, 10]
    nothing, strange = NOTHING[kind], "strange" if kind == "text" else -77
    user = encoder.raw_inputs(questions(kind))["user"][:1]
    dtype = object if kind == "text" else np.int64
    answers = [
        by_file(opened, {"user": user, "history": np.array([history], dtype)})
        for history in (
            known,
            [*known, nothing, nothing],
            [nothing, known[0], strange, nothing, known[1]],
        )
    ]
    for other in answers[1:]:
        np.testing.assert_allclose(other["scores"], answers[0]["scores"], atol=1e-5)


def test_an_item_given_twice_counts_once_as_the_newer(world: Any) -> None:
    kind, encoder, _, opened = world
    known: list[Any] = ["what004", "what010"] if kind == "text" else [4, 10]
    user = encoder.raw_inputs(questions(kind))["user"][:1]
    dtype = object if kind == "text" else np.int64
    once = by_file(opened, {"user": user, "history": np.array([known[::-1]], dtype)})
    twice = by_file(opened, {"user": user, "history": np.array([[*known, known[0]]], dtype)})
    assert np.isfinite(twice["scores"]).all()
    assert not set(twice["items"][0].tolist()) & set(known)
    assert once["items"].shape == twice["items"].shape


def test_a_small_catalogue_is_answered_as_a_whole_and_what_is_seen_leaves_empty_places() -> None:
    encoder, model = fitted(items=9, each=3)
    rows = pa.table({"who": ["who000"], "history": [["what000", "what003", "what006"]]})
    opened = session(exported(encoder, model, pa.concat_tables([rows, rows])), encoder)
    found = by_file(opened, encoder.raw_inputs(rows))
    assert found["items"].shape == (1, encoder.width)
    assert found["items"][0, -3:].tolist() == [""] * 3
    assert (found["scores"][0, -3:] == network.MASKED).all()
    assert "" not in found["items"][0, :-3].tolist()


def test_recent_items_count_more() -> None:
    _, model = fitted()
    with torch.no_grad():
        newest = model._weights(torch.tensor([[1, 2, 3, 0, 0]]))
    assert newest[0, :3].tolist() == sorted(newest[0, :3].tolist())
    assert newest[0].tolist()[2:] == [1.0, 0.0, 0.0]


def test_training_and_the_export_sum_a_history_alike() -> None:
    encoder, model = fitted()
    user, history = (torch.from_numpy(array) for array in encoder.encode(questions("text")))
    with torch.no_grad():
        dense, sparse = (model.query(user, history, distinct) for distinct in (False, True))
    torch.testing.assert_close(dense, sparse)


def test_labels_are_ids_as_the_answer_gives_them(world: Any) -> None:
    kind, encoder, model, _ = world
    rows = interactions(kind)
    labels = encoder.labels(rows)
    assert labels.dtype.kind == ("U" if kind == "text" else "i")
    answers = by_torch(encoder, model, questions(kind))["items"]
    assert answers.dtype.kind == labels.dtype.kind
    assert labels.tolist() == rows["what"].to_pylist()


def test_a_row_without_an_item_is_refused() -> None:
    encoder, _ = fitted()
    rows = pa.table({"who": ["who000"], "what": pa.array([None], pa.string())})
    with pytest.raises(DataRejected, match="must be an item"):
        encoder.labels(rows)


def test_raw_inputs_go_through_the_signature_and_files_without_pickles(world: Any) -> None:
    kind, encoder, _, opened = world
    rows = questions(kind)
    inputs = encoder.raw_inputs(rows)
    assert not any(array.dtype.hasobject for array in inputs.values())
    given = graph.signature(encoder).tensors(inputs)
    found = opened.run(["items"], given)[0]
    np.testing.assert_array_equal(found, by_file(opened, inputs)["items"])
    assert inputs["history"].shape == (7, 40)


def test_an_encoder_comes_back_from_json(world: Any) -> None:
    kind, encoder, _, _ = world
    again = WORKLOAD.restore(json.loads(json.dumps(encoder.as_dict())))
    assert again == encoder
    rows = questions(kind)
    for one, other in zip(encoder.encode(rows), again.encode(rows), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_signature_says_what_goes_in_and_out(world: Any) -> None:
    kind, encoder, _, opened = world
    said = graph.signature(encoder)
    assert [(t.name, t.shape) for t in said.inputs] == [("user", (-1, 1)), ("history", (-1, -1))]
    assert [(t.name, t.shape) for t in said.outputs] == [("items", (-1, 100)), ("scores", (-1, 100))]
    assert {t.datatype for t in said.inputs} == {"BYTES" if kind == "text" else "INT64"}
    assert [item.name for item in opened.get_inputs()] == ["user", "history"]


def test_pieces_hold_every_interaction_once_in_order_of_time() -> None:
    rows = interactions(users=5, items=120, each=40).take(pa.array(np.random.default_rng(0).permutation(200)))
    encoder = encoders.fit(rows, FACTS)
    users, sequences, moments = training.pieces(encoder, rows)
    assert users.shape == (15, 1)
    assert sequences.shape == (15, training.CONTEXT + training.WINDOW + training.TARGETS)
    assert moments.tolist() == [16, 16, 8] * 5
    expected = rows.filter(pa.array(encoder.user_codes(rows) == 1)).sort_by("when")
    assert sequences[1, : training.CONTEXT].count_nonzero() == 16
    shown = sequences[2][sequences[2] > 0]
    assert shown.tolist() == encoder.item_codes(expected).tolist()
    assert sequences[0][training.CONTEXT :].tolist() == encoder.item_codes(expected)[:20].tolist()


def test_the_target_is_never_in_its_own_history() -> None:
    encoder = encoders.fit(interactions(), FACTS)
    batch = training.pieces(encoder, interactions())
    torch.manual_seed(0)
    for _ in range(20):
        _, past, targets = training._at_a_moment(batch[0], batch[1].long(), batch[2])
        assert (targets[:, 0] > 0).all()
        for before, after in zip(past, targets, strict=True):
            assert not set(before[before > 0].tolist()) & set(after.tolist())


def test_the_sampled_softmax_is_the_full_one_as_the_draws_grow() -> None:
    encoder, model = fitted()
    with torch.no_grad():
        model.items.mul_(30)
    model.train()
    users, sequences, moments = training.pieces(encoder, interactions())
    torch.manual_seed(0)
    users, past, targets = training._at_a_moment(users, sequences.long(), moments)
    with torch.no_grad():
        query, known = model.query(users, past), model.is_known(users, past)
        full = training.full_softmax(model, query, known, past, targets)
        errors = []
        for count in (50, 20_000):
            draws = [training.sampled_softmax(model, query, known, past, targets, count) for _ in range(4)]
            errors.append(((torch.stack(draws).mean(0) - full)[targets > 0]).abs().mean().item())
    assert errors[1] < 0.1 * errors[0]
    assert errors[1] < 0.02


def test_a_large_catalogue_takes_the_sampled_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, model = fitted()
    batch = training.pieces(encoder, interactions())
    monkeypatch.setattr(training, "FULL_SOFTMAX", 10)
    monkeypatch.setattr(training, "full_softmax", None)
    loss = training.loss(model.train(), batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert model.items.grad is not None
    assert torch.isfinite(model.items.grad).all()


def test_it_learns_who_likes_what() -> None:
    rows = interactions(each=20)
    encoder = WORKLOAD.fit(rows, FACTS, Tune())
    values = {name: field.default for name, field in WORKLOAD.models["two_tower"].space.model_fields.items()}
    torch.manual_seed(0)
    model = WORKLOAD.models["two_tower"].build(encoder, values | {"dim": 16, "ridge": 1.0})
    examples = WORKLOAD.examples(encoder, rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = WORKLOAD.loss(model.train(), examples, encoder, Tune())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    asked = pa.table({"who": ["stranger"], "history": [["what000", "what003", "what006"]]})
    best = by_torch(encoder, model.eval(), asked)["items"][0, :10]
    assert all(int(item[4:]) % 3 == 0 for item in best.tolist())


def test_the_start_is_the_closed_form_where_there_is_room_for_all_of_it() -> None:
    rows = interactions(items=30, each=6)
    encoder = encoders.fit(rows, FACTS)
    users, items = encoder.user_codes(rows), encoder.item_codes(rows)
    matrix = np.zeros((USERS, encoder.width))
    matrix[users - 1, items - 1] = 1
    inverse = np.linalg.inv(matrix.T @ matrix + 2.0 * np.eye(encoder.width))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    before = torch.get_rng_state()
    factors = Start(users, items, encoder.times(rows), encoder.width).factors(40, 2.0)
    assert factors is not None
    np.testing.assert_allclose((factors[0] @ factors[1].T).numpy(), expected, atol=1e-4)
    assert torch.equal(before, torch.get_rng_state())


def test_int8_is_smaller_and_ranks_nearly_alike() -> None:
    encoder, model = fitted(dim=64, items=600)
    with torch.no_grad():
        model.items.mul_(10)
    rows = interactions(items=600)
    calibration = pa.table(
        {"who": rows["who"].slice(0, 40), "history": [rows["what"].slice(i, 5).to_pylist() for i in range(40)]}
    )
    core = exported(encoder, model, calibration)
    given = dict(zip(encoder.input_names, encoder.encode(calibration), strict=True))
    small = compression.find("int8")(core, given).model
    assert small.ByteSize() < 0.5 * core.ByteSize()
    asked = encoder.raw_inputs(calibration)
    best, other = (by_file(session(one, encoder), asked)["items"][:, :10] for one in (core, small))
    overlap = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(best, other, strict=True)]
    assert np.mean(overlap) > 7
