"""What a plug-in must be, checked by looking at it: everything that is wrong, before anything is run.

The contracts themselves are in :mod:`tasks.core.workloads.contract` (workloads, models), :mod:`tasks.core.metrics`
(metrics) and :data:`Compressor` (compressors). What only a run can show is for :mod:`tasks.core.testing`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tasks.core import plugins
from tasks.core.plugins import COMPRESSORS, METRICS, MODELS, WORKLOADS
from tasks.core.sections import Section
from tasks.core.space import Choice, FloatRange

if TYPE_CHECKING:
    import numpy as np
    import onnx

#: (float core, calibration inputs by name) -> a smaller core with the same inputs and outputs.
Compressor = Callable[["onnx.ModelProto", Mapping[str, "np.ndarray"]], "onnx.ModelProto"]

#: Compression methods that Assay brings: those that make smaller networks, and those that treat a model's file.
NETWORK_METHODS = ("merge", "structured", "depth", "student")
GRAPH_METHODS = (
    "fuse", "int8", "int8_percentile", "int8_entropy", "int8_s8s8", "int8_smooth", "int8_dynamic", "int8_weights",
    "int4_weights", "int4_weights_128", "fp16", "bf16", "fp16_weights", "magnitude", "neurons",
)  # fmt: skip
METHODS = (*NETWORK_METHODS, *GRAPH_METHODS)

#: Files beside the candidates' own.
_TAKEN = ("fp32", "model", "original")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")
_REQUIRED = ("learning_rate", "weight_decay")
_WORKLOAD_METHODS = {
    "default_metric": ("task",),
    "fit": ("rows", "facts", "tune"),
    "restore": ("raw",),
    "examples": ("encoder", "rows"),
    "loss": ("network", "batch", "encoder", "tune"),
    "head": ("encoder",),
}


def problems(group: str, name: str, found: Any) -> list[str]:
    """What is wrong with a plug-in, all of it; empty if nothing is.

    Args:
        group: of its entry point, one of those in :mod:`tasks.core.plugins`.
        name: of its entry point.
        found: the object.
    """
    wrong = list(_name(group, name))
    if isinstance(found, type) and group != METRICS:
        return [*wrong, f"it is the class {found.__name__}; give an instance of it, or a function"]
    check = {WORKLOADS: _workload, MODELS: _model, METRICS: _metric, COMPRESSORS: _compressor}[group]
    wrong += check(found)
    if group == WORKLOADS and isinstance(getattr(found, "name", None), str) and found.name != name:
        wrong.append(f"`name` is {found.name!r}, and its entry point is called {name!r}")
    return wrong


def built_in(group: str) -> list[str]:
    """Names that Assay itself has taken in a group."""
    from tasks.core import metrics, workloads

    if group == METRICS:
        return sorted({name for task in metrics.TASKS for name in metrics.built_in(task)})
    own = {name: workloads.find(name) for name in workloads.BUILT_IN}
    models = [name for workload in own.values() for name in workload.models]
    return {WORKLOADS: list(own), MODELS: models, COMPRESSORS: list(METHODS)}[group]


def shadows(group: str) -> list[str]:
    """Installed plug-ins that have a name of Assay's own: they would never be found."""
    return sorted(set(plugins.names(group)) & set(built_in(group)))


def _name(group: str, name: str) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield f"its name {name!r} must be letters, digits and any of _ . @ -"
    if group == COMPRESSORS and name in _TAKEN:
        yield f"its name {name!r} is that of a file which the search writes"
    if name in built_in(group):
        yield f"its name {name!r} is that of a built-in one, which would be taken instead"


def _workload(found: Any) -> Iterator[str]:
    yield from _texts(found, "name", "default_model")
    for method, arguments in _WORKLOAD_METHODS.items():
        yield from _method(found, method, arguments)
    models = getattr(found, "models", None)
    if not isinstance(models, Mapping) or not models:
        yield f"`models` must be a mapping of names to models, and is {models!r}"
        return
    if getattr(found, "default_model", None) not in models:
        yield f"`default_model` must be one of `models`: {', '.join(map(str, models))}"
    for name, model in models.items():
        yield from (f"model {name}: {wrong}" for wrong in _model(model))


def _model(found: Any) -> Iterator[str]:
    yield from _texts(found, "workload")
    yield from _method(found, "build", ("encoder", "values"))
    yield from _space(getattr(found, "space", None))
    extra = getattr(found, "extra_outputs", ())
    texts = isinstance(extra, tuple) and all(isinstance(name, str) and name for name in extra)
    if not texts or len(set(extra)) != len(extra):
        yield f"`extra_outputs` must be a tuple of different names, and is {extra!r}"


def _space(space: Any) -> Iterator[str]:
    if not (isinstance(space, type) and issubclass(space, Section)):
        yield f"`space` must be a subclass of tasks.core.sections.Section, and is {space!r}"
        return
    fields = space.model_fields
    yield from (f"`space` has no `{name}`, which the training needs" for name in _REQUIRED if name not in fields)
    for name, field in fields.items():
        if field.is_required():
            yield f"`space.{name}` has no default"
        elif not isinstance(field.default, int | float | str | FloatRange | Choice):
            yield f"`space.{name}` must be a value, a FloatRange or a Choice, and is {field.default!r}"


def _metric(found: Any) -> Iterator[str]:
    from tasks.core.metrics import plugin

    yield from plugin.problems(found)


def _compressor(found: Any) -> Iterator[str]:
    yield from _call(found, "it", ("core", "calibration"))


def _texts(found: Any, *attributes: str) -> Iterator[str]:
    for attribute in attributes:
        value = getattr(found, attribute, None)
        if not isinstance(value, str) or not value:
            yield (
                f"`{attribute}` must be a text, and is {value!r}"
                if hasattr(found, attribute)
                else (f"`{attribute}` is missing")
            )


def _method(found: Any, name: str, arguments: tuple[str, ...]) -> Iterator[str]:
    if not hasattr(found, name):
        yield f"`{name}({', '.join(arguments)})` is missing"
        return
    yield from _call(getattr(found, name), f"`{name}`", arguments)


def _call(function: Any, what: str, arguments: tuple[str, ...]) -> Iterator[str]:
    """A function that the rooms call with that many positional arguments."""
    wanted = f"({', '.join(arguments)})"
    if not callable(function):
        yield f"{what} must be callable with {wanted}"
        return
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C, without a signature to look at: the contract tests call it
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        yield f"{what} must be callable with {wanted}, and takes {signature}"
