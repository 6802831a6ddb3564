"""One trial, whoever runs it: what it is given, what it says after every epoch, and how it ends.

A process that runs trials loads nothing for this module's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tasks.core.settings import Base, Tune
    from tasks.core.stage import StageSettings

#: Why a trial failed that nobody ran to its end.
INTERRUPTED = "interrupted"
#: A trial's attribute: on how many machines that were lost its configuration has been tried before.
LOSSES = "losses"


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the budget's: not one that was left behind."""
    return trial.user_attrs.get("error") != INTERRUPTED


@dataclass(frozen=True)
class Job:
    """What a process needs to run trials: small, and the same for all of them.

    Attributes:
        base: the section that all stages share.
        tune: the stage's own, without its space.
        facts: of `validate`'s manifest.
        splits: folder of `validate`'s rows.
        folder: where trials leave their checkpoints.
    """

    base: Base
    tune: Tune
    facts: Mapping[str, Any]
    splits: Path
    folder: Path

    @staticmethod
    def of(settings: StageSettings, facts: Mapping[str, Any], splits: Path, folder: Path) -> Job:
        """The job of a stage."""
        from tasks.core.settings import Tune

        plain = Tune.model_validate_json(settings.own.model_dump_json(exclude={"space"}))
        return Job(settings.base, plain, facts, splits.absolute(), folder.absolute())


@dataclass(frozen=True)
class Task:
    """A configuration to train.

    Attributes:
        number: of the trial.
        seed: of everything random in it.
        values: a value for every hyperparameter.
    """

    number: int
    seed: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """An epoch has ended: its number, from 1, and the metric on validation."""

    epoch: int
    score: float


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: ``complete``, ``stopped`` (it was told to) or ``failed``.
        score: metric on validation after the last epoch, of a complete trial.
        costs: what a complete trial's model costs: ``training_seconds``, ``latency_ms``, ``size_kib``.
        error: why it failed.
        lost: whether it failed with a machine that is known to be gone, which says nothing of its configuration.
    """

    state: Literal["complete", "stopped", "failed"]
    score: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    lost: bool = False


#: What is heard of a running trial.
Event = Report | Outcome
#: A training: says what every epoch gave, is told whether to stop, and returns how it ended.
Training = Generator[Report, bool, Outcome]


class Runner(Protocol):
    """Runs one trial at a time, here or elsewhere. A trial that breaks down is a failed outcome, not an exception."""

    def begin(self, task: Task) -> Event:
        """Start a trial, and run it to the end of its first epoch."""

    def go_on(self, stop: bool) -> Event:
        """Run the trial to the end of its next epoch, or stop it."""

    def close(self) -> None:
        """End what runs elsewhere; a call that waits for it returns at once."""


class Local:
    """Runs trials in this process."""

    def __init__(self, train: Callable[[Task], Training]) -> None:
        self._train = train
        self._running: Training | None = None

    def begin(self, task: Task) -> Event:
        """See :class:`Runner`."""
        self._running = self._train(task)
        return self._step(next)

    def go_on(self, stop: bool) -> Event:
        """See :class:`Runner`."""
        return self._step(lambda running: running.send(stop))

    def close(self) -> None:
        """Nothing runs elsewhere."""

    def _step(self, advance: Callable[[Training], Report]) -> Event:
        assert self._running is not None, "a trial goes on after it has begun"  # noqa: S101
        try:
            return advance(self._running)
        except StopIteration as ended:
            self._running = None
            outcome: Outcome = ended.value
            return outcome
        except (FloatingPointError, MemoryError, RuntimeError) as error:
            self._running = None
            if isinstance(error, FloatingPointError):
                return Outcome("failed", error=str(error))
            if not _is_out_of_memory(error):
                raise
            return Outcome("failed", error=f"out of memory: {' '.join(str(error).split())[:200]}")


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so by a RuntimeError on the CPU, and by a kind of it on a GPU.

    CUDA's libraries, which find none for their workspaces, and C++ have words of their own.
    """
    said = str(error)
    words = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "std::bad_alloc")
    return isinstance(error, MemoryError) or any(word in said for word in words)
