"""Metrics that every room computes the same way: prepared once, then linear in the rows for any row weights."""

from __future__ import annotations

import re

from tasks.core import plugins
from tasks.core.errors import UsageError
from tasks.core.metrics import classes, plugin, quantities, rankings, scores
from tasks.core.metrics.classes import class_recalls
from tasks.core.metrics.metric import NAN, TASKS, Figure, Metric
from tasks.core.metrics.scores import Auc, auc
from tasks.core.sections import nearest

__all__ = ["NAN", "TASKS", "Auc", "Figure", "Metric", "auc", "built_in", "class_recalls", "find", "names", "usual"]

_BUILT_IN = {metric.name: metric for metric in (*scores.METRICS, *classes.METRICS, *quantities.METRICS)}
_AT_K = re.compile(r"(top|hr@|ndcg@|mrr@)([1-9][0-9]*)")


#: Of each task, the metrics that reports show beside the one that decides.
_USUAL = {
    "binary": ("auc", "average_precision", "logloss", "accuracy"),
    "multiclass": ("accuracy", "macro_f1", "logloss", "top5"),
    "regression": ("rmse", "mae", "r2"),
    "ranking": ("hr@10", "ndcg@10", "mrr@10"),
}


def usual(task: str, width: int) -> list[str]:
    """Names of the metrics that a report shows.

    Args:
        task: one of :data:`TASKS`.
        width: classes or items that a row's answer holds; metrics at a k that it is too short for are left out.
    """
    least = {"multiclass": 6, "ranking": 10}.get(task, 0)
    return [name for name in _USUAL[task] if width >= least or not _AT_K.fullmatch(name)]


def names(task: str) -> list[str]:
    """Names of the built-in metrics that fit a task (of those at k: for the usual k), and of all plug-ins, sorted."""
    return sorted({*built_in(task), *plugins.names(plugins.METRICS)})


def built_in(task: str) -> list[str]:
    """Names of the built-in metrics that fit a task (of those at k: for the usual k)."""
    families = {"multiclass": ["top5"], "ranking": ["hr@10", "ndcg@10", "mrr@10"]}
    return [*(name for name, metric in _BUILT_IN.items() if task in metric.tasks), *families.get(task, [])]


def find(name: str, task: str) -> Metric:
    """The metric of that name: built in, at any k (``top5``, ``hr@20``), or a plug-in.

    Args:
        name: as in ``base.metric``.
        task: one of :data:`TASKS`.

    Raises:
        UsageError: if there is none, it does not fit the task, or the plug-in is wrong.
    """
    metric = _built_in(name)
    if metric is None and name in plugins.names(plugins.METRICS):
        metric = plugin.load(name)
    if metric is None:
        raise UsageError("base.metric must be a metric that exists", f"`{name}`", nearest(name, names(task)))
    if task not in metric.tasks:
        raise UsageError(
            f"base.metric must fit the task, {task}",
            f"`{name}` is for {', '.join(metric.tasks)}",
            f"choose from {', '.join(names(task))}",
        )
    return metric


def _built_in(name: str) -> Metric | None:
    at_k = _AT_K.fullmatch(name)
    if not at_k:
        return _BUILT_IN.get(name)
    kind, k = at_k[1].removesuffix("@"), int(at_k[2])
    return classes.top(k) if kind == "top" else rankings.at(kind, k)
