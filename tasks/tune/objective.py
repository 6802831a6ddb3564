"""What a trial does: build a network from the proposed values, train it, report every epoch, keep its weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core import devices, workloads
from tasks.core.log import log
from tasks.core.metrics import Metric, find
from tasks.core.original import Network, metric_name
from tasks.core.settings import Tune
from tasks.core.training import Batch, Loop, Recipe, epochs
from tasks.core.workloads.contract import Encoder, Model, Workload
from tasks.tune import checkpoints
from tasks.tune import rows as shared
from tasks.tune.trial import Job, Outcome, Report, Task, Training

if TYPE_CHECKING:
    import pyarrow as pa

_LATENCY_RUNS, _LATENCY_WARM_UP = 30, 5


@dataclass(frozen=True)
class Objective:
    """Trains configurations.

    Attributes:
        settings: the stage's section.
        workload: the family of the problem.
        model: the kind of network.
        encoder: fitted on train, the same for every trial.
        metric: what decides.
        examples: training tensors.
        inputs: the network's inputs for validation, each [rows, ...].
        labels: of validation, [rows].
        folder: where trials leave their checkpoints.
        device: where to train.
    """

    settings: Tune
    workload: Workload
    model: Model
    encoder: Encoder
    metric: Metric
    examples: Batch
    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray
    folder: Path
    device: torch.device

    @staticmethod
    def prepare(job: Job) -> Objective:
        """Read train and validation (never test), fit the encoder, move tensors to the device.

        Raises:
            UsageError: if the features, the metric or the model do not fit the data.
            DataRejected: if the target holds what it must not.
        """
        import pyarrow.parquet as pq

        base, own, facts = job.base, job.tune, job.facts
        device = devices.prepare(base)
        workload = workloads.find(base.workload)
        metric = find(metric_name(base, facts["task"]), facts["task"])
        rows = pq.read_table(job.splits / "train.parquet")
        encoder = workload.fit(rows, facts, own)
        folder = job.folder / "rows"
        there = shared.are_in(folder)
        examples, inputs, labels = shared.read(folder) if there else _encoded(job, workload, encoder, rows)
        log.info(
            "tune: %d rows to learn from, %d to choose by; the model reads %s; on %s",
            rows.num_rows, len(labels), ", ".join(encoder.columns[:40]), device,
        )  # fmt: skip
        return Objective(
            own,
            workload,
            workloads.model(workload, own.model),
            encoder,
            metric,
            devices.placed(examples, device),
            inputs,
            labels,
            job.folder,
            device,
        )

    def train(self, task: Task) -> Training:
        """Train one configuration, from where it was interrupted if it was; leave its checkpoint.

        Raises:
            FloatingPointError: if training diverges.
        """
        kept = checkpoints.finished(self.folder, task, self._wanted())
        return (yield from self._anew(task) if kept is None else _again(kept))

    def _anew(self, task: Task) -> Training:
        torch.manual_seed(task.seed)
        network = self.model.build(self.encoder, task.values).to(self.device)
        self.evaluate(network, 2)  # a metric that does not fit the answers is told before the training, not after it
        reads = self.settings.processes > 1 and torch.distributed.get_rank() > 0  # one of them writes for all
        running = checkpoints.Running(self.folder, task.number, task.values, reads)
        training = epochs(
            network, self.recipe(task.values), self.examples, self.loss, self.evaluate, task.seed, running
        )
        scores: list[float] = []
        enough = None
        while True:
            try:
                epoch, score = training.send(enough)
            except StopIteration as ended:
                trained = ended.value
                break
            scores.append(score)
            with running.waiting():  # for the study, which may be busy with other trials
                stop = yield Report(epoch, score)
            if stop:
                running.forget()
                return Outcome("stopped")
            enough = has_stalled(scores, self.settings.early_stopping, self.metric.higher_is_better)
        seconds = running.seconds
        costs = self._costs(network, trained.state, seconds)
        kept = checkpoints.Checkpoint(task.number, task.seed, scores, dict(task.values), round(seconds, 2), costs)
        if not running.is_read_only:
            checkpoints.save(self.folder, kept, trained.state)
        running.forget()
        return Outcome("complete", trained.score, costs)

    def steps(self, task: Task) -> tuple[Callable[[], None], int]:
        """A training's single steps, to be timed: what takes the next one, and the rows of each."""
        torch.manual_seed(task.seed)
        network = self.model.build(self.encoder, task.values).to(self.device).train()
        count = min(self.settings.batch_size, len(self.examples[0]))
        loop = Loop(network, self.recipe(task.values), self.loss, self.settings.epochs)
        first = tuple(tensor[:count] for tensor in self.examples)
        return lambda: loop.step(first), count

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """How a configuration is trained."""
        own = self.settings
        dtype = devices.autocast_dtype(own.precision, self.device)
        return Recipe(
            values["learning_rate"],
            values["weight_decay"],
            own.epochs,
            own.batch_size,
            dtype,
            clip=own.clip,
            parts=own.parts,
            together=own.processes,
            compiled=own.compile,
        )

    def _costs(self, network: nn.Module, state: Mapping[str, Tensor], seconds: float) -> dict[str, float]:
        """The costs that are searched or limited; the others are not measured."""
        wanted = self._wanted()
        costs = {"training_seconds": seconds, "size_kib": sum(value.nbytes for value in state.values()) / 1024}
        if "latency_ms" in wanted:
            costs["latency_ms"] = self._latency(network)
        return {name: value for name, value in costs.items() if name in wanted}

    def _wanted(self) -> set[str]:
        return {*self.settings.objectives[1:], *self.settings.limits.model_dump(exclude_none=True)}

    def _latency(self, network: nn.Module) -> float:
        """Milliseconds in which the network answers one row: the median of several runs."""
        times = []
        for _ in range(_LATENCY_WARM_UP + _LATENCY_RUNS):
            began = time.perf_counter()
            self._answers(network.eval(), 1)
            times.append(time.perf_counter() - began)
        return 1000 * statistics.median(times[_LATENCY_WARM_UP:])

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The workload's loss of a slice of the examples."""
        return self.workload.loss(network, batch, self.encoder, self.settings)

    def evaluate(self, network: nn.Module, rows: int | None = None) -> float:
        """The metric on validation, or on its first ``rows``.

        Raises:
            FloatingPointError: if an answer is not finite.
        """
        answers = self._answers(network, rows)
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            raise FloatingPointError("the network's answers are not finite")
        return self.metric(self.labels[:rows], answers)

    def _answers(self, network: nn.Module, rows: int | None) -> np.ndarray:
        judged = Network(self.encoder, network, self.workload.head(self.encoder))
        return judged.predict_encoded([array[:rows] for array in self.inputs])

    def parameters(self, values: Mapping[str, Any]) -> int:
        """Number of trainable values of a network of this shape."""
        return sum(value.numel() for value in self.model.build(self.encoder, values).parameters())


def _again(kept: checkpoints.Checkpoint) -> Training:
    """Tell what a training told that has ended already."""
    for epoch, score in enumerate(kept.scores, 1):
        if (yield Report(epoch, score)):
            return Outcome("stopped")
    return Outcome("complete", kept.score, kept.costs)


def has_stalled(scores: Sequence[float], patience: int | None, higher_is_better: bool) -> bool:
    """Whether the last ``patience`` epochs brought nothing better than those before them."""
    if patience is None or len(scores) <= patience:
        return False
    better = max if higher_is_better else min
    before = better(scores[:-patience])
    return better(before, *scores[-patience:]) == before


def _encoded(
    job: Job, workload: Workload, encoder: Encoder, rows: pa.Table
) -> tuple[Batch, tuple[np.ndarray, ...], np.ndarray]:
    """Examples of train, inputs and labels of validation."""
    import pyarrow.parquet as pq

    validation = pq.read_table(job.splits / "validation.parquet")
    return workload.examples(encoder, rows), encoder.encode(validation), encoder.labels(validation)
