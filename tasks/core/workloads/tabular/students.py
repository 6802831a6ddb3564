"""Smaller multi-layer perceptrons that could answer instead of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

#: Kernels work on blocks of so many values.
_BLOCK = 16
_SHARES = (1.0, 0.5, 0.25, 0.125)


def of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hyperparameters of smaller networks, the widest first: narrower, fewer layers, smaller vectors, less dropout.

    Args:
        values: of the trained network.
    """
    whole = {name: int(values[name]) for name in ("hidden", "layers", "number_dim", "category_dim")}
    layers = sorted({whole["layers"], max(1, whole["layers"] - 1), 1}, reverse=True)
    dims = sorted(
        {
            (whole["number_dim"], whole["category_dim"]),
            tuple(max(1, whole[n] // 2) for n in ("number_dim", "category_dim")),
        },
        reverse=True,
    )
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for share, count, (number, category) in product(_SHARES, layers, dims):
        hidden = max(1, min(whole["hidden"], max(_BLOCK, round(whole["hidden"] * share / _BLOCK) * _BLOCK)))
        shape = (hidden, count, number, category)
        sizes = dict(zip(("hidden", "layers", "number_dim", "category_dim"), shape, strict=True))
        found[shape] = {**values, **sizes, "dropout": float(values["dropout"]) * share}
    found.pop(tuple(whole.values()), None)
    return list(found.values())
