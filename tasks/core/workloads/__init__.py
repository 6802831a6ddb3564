"""Families of problems. A workload is data + model + metric; the rooms use it without knowing which one it is."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

from tasks.core import plugins
from tasks.core.errors import UsageError

if TYPE_CHECKING:
    from tasks.core.workloads.contract import Model, Workload

#: Name -> package.
BUILT_IN = {name: f"tasks.core.workloads.{name}" for name in ("tabular", "array", "recommender")}


def names() -> list[str]:
    """Workloads by name, built-in ones first."""
    return [*BUILT_IN, *plugins.names(plugins.WORKLOADS)]


def find(name: str) -> Workload:
    """The workload of that name.

    Raises:
        UsageError: if there is none, or its plug-in is not usable.
    """
    if name in BUILT_IN:
        return cast("Workload", importlib.import_module(BUILT_IN[name]).WORKLOAD)
    return cast("Workload", plugins.load(plugins.WORKLOADS, name))


def models(workload: Workload) -> list[str]:
    """Names of the models that may stand under ``tune.model`` (plug-ins for other workloads among them)."""
    return [*workload.models, *plugins.names(plugins.MODELS)]


def model(workload: Workload, name: str | None) -> Model:
    """The model of that name, or the workload's own.

    Raises:
        UsageError: if there is none, it belongs to another workload, or its plug-in is not usable.
    """
    name = name or workload.default_model
    if name in workload.models:
        return workload.models[name]
    found = cast("Model", plugins.load(plugins.MODELS, name))
    if found.workload != workload.name:
        raise UsageError(
            "tune.model must be a model of base.workload",
            f"{name} is one for {found.workload}, base.workload is {workload.name}",
            f"choose among {', '.join(workload.models)}, or set base.workload: {found.workload}",
        )
    return found
