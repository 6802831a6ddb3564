"""Trained weights on disk: safetensors for the numbers, JSON for what rebuilds the network. No pickle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.core import files


@dataclass(frozen=True)
class Checkpoint:
    """One trained model.

    Attributes:
        trial: number of the trial that trained it.
        score: its metric on validation.
        values: hyperparameters, which with the encoder rebuild the network.
        seconds: training time; not for hashed outputs.
    """

    trial: int
    score: float
    values: dict[str, Any]
    seconds: float


def save(folder: Path, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Write weights and spec of a trial; the spec last, so that a spec without weights never exists."""
    from safetensors.torch import save_file

    save_file(state, folder / f"trial-{checkpoint.trial}.safetensors")
    files.write_json(folder / f"trial-{checkpoint.trial}.json", asdict(checkpoint))


def best(folder: Path, trials: list[int], count: int, higher_is_better: bool = True) -> list[Checkpoint]:
    """The ``count`` best checkpoints of the given trials, best first (ties: earlier trial first)."""
    found = [Checkpoint(**files.read_json(folder / f"trial-{number}.json")) for number in trials]
    sign = -1 if higher_is_better else 1
    return sorted(found, key=lambda checkpoint: (sign * checkpoint.score, checkpoint.trial))[:count]
