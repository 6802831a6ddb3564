"""A tiny world of recommendations: users of three tastes, questions of every kind, a network, and its exported file."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import torch

from tasks.core.workloads import find
from tasks.core.workloads.onnx_export import WithHead, export_core, finish
from tasks.core.workloads.recommender import encoder as encoders
from tasks.core.workloads.recommender.encoder import RecommenderEncoder
from tasks.core.workloads.recommender.network import Architecture, Head, TwoTowerNetwork

FACTS = {"user": "who", "target": "what", "time": "when", "task": "ranking"}
SHAPE = Architecture(dim=16, dropout=0.0, history_dropout=0.0, user_dropout=0.0, negatives=64, ridge=1.0)
USERS, ITEMS = 40, 150
WORKLOAD = find("recommender")


def interactions(kind: str = "text", users: int = USERS, items: int = ITEMS, each: int = 12) -> pa.Table:
    """Train: every user has ``each`` items out of one of three tastes."""
    random = np.random.default_rng(3)
    who, what, when = [], [], []
    for user in range(users):
        taste = np.arange(user % 3, items, 3)
        for place, item in enumerate(random.choice(taste, min(each, len(taste)), replace=False)):
            who.append(user)
            what.append(int(item))
            when.append(datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=place))
    columns: dict[str, Any] = {"who": who, "what": what}
    if kind == "text":
        columns = {name: [f"{name}{value:03d}" for value in values] for name, values in columns.items()}
    return pa.table({**columns, "when": pa.array(when, pa.timestamp("us", tz="UTC"))})


def questions(kind: str) -> pa.Table:
    """Rows that ask: usual ones, an unknown user, no history, unknown items, and nothing known at all."""
    users: list[Any] = [0, 1, 999, 2, 999, 3, 4]
    histories: list[list[Any]] = [[5, 9, 8], [1], [0, 3, 6, 12, 9], [], [], [777, 4, 778], list(range(60, 100))]
    if kind == "text":
        users = [f"who{user:03d}" for user in users]
        histories = [[f"what{item:03d}" for item in items] for items in histories]
    return pa.table({"who": users, "what": [users[0]] * 7, "history": histories})


def fitted(kind: str = "text", dim: int = 16, **sizes: int) -> tuple[RecommenderEncoder, TwoTowerNetwork]:
    encoder = encoders.fit(interactions(kind, **sizes), FACTS)
    torch.manual_seed(1)
    model = TwoTowerNetwork(encoder, replace(SHAPE, dim=dim)).eval()
    with torch.no_grad():
        model.users.normal_(std=0.1)
        model.bias.normal_(std=0.1)
    return encoder, model


def by_torch(encoder: RecommenderEncoder, model: TwoTowerNetwork, rows: pa.Table) -> dict[str, np.ndarray]:
    inputs = [torch.from_numpy(array) for array in encoder.encode(rows)]
    with torch.no_grad():
        codes, scores = WithHead(model, Head(encoder.answer_count)).eval()(*inputs)
    return encoder.answers({"item_codes": codes.numpy(), "scores": scores.numpy()})


def exported(encoder: RecommenderEncoder, model: TwoTowerNetwork, rows: pa.Table) -> onnx.ModelProto:
    head = WORKLOAD.head(encoder)
    inputs, outputs = encoder.input_names, encoder.core_outputs
    return export_core(WithHead(model, head), encoder.encode(rows), inputs, outputs, encoder.free_axes)


def session(core: onnx.ModelProto, encoder: RecommenderEncoder) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(finish(encoder.wrap(core), {}).SerializeToString())


def by_file(opened: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    given = {
        name: array.astype(np.str_).astype(object) if array.dtype.kind in "USO" else array
        for name, array in inputs.items()
    }
    return dict(zip(("items", "scores"), opened.run(["items", "scores"], given), strict=True))
