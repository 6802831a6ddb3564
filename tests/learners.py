"""Trainings without a network, for processes that load next to nothing: see :mod:`tasks.tune.elsewhere`."""

from __future__ import annotations

import os
import signal

from tasks.core.errors import UsageError
from tasks.tune.trial import Job, Local, Outcome, Report, Runner, Task, Training

EPOCHS = 3


def learn(task: Task) -> Training:
    """A training without a network, that may go wrong in every way."""
    rate = task.values["learning_rate"]
    for epoch in range(1, EPOCHS + 1):
        if (yield Report(epoch, 1 - rate * epoch)):
            return Outcome("stopped")
        if task.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if task.number == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 EiB")
    return Outcome("complete", 1 - rate)


def broken(task: Task) -> Training:
    raise ZeroDivisionError("a bug")
    yield


def refused(task: Task) -> Training:
    raise UsageError("a rule", "what was found", "a way out")
    yield


def learner(job: Job) -> Runner:
    return Local(learn)


def bugs(job: Job) -> Runner:
    return Local(broken)


def refuser(job: Job) -> Runner:
    return Local(refused)
