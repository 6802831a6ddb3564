"""Depth: whole blocks are taken out, where what goes in and what comes out have one shape."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def removable(network: nn.Module, example: Sequence[Tensor]) -> list[str]:
    """Names of the members of a sequence that could be left out: with weights, and one shape before and after.

    Args:
        network: any; blocks in an :class:`torch.nn.Sequential` are found.
        example: network inputs, a few rows.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            tensors = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            same = tensors and inputs[0].shape == output.shape
            if same and name not in found and any(value.ndim > 1 for value in block.parameters()):
                found.append(name)

        return hook

    members = [
        (f"{path}.{name}" if path else name, block)
        for path, sequence in network.named_modules()
        if isinstance(sequence, nn.Sequential)
        for name, block in sequence.named_children()
        if not isinstance(block, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # its norm and activation would stay behind
    ]
    handles = [block.register_forward_hook(watch(name)) for name, block in members]
    with torch.no_grad():
        network.eval()(*example)
    for handle in handles:
        handle.remove()
    return [name for name in found if not any(name.startswith(f"{outer}.") for outer in found)]


def without(network: nn.Module, blocks: Sequence[str]) -> nn.Module:
    """A copy in which the named blocks pass on what they get."""
    smaller = copy.deepcopy(network)
    for name in blocks:
        path, _, last = name.rpartition(".")
        setattr(smaller.get_submodule(path), last, nn.Identity())
    return smaller


def by_damage(
    network: nn.Module, blocks: Sequence[str], evaluate: Callable[[nn.Module], float], loss: Callable[[float], float]
) -> dict[str, float]:
    """For each block the metric's loss when it alone is left out, the least first; infinite if no answer is finite.

    Args:
        network: trained.
        blocks: of :func:`removable`.
        evaluate: network -> metric.
        loss: metric -> how much worse than the whole network's.
    """
    damage = {}
    for name in blocks:
        try:
            damage[name] = loss(evaluate(without(network, [name])))
        except FloatingPointError:
            damage[name] = math.inf
    return dict(sorted(damage.items(), key=lambda item: item[1]))
