"""Structured pruning: channels and neurons are taken out, so that the network is really smaller.

Which layers must shrink together is found by Torch-Pruning's dependency graph (Fang et al. 2023, "DepGraph").
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tasks.core.training import Batch

_PRUNED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
#: Widths that the runtime's blocked kernels like, from the best; the first that a network's layers allow is taken.
_ROUNDINGS = (16, 8, 4, 1)
_ROWS = 256

Loss = Callable[[nn.Module, Batch], Tensor]


def cut(
    network: nn.Module,
    example: Sequence[Tensor],
    share: float,
    importance: str,
    scope: str,
    batch: Batch,
    loss: Loss,
    steps: int = 1,
    recover: Callable[[nn.Module], object] | None = None,
) -> tuple[nn.Module, dict[str, str]]:
    """A copy of the network without its least important channels and neurons; its answers keep their shape.

    Importance of a group of channels: ``magnitude`` (norm of its weights), ``taylor`` (first-order change of the loss,
    Molchanov et al. 2019), ``hessian`` (second-order, by squared gradients of rows).

    Args:
        network: on the device of ``example``.
        example: network inputs, a few rows.
        share: of the channels that go, above 0 and below 1.
        importance: ``magnitude``, ``taylor`` or ``hessian``.
        scope: ``layer`` takes the share from every layer; ``global`` compares them all.
        batch: rows of lessons, for importances that need gradients.
        loss: of such rows.
        steps: in which the share goes; importance is judged anew before each.
        recover: trains the network in place between two steps.

    Returns:
        The smaller network, and for each layer that kept its width the reason.
    """
    import torch_pruning

    smaller = copy.deepcopy(network).eval()
    outputs = _output_layers(smaller, example)
    widths = {name: _width(layer) for name, layer in _layers(smaller)}
    inner = [width for name, width in widths.items() if name not in outputs]
    rounding = next((by for by in _ROUNDINGS if all(width >= 2 * by for width in inner)), 1)
    for value in smaller.parameters():
        value.requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters outside of layers, which it leaves alone
        pruner = torch_pruning.pruner.BasePruner(
            smaller,
            tuple(example),
            importance=_importance(torch_pruning, importance),
            global_pruning=scope == "global",
            pruning_ratio=share,
            max_pruning_ratio=max(share, 0.9),
            ignored_layers=[layer for name, layer in _layers(smaller) if name in outputs],
            round_to=rounding,
            output_transform=_sum,
            iterative_steps=steps,
        )
        for step in range(steps):
            if step and recover is not None:
                recover(smaller)
                smaller.eval()
            _gradients(smaller, pruner.importance, importance, batch, loss)
            pruner.step()
            smaller.zero_grad(set_to_none=True)
    _same_answers(network, smaller, example)
    return smaller, {name: _reason(name, outputs) for name, layer in _layers(smaller) if _width(layer) == widths[name]}


def _importance(library: Any, name: str) -> Any:
    found = {
        "magnitude": library.importance.GroupMagnitudeImportance,
        "taylor": library.importance.GroupTaylorImportance,
        "hessian": library.importance.GroupHessianImportance,
    }
    return found[name]()


def _gradients(network: nn.Module, criterion: Any, importance: str, batch: Batch, loss: Loss) -> None:
    """What the importance reads: gradients of the mean loss, or of every row's alone."""
    if importance == "magnitude":
        return
    rows = tuple(part[:_ROWS] for part in batch)
    if importance == "taylor":
        loss(network, rows).backward()  # type: ignore[no-untyped-call]
        for value in network.parameters():
            if value.grad is None:  # what the loss does not read has no importance
                value.grad = torch.zeros_like(value)
        return
    squares = {value: torch.zeros_like(value) for value in network.parameters()}
    for row in range(len(rows[0])):
        network.zero_grad()
        loss(network, tuple(part[row : row + 1] for part in rows)).backward()  # type: ignore[no-untyped-call]
        for value, total in squares.items():
            if value.grad is not None:
                total.add_(value.grad.square())
    criterion._accu_grad = squares  # its own way of adding them up keeps the last row alone
    criterion._counter = dict.fromkeys(squares, len(rows[0]))


def _layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in network.named_modules() if isinstance(layer, _PRUNED)]


def _width(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _output_layers(network: nn.Module, example: Sequence[Tensor]) -> set[str]:
    """Layers whose outputs are answers: the last one to run; of a network of several answers all as wide as one."""
    order: dict[str, int] = {}
    handles = [layer.register_forward_hook(functools.partial(_note, order, name)) for name, layer in _layers(network)]
    with torch.no_grad():
        answers = network(*example)
    for handle in handles:
        handle.remove()
    last = set(list(order)[-1:])
    if not isinstance(answers, tuple):
        return last
    widths = {answer.shape[1] for answer in answers if answer.ndim > 1}
    return last | {name for name, width in order.items() if width in widths}


def _note(order: dict[str, int], name: str, layer: nn.Module, _inputs: Any, _output: Any) -> None:
    order[name] = _width(layer)


def _sum(answers: Any) -> Tensor:
    """What Torch-Pruning follows back: every answer in one number."""
    return torch.stack([one.float().sum() for one in (answers if isinstance(answers, tuple) else (answers,))]).sum()


@torch.no_grad()
def _same_answers(network: nn.Module, smaller: nn.Module, example: Sequence[Tensor]) -> None:
    """Raises RuntimeError if the smaller network does not run, or answers in other shapes."""
    before, after = network.eval()(*example), smaller(*example)
    shapes = [[part.shape for part in (found if isinstance(found, tuple) else (found,))] for found in (before, after)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"pruning changed the shape of the answers from {shapes[0]} to {shapes[1]}")


def _reason(name: str, outputs: set[str]) -> str:
    return "its outputs are answers" if name in outputs else "no whole block of its channels could go"
