"""Tiny data of every family, as `validate` leaves it: train rows and facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core import tensors as arrays

ROWS = 96
#: Kinds of problem that a built-in family has.
TASKS = {
    "tabular": ("binary", "multiclass", "regression"),
    "array": ("binary", "multiclass"),
    "recommender": ("ranking",),
}
#: An image and nothing else.
TENSORS: Mapping[str, Mapping[str, Any]] = {"x": {"dtype": "uint8", "shape": [12, 12]}}


def make(family: str, task: str, tensors: Mapping[str, Mapping[str, Any]] = TENSORS) -> tuple[pa.Table, dict[str, Any]]:
    """Rows and facts for a built-in family.

    Args:
        family: its name.
        task: one of its kinds of problem.
        tensors: of an array problem: name -> dtype and shape.

    Raises:
        KeyError: for any other family.
    """
    random = np.random.default_rng(11)
    if family == "recommender":
        return _interactions(random)
    if family not in TASKS:
        raise KeyError(family)
    columns, names = _columns(random) if family == "tabular" else _arrays(random, tensors)
    target, classes = _target(random, task)
    facts = _facts(task, classes) | {"columns": names | {"y": "float64" if task == "regression" else "int64"}}
    facts["tensors"] = {name: dict(tensor) for name, tensor in tensors.items()} if family == "array" else {}
    return pa.table({"row": pa.array(np.arange(ROWS)), **columns, "y": target}), facts


def _facts(task: str, classes: list[int]) -> dict[str, Any]:
    return {
        "columns": {}, "tensors": {}, "target": "y", "task": task, "classes": classes, "rows": {"train": ROWS},
        "split": {"by": "random"}, "time_column": None, "content_hash": "tiny", "user": None, "time": None,
    }  # fmt: skip


def _target(random: np.random.Generator, task: str) -> tuple[pa.Array, list[int]]:
    if task == "regression":
        return pa.array(random.normal(20, 3, ROWS)), []
    classes = list(range(2 if task == "binary" else 4))
    return pa.array(np.arange(ROWS) % len(classes)), classes


def _columns(random: np.random.Generator) -> tuple[dict[str, pa.Array], dict[str, str]]:
    """Every type of column, with missing values in all of them."""
    gaps = random.random(ROWS) < 0.1
    moments = pa.array(1_600_000_000_000_000 + 3_600_000_000 * np.arange(ROWS), pa.timestamp("us", tz="UTC"))
    columns = {
        "length": pa.array(random.normal(5, 2, ROWS), mask=gaps),
        "count": pa.array(random.integers(0, 50, ROWS), mask=gaps),
        "word": pa.array(random.choice(["a", "b", "ü"], ROWS).tolist(), mask=gaps),
        "flag": pa.array(random.random(ROWS) < 0.5, mask=gaps),
        "when": moments,
    }
    return columns, {"length": "float64", "count": "int64", "word": "string", "flag": "bool", "when": "timestamp"}


def _arrays(
    random: np.random.Generator, tensors: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, pa.Array], dict[str, str]]:
    columns = {}
    for name, tensor in tensors.items():
        shape = (ROWS, *tensor["shape"])
        values = random.normal(0, 1, shape) if tensor["dtype"] == "float32" else random.integers(0, 100, shape)
        columns[name] = arrays.to_arrow(values.astype(tensor["dtype"]))
    return columns, {}


def _interactions(random: np.random.Generator) -> tuple[pa.Table, dict[str, Any]]:
    """Users with a few items each; ``history`` is there for the rows that are answered."""
    pairs = [(user, item) for user in range(24) for item in random.choice(20, 4, replace=False).tolist()]
    users, items = zip(*pairs, strict=True)
    history = [[other for who, other in pairs if who == user and other != item] for user, item in pairs]
    rows = pa.table({
        "row": pa.array(np.arange(len(pairs))),
        "user": pa.array([f"u{user}" for user in users]),
        "y": pa.array(items),
        "when": pa.array(1_600_000_000_000_000 + np.arange(len(pairs)), pa.timestamp("us", tz="UTC")),
        "history": pa.array(history, pa.list_(pa.int64())),
    })  # fmt: skip
    columns = {"user": "string", "y": "int64", "when": "timestamp"}
    facts = _facts("ranking", []) | {"columns": columns, "user": "user", "time": "when"}
    return rows, facts | {"split": {"by": "leave_last"}}
