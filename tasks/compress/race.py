"""Latency of several models, measured interleaved in one process: noise of the machine falls on all of them alike.

A model that runs right after another one waits for its own code and weights to come back into the caches, the longer
the more and the larger the others are: what it took would say who else raced. So each is called twice in a row, and
the second call is timed, as a server's is that answers with one model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deploy.runtime import open_session, provider
from tasks.compress.isolated import Crashed, call
from tasks.core.log import log, progress

_WARM_UP = 20
#: Rounds that are made whatever they take: fewer have no interval of 95 %.
_FEWEST = 10
_SIGMAS = 1.96  # 95 %
#: A race is given up after so many times the seconds that it was asked to take, but not before so many seconds.
_PATIENCE, _START = 4.0, 600.0
#: Shares of the calls, whose times are kept: what a page draws of their distribution.
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Lap:
    """One model at one batch size: milliseconds per call, and the ratio to the reference round by round.

    Attributes:
        p50_ms: median.
        p99_ms: 99th percentile.
        ratio: median of the paired ratios (below 1 is faster than the reference).
        ratio_low: lower end of the ratio's 95 % interval.
        ratio_high: upper end.
        quantiles_ms: at :data:`QUANTILES`.
    """

    p50_ms: float
    p99_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    quantiles_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Race:
    """Laps by model and batch size, and the provider that ran each model."""

    laps: Mapping[str, Mapping[int, Lap]]
    providers: Mapping[str, str]


def race(
    models: Mapping[str, Path],
    reference: str,
    inputs: Mapping[str, np.ndarray],
    batch_sizes: tuple[int, ...],
    rounds: int,
    threads: int,
    device: str,
    cold: bool = False,
    seconds: float = math.inf,
) -> Race:
    """Time every model once a round, in an order drawn anew, and compare each with the reference round by round.

    Args:
        models: name -> ONNX file.
        reference: the name that ratios are taken against.
        inputs: the graph's inputs, each [rows, ...]; at least as many rows as the largest batch size are repeated.
        batch_sizes: rows per call.
        rounds: measured rounds per batch size.
        threads: threads of a session.
        device: ``auto``, ``cpu`` or ``cuda``.
        cold: time the first call after another model's, with the caches as that one left them.
        seconds: after which there are no more rounds than a median needs.
    """
    sessions = {name: open_session(path, device, threads) for name, path in models.items()}
    laps: dict[str, dict[int, Lap]] = {name: {} for name in models}
    for batch in batch_sizes:
        rows = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in inputs.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        names = list(models)
        order = np.random.default_rng(len(names))
        began = time.monotonic()
        for number in progress(range(_WARM_UP + rounds), f"race at batch {batch}", _WARM_UP + rounds):
            for name in order.permutation(names):  # at random: a cold call's time depends on whose came before
                if not cold:
                    sessions[name].run(None, rows)
                start = time.perf_counter()
                sessions[name].run(None, rows)
                times[name].append(1000 * (time.perf_counter() - start))
            if number + 1 >= _FEWEST and time.monotonic() - began > seconds / len(batch_sizes):
                break
        first = min(_WARM_UP, len(times[reference]) - _FEWEST)
        for name in models:
            laps[name][batch] = lap(np.array(times[name][first:]), np.array(times[reference][first:]))
    return Race(laps, {name: provider(session) for name, session in sessions.items()})


def isolated_race(
    models: Mapping[str, Path],
    reference: str,
    inputs: Mapping[str, np.ndarray],
    batch_sizes: tuple[int, ...],
    rounds: int,
    threads: int,
    device: str,
    seconds: float,
) -> tuple[Race, dict[str, str]]:
    """:func:`race` in a process of its own. Where it breaks down, each model races against the reference alone.

    Returns:
        The race, and for each model that is not in it, why.

    Raises:
        MachineError: if the device is not used.
        Crashed: if the reference alone cannot be raced.
    """

    def raced(some: Mapping[str, Path]) -> Race:
        arguments = (reference, inputs, batch_sizes, rounds, threads, device, False, seconds)
        return call(race, dict(some), *arguments, seconds=max(_START, _PATIENCE * seconds))

    try:
        return raced(models), {}
    except Crashed as reason:
        log.warning("compress: the race broke down: %s; each candidate races alone", reason)
    found = raced({reference: models[reference]})
    broken: dict[str, str] = {}
    for name, path in models.items():
        if name == reference:
            continue
        try:
            pair = raced({reference: models[reference], name: path})
        except Crashed as reason:
            broken[name] = f"it cannot be raced: {reason}"
        else:
            found = Race({**found.laps, name: pair.laps[name]}, {**found.providers, name: pair.providers[name]})
    return found, broken


def lap(times: np.ndarray, reference: np.ndarray) -> Lap:
    """Summary of paired times in milliseconds, both [rounds].

    The interval of the median ratio is the distribution-free one of order statistics (binomial, normal approximation).
    """
    ratios = np.sort(times / reference)
    count = len(ratios)
    reach = _SIGMAS * np.sqrt(count) / 2
    low = max(int(np.floor(count / 2 - reach)), 0)
    high = min(int(np.ceil(count / 2 + reach)), count - 1)
    return Lap(
        float(np.median(times)),
        float(np.quantile(times, 0.99)),
        float(np.median(ratios)),
        float(ratios[low]),
        float(ratios[high]),
        tuple(np.quantile(times, QUANTILES).tolist()),
    )
