"""Training throughput: Assay's loop beside a minimal loop written by hand and beside Lightning's Trainer.

Run it after `make run` (tabular), and after `assay run --params examples/fashion/params.yaml` (array), from the
project's root: `python benchmarks/throughput.py [--artifacts DIR --params FILE]` (needs the extra `benchmarks`).

The same network, examples, batch size, precision, optimizer and number of steps; one epoch of each in turn, several
rounds; medians of the paired ratios. Assay's loop does more in its steps than the others: a learning-rate schedule and
an average of the weights. None of the three scores validation here.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tasks.core import manifest
from tasks.core.settings import load
from tasks.core.stage import StageSettings
from tasks.core.training import Recipe, train
from tasks.tune.objective import Objective
from tasks.tune.trial import Job
from tasks.tune.workers import middle

Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


def by_hand(network: nn.Module, recipe: Recipe, examples: tuple[Tensor, ...], loss: Loss) -> None:
    """The least code that trains."""
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": True}
    optimizer = torch.optim.AdamW(network.parameters(), **settings)
    network.train()
    order = torch.randperm(len(examples[0]))
    for start in range(0, len(order) - recipe.batch_size + 1, recipe.batch_size):
        rows = order[start : start + recipe.batch_size]
        part = tuple(tensor[rows] for tensor in examples)
        with torch.autocast("cpu", dtype=recipe.dtype, enabled=recipe.dtype is not None):
            value = loss(network, part)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()


class Rows(Dataset[Any]):
    """Whole batches out of tensors, the fastest way to feed a DataLoader from memory."""

    def __init__(self, examples: tuple[Tensor, ...]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples[0])

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, ...]:
        index = torch.tensor(rows)
        return tuple(tensor[index] for tensor in self.examples)


class Lit(LightningModule):
    """The same network and loss as a Lightning module."""

    def __init__(self, network: nn.Module, recipe: Recipe, loss: Loss) -> None:
        super().__init__()
        self.network, self.recipe, self.of = network, recipe, loss

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        return self.of(self.network, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.AdamW(self.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)


def by_lightning(network: nn.Module, recipe: Recipe, examples: tuple[Tensor, ...], loss: Loss) -> None:
    """Lightning's Trainer without logger, checkpoints and bars."""
    loader = DataLoader(
        Rows(examples), recipe.batch_size, shuffle=True, drop_last=True, collate_fn=lambda batch: batch, num_workers=0
    )
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision="bf16-mixed" if recipe.dtype is not None else "32-true",
    )  # fmt: skip
    trainer.fit(Lit(network, recipe, loss), loader)


def ours(network: nn.Module, recipe: Recipe, examples: tuple[Tensor, ...], loss: Loss) -> None:
    """Assay's own."""
    train(network, recipe, examples, loss, lambda _: 0.0, 0, lambda *_: None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--examples", type=int, default=60_000, help="examples of an epoch")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    params = load(options.params)
    settings = StageSettings(params.base, params.tune, options.params.parent)
    splits = settings.artifacts / "validate"
    objective = Objective.prepare(Job.of(settings, manifest.read(splits).facts, splits, Path("unused")))
    torch.set_deterministic_debug_mode("default")  # Lightning's own choice; the same for all three
    values = middle(params.tune.space).values
    dtype = torch.bfloat16 if params.tune.precision != "fp32" else None
    recipe = Recipe(values["learning_rate"], values["weight_decay"], 1, params.tune.batch_size, dtype)
    examples = tuple(tensor[: options.examples] for tensor in objective.examples)
    loops = {"by hand": by_hand, "Lightning": by_lightning, "Assay": ours}
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(options.rounds + 1):
        for name in sorted(loops, key=lambda name: (list(loops).index(name) + number) % len(loops)):
            torch.manual_seed(number)
            network = objective.model.build(objective.encoder, values)
            started = time.perf_counter()
            loops[name](network, recipe, examples, objective.loss)
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    print("| loop | examples/s | throughput over the loop by hand |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(hand / own for hand, own in zip(seconds["by hand"], times, strict=True))
        print(f"| {name} | {len(examples[0]) / statistics.median(times):,.0f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
