"""Recovery: a smaller network learns to give the original's answers (Hinton et al. 2015).

The teacher answers once. Its logits are kept beside the very inputs, augmented or not, that it saw ("a patient and
consistent teacher", Beyer et al. 2022), so that a pass of the student costs the student's time alone.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.core.log import progress
from tasks.core.training import Batch, Recipe, train
from tasks.core.workloads.losses import logits_of

if TYPE_CHECKING:
    from tasks.core.settings import Tune
    from tasks.core.workloads.contract import Encoder, Workload

#: Augmented views of train that the teacher answers, and the memory that they may take.
_VIEWS, _MOST_BYTES = 4, 2 << 30
#: The view whose inputs are disturbed, where a workload knows how: in the others they are as clean as the data.
_DISTURBED = 1
_BATCH = 512
#: Softens both answers, so that the order of the unlikely classes counts too.
_TEMPERATURE = 2.0

#: Inputs of a network -> the same, changed.
_Change = Callable[[Batch], Batch]


@dataclass(frozen=True)
class Lessons:
    """What students learn from: one or more passes over train, each with the teacher's answers.

    Attributes:
        pool: tensors equal in length, the passes one after the other; what they hold is up to ``loss``.
        passes: number of passes in the pool.
        loss: (student, slice of the pool) -> scalar.
    """

    pool: Batch
    passes: int
    loss: Callable[[nn.Module, Batch], Tensor]

    def first(self, passes: int) -> Batch:
        """The first passes."""
        return tuple(part[: len(part) // self.passes * passes] for part in self.pool)


def prepare(
    workload: Workload,
    encoder: Encoder,
    tune: Tune,
    teachers: Sequence[nn.Module],
    examples: Batch,
    dtype: Any,
    task: str,
    seed: int,
    seconds: float = math.inf,
    labels: Tensor | None = None,
) -> Lessons:
    """Let the teachers (their logits averaged) answer train.

    A workload with a ``distillation_loss`` of its own (:class:`~tasks.core.workloads.contract.Workload`) is taught by
    its first teacher, batch by batch.

    Args:
        workload: whose loss draws the augmentation.
        encoder: the original's.
        tune: the section that the original was trained with.
        teachers: trained networks, on the examples' device.
        examples: of :meth:`Workload.examples`.
        dtype: of the teachers' matrix products; None for float32.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
        seed: of the augmentation.
        seconds: that answering should take; the first pass is made whatever it takes.
        labels: class index, int64 [rows], where the teacher's mistakes on train are to be put right.
    """
    torch.manual_seed(seed)
    own = getattr(workload, "distillation_loss", None)
    if own is not None:
        teacher = teachers[0].eval()
        return Lessons(examples, 1, lambda student, batch: own(student, teacher, batch, encoder, tune))
    began = time.monotonic()

    def answered(examples: Batch, change: _Change | None = None) -> Batch:
        *inputs, logits = _answered(workload, encoder, tune, teachers, examples, dtype, change)
        return (*inputs, logits if labels is None else put_right(logits, labels[: len(logits)]))

    change: _Change | None = None
    if (disturbed := getattr(workload, "disturbed", None)) is not None:
        change = functools.partial(disturbed, encoder=encoder)
    first, few = answered(examples), tuple(part[:_BATCH] for part in examples)
    augmented, changed = (_differ(first, answered(few, way)) for way in (None, change))
    affordable = (_MOST_BYTES // max(1, sum(part.nbytes for part in first)), seconds / (time.monotonic() - began))
    views = max(1, int(min(_VIEWS if augmented else 1 + changed, *affordable)))
    others = [answered(examples, change if view == _DISTURBED else None) for view in range(1, views)]
    pool = tuple(torch.cat(parts) for parts in zip(first, *others, strict=True)) if others else first
    return Lessons(pool, views, _imitation(task))


def put_right(logits: Tensor, labels: Tensor) -> Tensor:
    """The answers, the likeliest class and the right one exchanged where they differ.

    So a mistake of the teacher's is not handed on, and how sure it was and what else looked alike still is
    ("probability shift", Wen, Lai, Qian 2019, "Preparing Lessons: Improve Knowledge Distillation with Better
    Supervision", section 3.2).

    Args:
        logits: float32 [rows, classes].
        labels: class index, int64 [rows].
    """
    right, likeliest = labels[:, None], logits.argmax(1, keepdim=True)
    exchanged = logits.scatter(1, right, logits.gather(1, likeliest))
    return exchanged.scatter(1, likeliest, logits.gather(1, right))


def teach(
    network: nn.Module, lessons: Lessons, recipe: Recipe, evaluate: Callable[[nn.Module], float], seed: int
) -> tuple[float, int]:
    """Train a network on about ``recipe.epochs`` passes, never more, and put the averaged weights into it.

    Returns:
        Its score, and the passes that were made.

    Raises:
        FloatingPointError: if training diverges.
    """
    views = min(lessons.passes, recipe.epochs)
    epochs = recipe.epochs // views
    trained = train(
        network,
        replace(recipe, epochs=epochs),
        lessons.first(views),
        lessons.loss,
        evaluate,
        seed,
        lambda epoch, score: None,  # noqa: ARG005 (the loop's interface)
    )
    network.load_state_dict(trained.state)
    network.eval()
    return trained.score, epochs * views


class Ensemble(nn.Module):
    """Networks in evaluation mode whose logits are averaged; other attributes are those of the first."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList([network.eval() for network in networks])

    def forward(self, *inputs: Tensor) -> Tensor:
        """The networks' inputs -> logits float32 [rows, width]."""
        return torch.stack([logits_of(network(*inputs)) for network in self.networks]).mean(0)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a loss may read what belongs to the network, such as its label smoothing
            first: nn.Module = next(iter(cast("nn.ModuleList", super().__getattr__("networks"))))
            return getattr(first, name)


class _Recorder(Ensemble):
    """Stands for the network inside a workload's loss, and remembers what it was asked and what it answered."""

    def __init__(self, teachers: Sequence[nn.Module], change: _Change | None) -> None:
        super().__init__(teachers)
        self.training = True  # so that the loss augments; the teachers themselves stay in evaluation mode
        self.change = change
        self.seen: list[Batch] = []

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.change is not None:
            inputs = self.change(inputs)
        logits = super().forward(*inputs)
        self.seen.append((*(part.clone() for part in inputs), logits))
        return logits


@torch.no_grad()
def _answered(
    workload: Workload,
    encoder: Encoder,
    tune: Tune,
    teachers: Sequence[nn.Module],
    examples: Batch,
    dtype: Any,
    change: _Change | None,
) -> Batch:
    """One pass over the examples: the network's inputs, changed, then the logits float32 [rows, width]."""
    recorder = _Recorder(teachers, change)
    count = len(examples[0])
    starts = range(0, count, _BATCH)
    with torch.autocast(examples[0].device.type, dtype=dtype, enabled=dtype is not None):
        for start in progress(starts, "the original answers train", len(starts)):
            workload.loss(recorder, tuple(part[start : start + _BATCH] for part in examples), encoder, tune)
    return tuple(torch.cat(parts) for parts in zip(*recorder.seen, strict=True))


def _differ(all_rows: Batch, first_rows: Batch) -> bool:
    """Whether another pass over the first rows gave the network other inputs."""
    pairs = zip(all_rows[:-1], first_rows[:-1], strict=True)
    return any(not torch.equal(one[: len(other)], other) for one, other in pairs)


def _imitation(task: str) -> Callable[[nn.Module, Batch], Tensor]:
    def loss(student: nn.Module, batch: Batch) -> Tensor:
        *inputs, target = batch
        return divergence(logits_of(student(*inputs)), target, task)

    return loss


def divergence(logits: Tensor, target: Tensor, task: str) -> Tensor:
    """How far answers are from the teacher's, a scalar: 0 at best, but for the entropy of two classes.

    Several classes: Kullback-Leibler divergence of the softened distributions, times the squared temperature (so that
    gradients keep their size: Hinton et al. 2015, eq. 4). Two classes in one logit: cross-entropy with the teacher's
    probability. A quantity: mean squared error.

    Args:
        logits: float32 [rows, width].
        target: the teacher's, the same shape.
        task: ``binary``, ``multiclass`` or ``regression``.
    """
    if task == "regression":
        return functional.mse_loss(logits, target)
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(target))
    warm, goal = (functional.log_softmax(values / _TEMPERATURE, dim=1) for values in (logits, target))
    return functional.kl_div(warm, goal, log_target=True, reduction="batchmean") * _TEMPERATURE**2
