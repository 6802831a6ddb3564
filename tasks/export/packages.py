"""The Python packages that Assay runs on, as they are installed here: what each needs, and under which licence."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNKNOWN = "unknown"
ROOT = "assay"
_CLASSIFIER = "License :: "
#: Longer texts are the licence itself, not its name.
_NAME_LENGTH = 80


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
        name: normalized.
        version: of it.
        licence: in its maker's words; :data:`UNKNOWN` if there are none.
        source: the field of its metadata that says so.
        needs: names of installed packages.
    """

    name: str
    version: str
    licence: str
    source: str
    needs: tuple[str, ...]


@functools.cache
def installed() -> tuple[Package, ...]:
    """Assay and everything that it needs, and what that needs, by name."""
    found: dict[str, tuple[importlib.metadata.Distribution, tuple[str, ...]]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(ROOT, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        key = canonicalize_name(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # one of two alternatives, such as onnxruntime-gpu
            continue
        needed = list(_requirements(distribution, extras))
        names = {*found.get(key, (None, ()))[1], *(canonicalize_name(one.name) for one in needed)}
        if key in found and names == set(found[key][1]):
            continue
        found[key] = (distribution, tuple(sorted(names)))
        waiting += [(one.name, frozenset(one.extras)) for one in needed]
    return tuple(
        Package(name, distribution.version, *_licence(distribution), tuple(need for need in needs if need in found))
        for name, (distribution, needs) in sorted(found.items())
    )


def _requirements(distribution: importlib.metadata.Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in distribution.requires or []:
        one = Requirement(text)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield one


def _licence(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """The licence and where it is said: an SPDX expression, else classifiers, else a short free text."""
    told = distribution.metadata
    if "License-Expression" in told:
        return told["License-Expression"], "License-Expression"
    said = [c.rpartition(" :: ")[2] for c in told.get_all("Classifier") or [] if c.startswith(_CLASSIFIER)]
    said = [name for name in said if name != "OSI Approved"]
    if said:
        return "; ".join(said), "Classifier"
    text = " ".join(told["License"].split()) if "License" in told else ""
    if not text or text.upper() == "UNKNOWN":
        return UNKNOWN, "none"
    return (text if len(text) <= _NAME_LENGTH else f"{text[: _NAME_LENGTH - 3]}..."), "License"
