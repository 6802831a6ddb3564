"""What a trial does: build a network from the proposed values, train it, report every epoch, keep its weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from torch import Tensor, nn

from tasks.core import devices, workloads
from tasks.core.log import log
from tasks.core.metrics import Metric, find
from tasks.core.original import Network, metric_name
from tasks.core.settings import Tune
from tasks.core.stage import StageSettings
from tasks.core.training import Batch, Recipe, train
from tasks.core.workloads.contract import Encoder, Model, Workload
from tasks.tune import checkpoints


@dataclass(frozen=True)
class Objective:
    """Callable on (trial, hyperparameters): the metric on validation after the last epoch.

    Attributes:
        settings: the stage's section.
        seed: base seed; a trial adds its own number.
        workload: the family of the problem.
        model: the kind of network.
        encoder: fitted on train, the same for every trial.
        metric: what decides.
        examples: training tensors, on the device.
        inputs: the network's inputs for validation, each [rows, ...].
        labels: of validation, [rows].
        folder: where trials leave their checkpoints.
        device: where to train.
    """

    settings: Tune
    seed: int
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
    def prepare(settings: StageSettings, facts: Mapping[str, Any], splits: Path, folder: Path) -> Objective:
        """Read train and validation (never test), fit the encoder, move tensors to the device.

        Raises:
            UsageError: if the features, the metric or the model do not fit the data.
            DataRejected: if the target holds what it must not.
        """
        import pyarrow.parquet as pq

        base, own = settings.base, settings.own
        device = devices.prepare(base)
        workload = workloads.find(base.workload)
        metric = find(metric_name(base, facts["task"]), facts["task"])
        rows = pq.read_table(splits / "train.parquet")
        encoder = workload.fit(rows, facts, own)
        examples = tuple(tensor.to(device) for tensor in workload.examples(encoder, rows))
        validation = pq.read_table(splits / "validation.parquet")
        log.info(
            "tune: %d rows to learn from, %d to choose by; the model reads %s; on %s",
            rows.num_rows, validation.num_rows, ", ".join(encoder.columns[:40]), device,
        )  # fmt: skip
        return Objective(
            own,
            base.seed,
            workload,
            workloads.model(workload, own.model),
            encoder,
            metric,
            examples,
            encoder.encode(validation),
            encoder.labels(validation),
            folder,
            device,
        )

    def __call__(self, trial: optuna.trial.Trial, values: Mapping[str, Any]) -> float:
        """Train one configuration.

        Raises:
            optuna.TrialPruned: if the pruner finds it hopeless.
            FloatingPointError: if training diverges.
        """
        seed = self.seed + trial.number
        torch.manual_seed(seed)
        network = self.model.build(self.encoder, values).to(self.device)
        recipe = Recipe(
            values["learning_rate"],
            values["weight_decay"],
            self.settings.epochs,
            self.settings.batch_size,
            devices.autocast_dtype(self.settings.precision, self.device),
        )
        self.evaluate(network, 2)  # a metric that does not fit the answers is told before the training, not after it
        started = time.perf_counter()

        def report(epoch: int, score: float) -> None:
            log.info(
                "tune: trial %d of %d, epoch %d of %d: validation %s %.4f",
                trial.number + 1, self.settings.trials, epoch, recipe.epochs, self.metric.name, score,
            )  # fmt: skip
            trial.report(score, epoch)
            if epoch < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned

        trained = train(network, recipe, self.examples, self.loss, self.evaluate, seed, report)
        seconds = round(time.perf_counter() - started, 2)
        kept = checkpoints.Checkpoint(trial.number, trained.score, dict(values), seconds)
        checkpoints.save(self.folder, kept, trained.state)
        return trained.score

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The workload's loss of a slice of the examples."""
        return self.workload.loss(network, batch, self.encoder, self.settings)

    def evaluate(self, network: nn.Module, rows: int | None = None) -> float:
        """The metric on validation, or on its first ``rows``.

        Raises:
            FloatingPointError: if an answer is not finite.
        """
        answers = Network(self.encoder, network, self.workload.head(self.encoder)).predict_encoded(
            [array[:rows] for array in self.inputs]
        )
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            raise FloatingPointError("the network's answers are not finite")
        return self.metric(self.labels[:rows], answers)

    def parameters(self, values: Mapping[str, Any]) -> int:
        """Number of trainable values of a network of this shape."""
        return sum(value.numel() for value in self.model.build(self.encoder, values).parameters())
