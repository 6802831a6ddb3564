"""What each target makes of the candidates: they race as they would run there, and one is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from deploy.runtime import open_session
from tasks.compress.choose import Budget, Candidate, Choice, choose
from tasks.compress.isolated import Crashed, call
from tasks.compress.probe import probe
from tasks.compress.race import Race, isolated_race
from tasks.compress.targets import TARGETS, Target
from tasks.compress.workshop import PATIENCE, Built, Workshop, original_must_run
from tasks.core.errors import IntegrityError
from tasks.core.settings import Compress

#: Seconds after which a race is cut short.
_RACE_SECONDS = 1800.0


@dataclass(frozen=True)
class Contest:
    """The outcome for one target.

    Attributes:
        target: its name.
        candidates: all of them, the original in float first; those that are no use there have a problem.
        budget: what they had to keep to.
        choice: which one was taken, and why.
        race: the times there.
    """

    target: str
    candidates: tuple[Candidate, ...]
    budget: Budget
    choice: Choice
    race: Race


def threads_of(target: Target, own: Compress) -> int:
    """Threads of a session in the target's race."""
    return target.threads or own.race_threads


def batch_sizes_of(target: Target, own: Compress) -> tuple[int, ...]:
    """Batch sizes of the target's race."""
    return target.batch_sizes or own.batch_sizes


def require_devices(shop: Workshop, names: Sequence[str]) -> None:
    """Load the original on each target's device before time is spent; the first one's is that of every candidate.

    Raises:
        MachineError: if a device is not used.
        NotProven: if the original does not load there.
    """
    devices = {TARGETS[name].device for name in names} - {shop.device}
    if devices:
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "original.onnx"
            onnx.save(shop.problem.packaged(shop.problem.core, "original"), path)
            for device in sorted(devices):
                try:
                    call(_load, path, device, seconds=PATIENCE)
                except Crashed as reason:
                    raise original_must_run(str(reason)) from None


def _load(model: Path, device: str) -> None:
    open_session(model, device)


def hold(name: str, shop: Workshop, built: Mapping[str, Built], own: Compress) -> Contest:
    """Race the candidates for a target, and choose one.

    Args:
        name: of the target.
        shop: where the candidates were made, for the first of the targets.
        built: the candidates, the original in float first.
        own: the settings.

    Raises:
        MachineError: if the target's device is not used.
        NotProven: if the original cannot be raced there.
    """
    target = TARGETS[name]
    budget = Budget.of(own, shop.problem.most, target)
    entries = {key: _entry(one, name, shop, own, budget) for key, one in built.items()}
    models = {key: shop.path(key) for key, one in entries.items() if not one.problem}
    batches, threads = batch_sizes_of(target, own), threads_of(target, own)
    arguments = (models, "fp32", shop.problem.sample, batches, own.rounds, threads, target.device)
    try:
        raced, broken = isolated_race(*arguments, seconds=_RACE_SECONDS)
    except Crashed as reason:
        raise original_must_run(str(reason)) from None
    candidates = tuple(
        Candidate(
            one.name,
            one.score,
            one.bytes,
            raced.laps.get(one.name, {}),
            one.peak_mib,
            one.problem or broken.get(one.name, ""),
            one.bound,
        )
        for one in entries.values()
    )
    return Contest(name, candidates, budget, choose(candidates, shop.problem.metric, budget, own.pick), raced)


def _entry(one: Built, name: str, shop: Workshop, own: Compress, budget: Budget) -> Built:
    """The candidate as it is on a target: looked at anew where what was seen of it on the first one does not hold."""
    target = TARGETS[name]
    if why := target.refusal(one.method):
        return replace(one, problem=f"not for {name}: {why}")
    holds = name == own.targets[0] or (target.device == shop.device and budget.max_memory_mib is None)
    if holds or not one.bytes:
        return one
    problem, rows = shop.problem, max(batch_sizes_of(target, own))
    sample = {key: np.resize(array, (rows, *array.shape[1:])) for key, array in problem.sample.items()}
    arguments = (shop.path(one.name), problem.signature, problem.raw, sample, target.device, threads_of(target, own))
    try:
        found = call(probe, *arguments, seconds=PATIENCE)
    except (Crashed, IntegrityError) as reason:  # a number format that this device has not, for example
        return replace(one, score=math.nan, bound=None, peak_mib=math.nan, problem=f"it does not run: {reason}")
    return replace(one, **{"problem": ""} | shop.judged(one.name, found))
