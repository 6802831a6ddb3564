"""A user's own metric: a plain function of labels and answers with a few attributes, or a whole :class:`Metric`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.core import plugins
from tasks.core.metrics.metric import TASKS, Array, Figure, Metric


def load(name: str) -> Metric:
    """The metric behind an entry point.

    A function ``f(labels, answers) -> float`` has the attributes ``tasks`` (names out of :data:`TASKS`) and
    ``higher_is_better`` (bool), and may have ``bounded`` (bool, else False) and ``support`` (labels -> int, else the
    number of rows). It is called anew for each bootstrap resample, so its speed is that of the gate.

    Raises:
        UsageError: listing everything that is wrong with it.
    """
    found = plugins.load(plugins.METRICS, name)
    prepare = found.prepare if hasattr(found, "prepare") else _resampled(found)
    bounded, support = getattr(found, "bounded", False), getattr(found, "support", len)
    return Metric(name, tuple(found.tasks), found.higher_is_better, bounded, prepare, support)


def problems(found: Any) -> Iterator[str]:
    """What is wrong with a metric plug-in, by looking at it."""
    whole = hasattr(found, "prepare")
    function = found.prepare if whole else found
    if not _takes(function, 2):
        yield f"{'`prepare`' if whole else 'it'} must be callable with (labels, answers)"
    tasks = getattr(found, "tasks", None)
    if not isinstance(tasks, tuple | list) or not tasks or not set(map(str, tasks)) <= set(TASKS):
        yield f"`tasks` must name some of {', '.join(TASKS)}, and is {tasks!r}"
    for attribute, default in (("higher_is_better", None), ("bounded", False)):
        value = getattr(found, attribute, default)
        if not isinstance(value, bool):
            yield f"`{attribute}` must be True or False, and is {value!r}"
    if not _takes(getattr(found, "support", len), 1):
        yield "`support` must be callable with (labels)"


def _takes(function: Any, count: int) -> bool:
    """Whether it can be called with that many positional arguments."""
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # written in C, without a signature to look at: the first call will tell
        return True
    return True


def _resampled(function: Callable[[Array, Array], float]) -> Callable[[Array, Array], Figure]:
    """Weights as what they mean: each row as often as its weight says."""

    def prepare(labels: Array, answers: Array) -> Figure:
        def figure(weights: Array | None) -> float:
            if weights is None:
                return float(function(labels, answers))
            times = weights.astype(np.int64)
            if (times != weights).any():
                raise ValueError("a metric that is a plain function takes whole weights only")
            rows = np.repeat(np.arange(len(labels)), times)
            return float(function(labels[rows], answers[rows]))

        return figure

    return prepare
