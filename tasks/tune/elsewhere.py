"""What is common to trials that run in other processes, wherever these are: questions, answers, and sudden ends."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tasks.core.errors import AssayError
from tasks.tune.trial import Event, Job, Local, Outcome, Runner, Task

#: (kind, what): ``event`` with a report or an outcome, ``refused`` with an error of Assay's tree, ``bug`` with a text.
Answer = tuple[str, Any]
#: Makes a runner where its trials run; a module-level function.
Make = Callable[[Job], Runner]


class Bug(Exception):
    """Something in a worker that is no trial's fault; the text is its traceback."""


class Died(Exception):
    """The process is no more; the text says how it ended."""


def local(job: Job) -> Runner:
    """A runner of a job, in this process."""
    from tasks.tune.objective import Objective

    return Local(Objective.prepare(job).train)


class There:
    """Lives where the trials run, and answers what :class:`Elsewhere` asks. The runner is made for the first trial."""

    def __init__(self, job: Job, make: Make = local) -> None:
        self._job, self._make = job, make
        self._runner: Runner | None = None

    def answer(self, method: str, argument: Any) -> Answer:
        """Call a method of the runner."""
        try:
            self._runner = self._runner or self._make(self._job)
            return "event", getattr(self._runner, method)(argument)
        except AssayError as error:
            return "refused", error
        except Exception:  # noqa: BLE001 (it is raised again where the search is)
            return "bug", traceback.format_exc()


class Elsewhere(ABC):
    """A :class:`~tasks.tune.trial.Runner` of trials in another process: one that dies fails its trial, no more."""

    def begin(self, task: Task) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._event("begin", task)

    def go_on(self, stop: bool) -> Event:
        """See :class:`~tasks.tune.trial.Runner`."""
        return self._event("go_on", stop)

    @abstractmethod
    def close(self) -> None:
        """See :class:`~tasks.tune.trial.Runner`."""

    @abstractmethod
    def _ask(self, method: str, argument: Any) -> Answer:
        """Have :meth:`There.answer` called, in a new process if the last one died.

        Raises:
            Died: if the process ends before it answers.
        """

    def _event(self, method: str, argument: Any) -> Event:
        try:
            kind, found = self._ask(method, argument)
        except Died as error:
            return Outcome("failed", error=str(error))
        if kind == "refused":
            raise found
        if kind == "bug":
            raise Bug(found)
        event: Event = found
        return event
