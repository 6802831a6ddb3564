"""One training: AdamW, warm-up and cosine decay, an exponential moving average of the weights, one report an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WARM_UP_STEPS = 100
_EMA_DECAY = 0.99

Batch = tuple[Tensor, ...]
Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: AdamW's decoupled weight decay.
        epochs: passes over the training examples.
        batch_size: examples of a step; the last, smaller batch of an epoch is left out.
        dtype: dtype of matrix products, None for float32.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Trained:
    """The end of a training: averaged weights, and the score that they reach on validation."""

    state: dict[str, Tensor]
    score: float


def train(
    network: nn.Module,
    recipe: Recipe,
    examples: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    evaluate: Callable[[nn.Module], float],
    seed: int,
    report: Callable[[int, float], None],
) -> Trained:
    """Train in place and return the averaged weights after the last epoch.

    No epoch is picked by its score on validation: the learning rate has decayed to nothing by the last one, and the
    best of several noisy figures is worse on later rows than it looks.

    Args:
        network: freshly initialised, on the examples' device.
        recipe: how to train.
        examples: tensors of equal length on the device; the loop shuffles and slices them along the first axis.
        loss: (network, slice of the examples) -> scalar.
        evaluate: network -> its metric on validation.
        seed: seed of shuffling, dropout and augmentation.
        report: called after each epoch with its number (from 1) and score; may raise to stop the training.

    Raises:
        FloatingPointError: if the network's answers stop being finite.
    """
    torch.manual_seed(seed)
    count = len(examples[0])
    batch = min(recipe.batch_size, count)
    steps = count // batch
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_cosine(recipe.epochs * steps))
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=_exponential_average,
        use_buffers=True,  # batch norm's running statistics belong to the averaged weights
    )
    score = math.nan
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(count).to(examples[0].device)
        shuffled = tuple(tensor[order] for tensor in examples)  # one gather an epoch, so that every batch is a view
        network.train()
        for start in range(0, count - batch + 1, batch):
            part = tuple(tensor[start : start + batch] for tensor in shuffled)
            _step(network, part, loss, optimizer, recipe.dtype)
            schedule.step()
            average.update_parameters(network)
        del shuffled, part  # the next epoch's copy must not meet this one
        score = evaluate(average.module)
        if not math.isfinite(score):
            raise FloatingPointError(f"the metric on validation is {score} after epoch {epoch}")
        report(epoch, score)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in average.module.state_dict().items()}
    return Trained(state, score)


@torch.no_grad()
def _exponential_average(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
    """Move the averages towards the values; faster at first, so that a short training forgets where it began."""
    decay = min(_EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    torch.optim.swa_utils.get_ema_multi_avg_fn(decay)(averages, values, count)  # type: ignore[no-untyped-call]


def _step(
    network: nn.Module,
    part: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    dtype: torch.dtype | None,
) -> None:
    with torch.autocast(part[0].device.type, dtype=dtype, enabled=dtype is not None):
        value = loss(network, part)
    optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _warm_up_and_cosine(total: int) -> Callable[[int], float]:
    warm_up = min(_WARM_UP_STEPS, max(1, total // 10))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor
