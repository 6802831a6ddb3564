"""The plug-ins that a params file names: each is looked up and checked before any stage does anything."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core import contracts, plugins
from tasks.core.errors import Mistake, UsageError
from tasks.core.sections import unknown_key

#: Choices that need a library beyond those that Assay always brings: (key, value) -> (module, extra).
_LIBRARIES = {
    ("validate.engine", "duckdb"): ("duckdb", "duckdb"),
    ("tune.sampler", "cmaes"): ("cmaes", "cmaes"),
    ("tune.executor", "ray"): ("ray", "ray"),
    ("tune.executor", "dask"): ("distributed", "dask"),
}


def mistakes(raw: Any) -> list[Mistake]:
    """What is wrong with the names of plug-ins in a parsed params file, and with the plug-ins, apart from its shape.

    A library that a choice needs, and that is not installed, is among it.

    Workloads and models are not among it: :mod:`tasks.core.settings` loads them, for their hyperparameters.
    """
    named = [*_texts(raw, "compress.methods", plugins.COMPRESSORS), *_texts(raw, "base.metric", plugins.METRICS)]
    found = [_of_one(key, group, name) for key, group, name in named]
    named += [*_texts(raw, "base.workload", plugins.WORKLOADS), *_texts(raw, "tune.model", plugins.MODELS)]
    found += [
        Mistake(
            key,
            name,
            f"an installed plug-in of {group} has this name, which is that of a built-in one",
            "give the plug-in's entry point another name, or uninstall it",
        )
        for key, group, name in named
        if name in contracts.shadows(group)
    ]
    return [*(mistake for mistake in found if mistake is not None), *_missing(raw)]


def _missing(raw: Any) -> Iterator[Mistake]:
    for (key, value), (module, extra) in _LIBRARIES.items():
        if any(text == value for _, _, text in _texts(raw, key, "")) and importlib.util.find_spec(module) is None:
            way_out = f"pip install '.[{extra}]'"
            yield Mistake(key, value, f"this choice needs the package `{module}`, which is not installed", way_out)


def as_mistake(key: str, name: str, error: UsageError) -> Mistake:
    """A plug-in that is not usable, as a mistake of the file that names it."""
    return Mistake(key, name, f"{error.rule}: {error.found}", error.way_out)


def _of_one(key: str, group: str, name: str) -> Mistake | None:
    if name in plugins.names(group):
        try:
            plugins.load(group, name)
        except UsageError as error:
            return as_mistake(key, name, error)
    elif group == plugins.COMPRESSORS and name not in contracts.METHODS:
        return unknown_key(key, name, name, [*contracts.METHODS, *plugins.names(group)], "method")
    return None


def _texts(raw: Any, key: str, group: str) -> list[tuple[str, str, str]]:
    """(key, group, text) of the text under a key, or of each text in a list there."""
    section, _, name = key.partition(".")
    values = raw.get(section) if isinstance(raw, Mapping) else None
    value = values.get(name) if isinstance(values, Mapping) else None
    if isinstance(value, list | tuple):
        return [(f"{key}.{index}", group, item) for index, item in enumerate(value) if isinstance(item, str)]
    return [(key, group, value)] if isinstance(value, str) else []
