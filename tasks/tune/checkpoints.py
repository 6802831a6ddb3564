"""Trained weights on disk: safetensors for the numbers, JSON for what rebuilds the network. No pickle."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import files

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.core.training import Progress
    from tasks.tune.trial import Task

#: Keeping the progress of a training may take this share of its time.
_SHARE_OF_TIME = 0.01


@dataclass(frozen=True)
class Checkpoint:
    """One trained model.

    Attributes:
        trial: number of the trial that trained it.
        seed: of its training.
        scores: its metric on validation after every epoch.
        values: hyperparameters, which with the encoder rebuild the network.
        seconds: training time; not for hashed outputs.
        costs: what else was measured of the model, by name.
    """

    trial: int
    seed: int
    scores: list[float]
    values: dict[str, Any]
    seconds: float
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Its metric on validation."""
        return self.scores[-1]


def save(folder: Path, checkpoint: Checkpoint, state: dict[str, Any]) -> None:
    """Write weights and spec of a trial; the spec last, so that a spec without weights never exists."""
    from safetensors.torch import save_file

    save_file(state, folder / f"trial-{checkpoint.trial}.safetensors")
    files.write_json(folder / f"trial-{checkpoint.trial}.json", asdict(checkpoint))


def load(folder: Path, trials: list[int]) -> list[Checkpoint]:
    """The checkpoints of the given trials."""
    return [Checkpoint(**files.read_json(folder / f"trial-{number}.json")) for number in trials]


def finished(folder: Path, task: Task, costs: Collection[str]) -> Checkpoint | None:
    """The checkpoint that this very training has left at its end, if it has these costs.

    It is there where the process was killed before the study knew of the end.
    """
    if not (folder / f"trial-{task.number}.json").is_file():
        return None
    (found,) = load(folder, [task.number])
    same = found.seed == task.seed and _spelt(found.values) == _spelt(task.values)
    return found if same and found.costs.keys() >= set(costs) else None


class Running:
    """The progress of a trial's training (:class:`~tasks.core.training.Keeper`), in a file that a kill leaves whole.

    It is kept for the same hyperparameters only, and as often as that takes no more than a hundredth of the time.
    """

    def __init__(self, folder: Path, trial: int, values: Mapping[str, Any], is_read_only: bool = False) -> None:
        self.is_read_only = is_read_only
        self._path = folder / f"running-{trial}.safetensors"
        self._values = _spelt(values)
        self._started = self._kept = time.perf_counter()
        self._before = self._cost = 0.0

    @property
    def seconds(self) -> float:
        """Time that the training has taken, also before it was interrupted."""
        return self._before + time.perf_counter() - self._started

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time that passes in the block is not the training's."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began

    def load(self) -> Progress | None:
        """What was kept last of this training, if anything."""
        from safetensors import safe_open

        from tasks.core.training import Progress

        if not self._path.is_file():
            return None
        with safe_open(self._path, framework="pt") as file:
            about = json.loads(file.metadata()["progress"])
            if about["values"] != self._values:
                return None
            self._before = about["seconds"]
            return Progress(tuple(about["scores"]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def save(self, scores: tuple[float, ...], tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep the progress, unless it was kept a moment ago."""
        from safetensors.torch import save_file

        began = time.perf_counter()
        if self.is_read_only or (began - self._kept) * _SHARE_OF_TIME < self._cost:
            return
        about = {"scores": scores, "values": self._values, "seconds": self.seconds}
        partial = self._path.with_suffix(".partial")
        save_file(dict(tensors()), partial, {"progress": json.dumps(about)})
        partial.replace(self._path)
        self._kept = time.perf_counter()
        self._cost = self._kept - began

    def forget(self) -> None:
        """The training is over."""
        if not self.is_read_only:
            self._path.unlink(missing_ok=True)


def _spelt(values: Mapping[str, Any]) -> str:
    """Hyperparameters as one text."""
    return json.dumps(dict(values), sort_keys=True)
