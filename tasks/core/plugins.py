"""A user's own workloads, models, metrics and compressors: found by entry point name, checked before use."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from tasks.core.errors import UsageError

WORKLOADS, MODELS, METRICS, COMPRESSORS = "assay.workloads", "assay.models", "assay.metrics", "assay.compressors"


def names(group: str) -> list[str]:
    """Names of the installed plug-ins of a group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:
    """The object behind an entry point.

    Raises:
        UsageError: if no installed package offers that name, two do, it cannot be imported, or it is not as its
            contract says: everything that is wrong with it.
    """
    found = list({point.value: point for point in entry_points(group=group, name=name)}.values())
    if len(found) != 1:
        offered = ", ".join(names(group)) or "none"
        raise UsageError(
            f"a plug-in is the entry point of one installed package in the group {group}",
            f"{len(found)} for `{name}`" + "".join(f" {point.value}" for point in found),
            f"install the package, or choose another name; installed: {offered}",
        )
    try:
        plugin = found[0].load()
    except Exception as error:  # a stranger's code may raise anything while it is imported
        raise UsageError(
            "a plug-in must be importable",
            f"{name} ({found[0].value}): {type(error).__name__}: {error}",
            "correct the package, or install what it needs",
        ) from error
    from tasks.core import contracts

    if wrong := contracts.problems(group, name, plugin):
        raise UsageError(
            f"a plug-in of {group} must keep its contract",
            f"{name} ({found[0].value}): " + "".join(f"\n    - {problem}" for problem in wrong),
            "correct the package; tasks.core.testing has tests for it, and examples/custom shows each kind",
        )
    return plugin
