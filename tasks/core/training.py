"""One training: AdamW, warm-up and cosine decay, an exponential moving average of the weights, one report an epoch.

A training can be kept after any epoch, and goes on from there as if it had never stopped, to the last bit.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist

from tasks.core import devices
from tasks.core.log import log

_WARM_UP_STEPS = 100
_EMA_DECAY = 0.99
#: Rows are gathered in the order of an epoch in parts of about this size, so that trainings which share the rows'
#: memory do not each hold a copy of them all.
_GATHERED_BYTES = 16 << 20

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        learning_rate: peak learning rate.
        weight_decay: AdamW's decoupled weight decay.
        epochs: passes over the training examples.
        batch_size: examples of a step; the last, smaller batch of an epoch is left out.
        dtype: dtype of matrix products, None for float32. With float16 the loss is scaled, as its gradients are small.
        clip: largest norm of a step's gradient; None leaves it as it is.
        parts: a step's rows are computed in so many parts, one after the other, which takes less memory. It is the same
            step where the loss is a mean over rows. Batch norm sees one part's rows, dropout draws for each part, and
            the recommender's loss is a mean over items to be told, of which one part may have more than another.
        together: processes of torch's default group that train this network together. Each runs the same training with
            the same seed, and computes its share of every step's rows; the gradients are averaged. It is the same step
            as far as it is with parts.
        compiled: whether torch.compile makes the network's code for training, where it can.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    dtype: torch.dtype | None
    clip: float | None = None
    parts: int = 1
    together: int = 1
    compiled: bool = False


@dataclass(frozen=True)
class Progress:
    """A training after an epoch: the scores of all epochs so far, and everything that the next one depends on."""

    scores: tuple[float, ...]
    tensors: Mapping[str, Tensor]


class Keeper(Protocol):
    """Where a training's progress survives a kill."""

    def load(self) -> Progress | None:
        """What was kept last, if anything."""

    def save(self, scores: tuple[float, ...], tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the progress after an epoch, or leave it; ``tensors`` collects it."""


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
    """Run :func:`epochs` to the end; ``report`` is called after each with its number (from 1) and score."""
    running = epochs(network, recipe, examples, loss, evaluate, seed)
    while True:
        try:
            report(*next(running))
        except StopIteration as ended:
            trained: Trained = ended.value
            return trained


def epochs(
    network: nn.Module,
    recipe: Recipe,
    examples: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    evaluate: Callable[[nn.Module], float],
    seed: int,
    keeper: Keeper | None = None,
) -> Generator[tuple[int, float], bool | None, Trained]:
    """Train in place; yield the number (from 1) and score of every epoch; return the averaged weights after the last.

    An epoch to which a true value is sent is the last one.

    No epoch is picked by its score on validation: the learning rate has decayed to nothing by the last one, and the
    best of several noisy figures is worse on later rows than it looks.

    Args:
        network: freshly initialised, on the device.
        recipe: how to train.
        examples: tensors of equal length; the loop shuffles and slices them along the first axis.
        loss: (network, slice of the examples) -> scalar, the mean over its rows.
        evaluate: network -> its metric on validation.
        seed: seed of shuffling, dropout and augmentation.
        keeper: where the progress is kept; epochs that it knows are told again, not run again.

    Raises:
        FloatingPointError: if the network's answers stop being finite.
    """
    torch.manual_seed(seed)
    count = len(examples[0])
    batch = min(recipe.batch_size, count) // recipe.together * recipe.together
    loop = Loop(network, recipe, loss, recipe.epochs * (count // batch))
    progress = keeper.load() if keeper is not None else None
    scores = list(progress.scores) if progress is not None else []
    enough: bool | None = False
    for epoch, score in enumerate(scores, 1):
        enough = yield epoch, score  # nothing was drawn yet that another training could disturb
    if progress is not None:
        loop.restore(progress.tensors, len(scores) * (count // batch))
    while len(scores) < recipe.epochs and not enough:
        network.train()
        for part in _batches(examples, batch, loop.device):
            loop.step(part)
        score = _judged(evaluate, loop.average, recipe.together)
        if not math.isfinite(score):
            raise FloatingPointError(f"the metric on validation is {score} after epoch {len(scores) + 1}")
        scores.append(score)
        if keeper is not None and len(scores) < recipe.epochs:
            keeper.save(tuple(scores), loop.tensors)
        randomness = loop.randomness()
        enough = yield len(scores), score
        loop.set_randomness(randomness)  # others may train in this process meanwhile
    averaged = loop.average.state_dict().items()
    state = {name: value.detach().cpu().contiguous().clone() for name, value in averaged}
    return Trained(state, scores[-1])


def _judged(evaluate: Callable[[nn.Module], float], network: nn.Module, together: int) -> float:
    """The metric on validation; of processes that train together the first one's, so that all go on, or none does.

    Each has running statistics of its own rows, and a figure of its own.
    """
    if together == 1:
        return evaluate(network)
    try:
        score = evaluate(network)
    except FloatingPointError:
        score = math.nan
    device = next(network.parameters()).device
    scores = [torch.zeros((), dtype=torch.float64, device=device) for _ in range(together)]
    dist.all_gather(scores, torch.tensor(score, dtype=torch.float64, device=device))
    return scores[0].item() if all(map(torch.isfinite, scores)) else math.nan


class Loop:
    """A network with its optimizer and its averaged weights, step by step."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, loss: Callable[[nn.Module, Batch], Tensor], total_steps: int
    ) -> None:
        self.device = next(network.parameters()).device
        self._network, self._recipe, self._loss = network, recipe, loss
        if recipe.compiled:
            _compile(network, self.device)
        self._rate = _warm_up_and_cosine(total_steps)
        self._steps = 0
        self._optimizer = torch.optim.AdamW(
            network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.dtype == torch.float16)
        self.average = copy.deepcopy(network)

    def step(self, rows: Batch) -> None:
        """Take one step; nothing waits for the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * self._rate(self._steps)
        self._optimizer.zero_grad(set_to_none=True)
        if self._recipe.together > 1:
            rows = tuple(tensor.chunk(self._recipe.together)[dist.get_rank()] for tensor in rows)
        for part in self._parts(rows):
            with torch.autocast(self.device.type, dtype=self._recipe.dtype, enabled=self._recipe.dtype is not None):
                value = self._loss(self._network, part)
            if len(part[0]) < len(rows[0]):
                value = value * (len(part[0]) / len(rows[0]))
            self._scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if self._recipe.together > 1:
            self._average_gradients()
        if self._recipe.clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._steps += 1
        self._move_average()

    @torch.no_grad()
    def _move_average(self) -> None:
        """Move the averages towards the values; faster at first, so that a short training forgets where it began.

        Not torch's AveragedModel: its count of steps is a tensor, and reading it in every step waits for the device.
        """
        decay = min(_EMA_DECAY, self._steps / (9 + self._steps)) if self._steps > 1 else 0.0  # the first is copied
        pairs = list(zip(_values(self.average), _values(self._network), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in pairs:
            if not average.is_floating_point():  # a count or a code has no average
                average.copy_(value)

    def _average_gradients(self) -> None:
        """Let all processes step along the mean of their gradients, which travel as one tensor.

        Not torch's DistributedDataParallel: it watches a network's ``forward`` alone, and a loss may call any method.
        """
        gradients = [value.grad for value in self._network.parameters() if value.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self._recipe.together
        means = torch.split(flat, [one.numel() for one in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _parts(self, rows: Batch) -> Iterator[Batch]:
        if self._recipe.parts == 1:
            return iter([rows])
        return zip(*(tensor.chunk(self._recipe.parts) for tensor in rows), strict=True)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, on the CPU, by name."""
        found = {f"network.{name}": value for name, value in self._network.state_dict().items()}
        found |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, values in self._optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        found |= {f"scaler.{name}": torch.tensor(value) for name, value in self._scaler.state_dict().items()}
        found |= {f"rng.{name}": state for name, state in self.randomness().items()}
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go back to where :meth:`tensors` were taken, after so many steps."""
        self._steps = steps
        self._network.load_state_dict(_under("network.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        parameters = list(self._network.parameters())
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value if key == "step" else _as(value, parameters[int(index)])
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})
        if scaled := {name: value.item() for name, value in _under("scaler.", tensors).items()}:
            self._scaler.load_state_dict(scaled)
        self.set_randomness(_under("rng.", tensors))

    def randomness(self) -> dict[str, Tensor]:
        """What the next random numbers depend on, on the CPU and on the device."""
        found = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            found["device"] = getattr(torch, self.device.type).get_rng_state()
        return found

    def set_randomness(self, states: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`randomness` was."""
        torch.set_rng_state(states["cpu"])
        if "device" in states:
            getattr(torch, self.device.type).set_rng_state(states["device"])


def _compile(network: nn.Module, device: torch.device) -> None:
    """Let a network's ``forward`` be compiled at its first step; its weights and their names stay as they are."""
    if (reason := devices.no_compiler(device)) is None:
        network.compile(dynamic=False)
    else:
        log.warning("training without torch.compile, which cannot be used here: %s", reason)


def _as(values: Tensor, weight: Tensor) -> Tensor:
    """Values in the order in memory that a weight has: the fused optimizer walks through both as they lie there."""
    return torch.empty_like(weight).copy_(values)


def _values(network: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers: batch norm's running statistics belong to the averaged weights."""
    return itertools.chain(network.parameters(), network.buffers())


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _batches(examples: Batch, batch: int, device: torch.device) -> Iterator[Batch]:
    """The examples in random order, batch by batch, on the device; what is left over at the end is not used."""
    count = len(examples[0])
    order = torch.randperm(count)[: count // batch * batch].to(examples[0].device)
    gathered = max(1, _GATHERED_BYTES // max(1, sum(tensor[:1].nbytes for tensor in examples) * batch)) * batch
    for first in range(0, len(order), gathered):
        rows = order[first : first + gathered]
        block = tuple(_sent(tensor[rows], device) for tensor in examples)
        for start in range(0, len(rows), batch):
            yield tuple(tensor[start : start + batch] for tensor in block)


def _sent(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on the device; the CPU does not wait for a GPU to have read them, which takes memory that is pinned."""
    if device.type == "cuda" and rows.device.type == "cpu":
        rows = rows.pin_memory()
    return rows.to(device, non_blocking=True)


def _warm_up_and_cosine(total: int) -> Callable[[int], float]:
    warm_up = min(_WARM_UP_STEPS, max(1, total // 10))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor
