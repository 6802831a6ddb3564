"""What a trial does: build a network from the proposed numbers, train it, report every epoch, keep its weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch

from tasks.core import devices
from tasks.core.log import log
from tasks.core.settings import Tune
from tasks.core.stage import StageSettings
from tasks.core.workloads.tabular.network import Architecture, TabularNetwork
from tasks.core.workloads.tabular.preprocess import Preprocess, fit
from tasks.tune import checkpoints
from tasks.tune.train import Recipe, Split, train

_SHAPE = ("hidden", "layers", "number_dim", "category_dim")


@dataclass(frozen=True)
class Objective:
    """Callable on (trial, hyperparameters): validation AUC after the last epoch.

    Attributes:
        settings: the stage's section.
        seed: base seed; a trial adds its own number.
        preprocess: fitted on train, the same for every trial.
        train_rows: training tensors, on the device.
        validation: validation tensors, on the device.
        folder: where trials leave their checkpoints.
        device: where to train.
    """

    settings: Tune
    seed: int
    preprocess: Preprocess
    train_rows: Split
    validation: Split
    folder: Path
    device: torch.device

    @staticmethod
    def prepare(settings: StageSettings, facts: Mapping[str, Any], splits: Path, folder: Path) -> Objective:
        """Read train and validation (never test), fit the preprocessing, move tensors to the device."""
        import pyarrow.parquet as pq

        device = devices.prepare(settings.base)
        target, features = facts["target"], settings.own.features
        hidden = {target, facts["time_column"], facts["split"].get("column")} - {None}
        rows = pq.read_table(splits / "train.parquet")
        preprocess = fit(
            rows,
            facts["columns"],
            facts["classes"],
            exclude=[*sorted(hidden), *features.drop],
            categorical=features.categorical,
            min_count=features.min_count,
            bins=features.bins,
        )
        validation = pq.read_table(splits / "validation.parquet")
        log.info(
            "tune: %d rows to learn from, %d to choose by; %d numbers, %d categories; on %s",
            rows.num_rows, validation.num_rows, len(preprocess.numbers), len(preprocess.categories), device,
        )  # fmt: skip
        return Objective(
            settings.own,
            settings.base.seed,
            preprocess,
            _split(preprocess, rows, target).to(device),
            _split(preprocess, validation, target).to(device),
            folder,
            device,
        )

    def __call__(self, trial: optuna.trial.Trial, values: Mapping[str, float]) -> float:
        """Train one configuration.

        Raises:
            optuna.TrialPruned: if the pruner finds it hopeless.
            FloatingPointError: if training diverges.
        """
        architecture = _architecture(values)
        seed = self.seed + trial.number
        torch.manual_seed(seed)
        network = TabularNetwork(self.preprocess, architecture).to(self.device)
        recipe = Recipe(
            values["learning_rate"],
            values["weight_decay"],
            self.settings.epochs,
            self.settings.batch_size,
            devices.autocast_dtype(self.settings.precision, self.device),
        )
        started = time.perf_counter()

        def report(epoch: int, score: float) -> None:
            log.info(
                "tune: trial %d of %d, epoch %d of %d: validation AUC %.4f",
                trial.number + 1, self.settings.trials, epoch, recipe.epochs, score,
            )  # fmt: skip
            trial.report(score, epoch)
            if epoch < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned

        trained = train(network, recipe, self.train_rows, self.validation, seed, report)
        seconds = round(time.perf_counter() - started, 2)
        kept = checkpoints.Checkpoint(trial.number, trained.auc, architecture.as_dict(), seconds)
        checkpoints.save(self.folder, kept, trained.state)
        return trained.auc

    def parameters(self, architecture: Mapping[str, Any]) -> int:
        """Number of trainable values of a network of this shape."""
        network = TabularNetwork(self.preprocess, Architecture(**architecture))
        return sum(value.numel() for value in network.parameters())


def _architecture(values: Mapping[str, float]) -> Architecture:
    shape = {name: int(values[name]) for name in _SHAPE}
    return Architecture(dropout=values["dropout"], feature_dropout=values["feature_dropout"], **shape)


def _split(preprocess: Preprocess, rows: Any, target: str) -> Split:
    numbers, codes = preprocess.encode(rows)
    labels = preprocess.labels(rows, target)
    return Split(torch.from_numpy(numbers), torch.from_numpy(codes), torch.from_numpy(labels))
