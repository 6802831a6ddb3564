"""Who runs the trials: this process, several on this machine, or a cluster's; and how many pay off."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tasks.core import devices
from tasks.core.log import log
from tasks.tune import proposals, rows
from tasks.tune.objective import Objective
from tasks.tune.processes import Worker, on_its_gpu
from tasks.tune.together import Together
from tasks.tune.trial import Job, Local, Outcome, Report, Runner, Task, Training

if TYPE_CHECKING:
    from tasks.core.sections import Section
    from tasks.core.settings import Tune

#: One more round of processes must make the search faster by this much.
_PAYS_OFF = 1.1
_TIMED_SECONDS = 2.0


def share(job: Job, objective: Objective) -> Objective:
    """Write the objective's rows where all processes map them into memory, and let this one's copy go."""
    folder = job.folder / "rows"
    if not rows.are_in(folder):  # else an interrupted search has left them, and the objective has them from there
        rows.write(folder, objective.examples, objective.inputs, objective.labels)
    examples, inputs, labels = rows.read(folder)
    return replace(objective, examples=examples, inputs=inputs, labels=labels)  # on a GPU, only workers need them


@contextmanager
def runners(settings: Tune, job: Job, objective: Objective) -> Iterator[Sequence[Runner]]:
    """The runners of a search; they are ended with the block.

    Args:
        settings: the stage's section, with its space.
        job: of the stage.
        objective: prepared for this process.
    """
    if settings.runs_here:
        yield [Local(objective.train)]
        return
    count = _count(settings, job)
    with _elsewhere(settings.executor, share_of_cores(job, count * settings.processes), count) as found:
        yield found


@contextmanager
def _elsewhere(executor: str, job: Job, count: int) -> Iterator[Sequence[Runner]]:
    if executor == "ray":
        from tasks.tune import on_ray

        with on_ray.cluster(job, count) as found:
            yield found
    elif executor == "dask":
        from tasks.tune import on_dask

        with on_dask.cluster(job, count) as found:
            yield found
    else:
        workers = [
            Together(job, index) if job.tune.processes > 1 else Worker(job, partial(on_its_gpu, place=index))
            for index in range(count)
        ]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.close()


def share_of_cores(job: Job, count: int) -> Job:
    """The job with a share of this machine's cores for each of its processes, unless ``base.threads`` is set.

    The number of threads decides the last digits of a result, so a number that is set is never divided.
    """
    if job.base.threads is not None:
        return job
    return replace(job, base=job.base.model_copy(update={"threads": max(1, devices.cores() // count)}))


def _count(settings: Tune, job: Job) -> int:
    if settings.workers != "auto":
        return min(settings.workers, settings.most_trials)
    return measured(job, middle(settings.space), min(devices.cores(), settings.most_trials))


def measured(job: Job, task: Task, most: int) -> int:
    """How many processes make the search fastest: 1, 2, 4, ... are tried while they pay off and memory lasts."""
    import psutil

    best, best_rate, count = 1, 0.0, 1
    while count <= most:
        rate, size = _rate(share_of_cores(job, count), task, count)
        log.info("tune: %d worker%s: %.0f rows a second", count, "s" if count > 1 else "", rate)
        if rate <= _PAYS_OFF * best_rate:
            break
        best, best_rate, count = count, rate, 2 * count
        if size * count > psutil.virtual_memory().available:
            log.info("tune: memory is too small for %d workers of %d MiB", count, size >> 20)
            break
    return best


def _rate(job: Job, task: Task, count: int) -> tuple[float, int]:
    """Rows a second that so many workers learn from together, and the memory of one, in bytes; 0 if one breaks down."""
    workers = [Worker(job, _pacer) for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as pool:
            begun = list(pool.map(lambda worker: worker.begin(task), workers))  # all are warm before any is timed
            if any(isinstance(event, Outcome) for event in begun):  # memory ran out: so many get nowhere
                return 0.0, 0
            size = max(worker.memory() for worker in workers)
            found = list(pool.map(lambda worker: worker.go_on(False), workers))
    finally:
        for worker in workers:
            worker.close()
    return sum(one.score or 0.0 for one in found if isinstance(one, Outcome)), size


def _pacer(job: Job) -> Runner:
    """Trains for a moment instead of to the end; the score of the outcome is rows a second."""
    objective = Objective.prepare(job)

    def pace(task: Task) -> Training:
        step, count = objective.steps(task)
        step()
        yield Report(1, 0.0)
        began, steps = time.perf_counter(), 0
        while (seconds := time.perf_counter() - began) < _TIMED_SECONDS:
            step()
            steps += 1
        return Outcome("complete", steps * count / seconds)

    return Local(pace)


def middle(space: Section) -> Task:
    """A configuration in the middle of a space, to measure with."""
    known = proposals.distributions(space)
    return Task(0, 0, proposals.resolve(space, lambda name: proposals.quantile(known[name], 0.5)))
