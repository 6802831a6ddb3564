"""One training: AdamW, warm-up and cosine decay, an exponential moving average of the weights, one report an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tasks.core.metrics import auc
from tasks.core.workloads.tabular.network import TabularNetwork

_WARM_UP_STEPS = 100
_EMA_DECAY = 0.99


@dataclass(frozen=True)
class Split:
    """Rows as tensors on the device: numbers float32 [n, F], codes int64 [n, C], labels float32 [n]."""

    numbers: Tensor
    codes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Split:
        """The same on another device."""
        return Split(self.numbers.to(device), self.codes.to(device), self.labels.to(device))

    def shuffled(self, order: Tensor) -> Split:
        """The rows in another order: one gather an epoch, so that every batch is a view."""
        return Split(self.numbers[order], self.codes[order], self.labels[order])


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: AdamW's decoupled weight decay.
        epochs: passes over the training rows.
        batch_size: rows of a step; the last, smaller batch of an epoch is left out.
        dtype: dtype of matrix products, None for float32.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Trained:
    """The end of a training: averaged weights, and the validation AUC that they reach."""

    state: dict[str, Tensor]
    auc: float


def train(
    network: TabularNetwork,
    recipe: Recipe,
    train_rows: Split,
    validation: Split,
    seed: int,
    report: Callable[[int, float], None],
) -> Trained:
    """Train in place and return the averaged weights after the last epoch.

    No epoch is picked by its validation AUC: the learning rate has decayed to nothing by the last one, and the best
    of several noisy figures is worse on later rows than it looks.

    Args:
        network: freshly initialised, on the rows' device.
        recipe: how to train.
        train_rows: rows to learn from.
        validation: rows to score after each epoch.
        seed: seed of shuffling and dropout.
        report: called after each epoch with its number (from 1) and validation AUC; may raise to stop the training.

    Raises:
        FloatingPointError: if the network's scores stop being finite.
    """
    torch.manual_seed(seed)
    count = len(train_rows.labels)
    batch = min(recipe.batch_size, count)
    steps = count // batch
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warm_up_and_cosine(recipe.epochs * steps))
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(_EMA_DECAY),  # type: ignore[no-untyped-call]
    )
    score = math.nan
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(count).to(train_rows.labels.device)
        _one_epoch(network, average, optimizer, schedule, train_rows.shuffled(order), batch, recipe.dtype)
        score = _validation_auc(average.module, validation)
        report(epoch, score)
    state = {name: value.detach().cpu().clone() for name, value in average.module.state_dict().items()}
    return Trained(state, score)


def _one_epoch(
    network: nn.Module,
    average: torch.optim.swa_utils.AveragedModel,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rows: Split,
    batch: int,
    dtype: torch.dtype | None,
) -> None:
    network.train()
    device = rows.labels.device.type
    for start in range(0, len(rows.labels) - batch + 1, batch):
        part = slice(start, start + batch)
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            logits = network(rows.numbers[part], rows.codes[part])
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), rows.labels[part])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        average.update_parameters(network)


def _validation_auc(network: nn.Module, rows: Split) -> float:
    scores = predict(network, rows.numbers, rows.codes)
    if not torch.isfinite(scores).all():
        raise FloatingPointError("the network's scores are not finite")
    return auc(rows.labels.cpu().numpy(), scores.cpu().numpy())


@torch.no_grad()
def predict(network: nn.Module, numbers: Tensor, codes: Tensor, batch: int = 8192) -> Tensor:
    """Logits float32 [n] of the network in evaluation mode, batch by batch."""
    network.eval()
    starts = range(0, max(1, len(numbers)), batch)
    parts = [network(numbers[start : start + batch], codes[start : start + batch]) for start in starts]
    return torch.cat(parts)


def _warm_up_and_cosine(total: int) -> Callable[[int], float]:
    warm_up = min(_WARM_UP_STEPS, max(1, total // 10))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor
