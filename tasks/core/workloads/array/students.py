"""Smaller residual networks that could answer instead of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

#: Kernels work on blocks of so many channels: other widths cost as much as the next multiple.
_BLOCK = 16
_SHARES = (1.0, 0.75, 0.5, 0.25)
#: Of the last stage's width: where the stages stop widening. Most of the weights lie there.
_CAPS = (1.0, 0.875, 0.75)


def of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hyperparameters of smaller networks, those of most weights first.

    They halve the axes in the first stage, or keep them where the trained one does; are narrower, stop widening
    earlier, have one block a stage, or one stage less; dropout is left out, since the teacher's answers regularise.

    Args:
        values: of the trained network.
    """
    stride, stem, stages = int(values.get("first_stride", 2)), int(values["width"]), int(values["stages"])
    widths = list(values.get("widths") or [stem * stride * 2**stage for stage in range(stages)])
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    strides = sorted({2, stride}, reverse=True)
    block = min(_BLOCK, stem)
    depths = sorted({stages, max(1, stages - 1)})
    caps = [*(share * widths[-1] for share in _CAPS), widths[max(0, stages - 2)]]
    blocks = sorted({1, int(values["blocks"])})
    for share, depth, cap, count, narrow, first in product(_SHARES, depths, caps, blocks, (1, 2), strides):
        smaller = tuple(_rounded(min(width, cap) * share, block) for width in widths[:depth])
        shape = (_rounded(stem * share / narrow, block), smaller, count, first)
        sizes = {"width": shape[0], "widths": smaller, "stages": depth, "blocks": count, "first_stride": first}
        found[shape] = {**values, **sizes, "dropout": 0.0}
    whole = _weights({"width": stem, "widths": widths, "blocks": int(values["blocks"])})
    smaller_ones = [one for one in found.values() if _weights(one) < whole]
    return sorted(smaller_ones, key=_weights, reverse=True)


def _rounded(width: float, block: int) -> int:
    return max(block, int(width / block) * block)


def _weights(values: Mapping[str, Any]) -> int:
    """About how many weights the convolutions have."""
    before, total = values["width"], 0
    for width in values["widths"]:
        total += 9 * width * (before + width * (2 * values["blocks"] - 1))
        before = width
    return total
