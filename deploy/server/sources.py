"""Where versions come from, and which of them should serve now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy import store
from deploy.bundle import MANIFEST, manifest_digest
from deploy.errors import IntegrityError, UsageError


class Source(Protocol):
    """Says which bundles to serve."""

    @property
    def name(self) -> str:
        """Of the model."""

    def wanted(self) -> tuple[Path, ...]:
        """Folders of bundles: the one that serves, and the one before it where that is known.

        Raises:
            UsageError: if there is none.
            IntegrityError: if what says so is broken.
        """


@dataclass(frozen=True)
class OneBundle:
    """``dist/<name>/<version>``, which never changes."""

    folder: Path
    name: str

    def wanted(self) -> tuple[Path, ...]:
        """See :class:`Source`."""
        return (self.folder,)


@dataclass(frozen=True)
class Newest:
    """``dist/<name>``: the version with the greatest number, and the next one below."""

    folder: Path
    name: str

    def wanted(self) -> tuple[Path, ...]:
        """See :class:`Source`."""
        found = [path for path in self.folder.iterdir() if _number(path) and (path / MANIFEST).is_file()]
        if not found:
            rule = "a folder to serve is a bundle, or holds the versions of one model"
            raise UsageError(rule, f"{self.folder} has no version", "name dist/<name>, or a version in it")
        return tuple(sorted(found, key=_number, reverse=True)[:2])


@dataclass(frozen=True)
class Stage:
    """What a store's pointer names; :mod:`deploy.store` tells the layout."""

    store: Path
    name: str
    stage: str

    def wanted(self) -> tuple[Path, ...]:
        """See :class:`Source`."""
        folder = store.current(self.store, self.name, self.stage)
        pointer = store.read_pointer(self.store, self.name, self.stage)
        manifest = folder / MANIFEST
        if pointer is None or not manifest.is_file():
            raise UsageError("a stage points at a bundle", f"{manifest} does not exist", "look at the store")
        found = manifest_digest(folder)
        if pointer.version == folder.name and pointer.digest != found:
            rule = "a stage's pointer has the digest of its version's manifest"
            way_out = f"find out who changed {folder}; then promote it again"
            raise IntegrityError(rule, f"{pointer.digest[:12]}, and the manifest has {found[:12]}", way_out)
        return (folder,)


def local(folder: Path, name: str | None = None) -> Source:
    """The source that a folder is: a bundle, or the versions of a model.

    Args:
        folder: ``dist/<name>/<version>`` or ``dist/<name>``.
        name: of the model, if it is another one.

    Raises:
        UsageError: if it is no folder, or the name cannot be one.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        raise UsageError("a folder to serve is a bundle, or holds the versions of one model", f"{folder} is none",
                         "name dist/<name>, or a version in it")  # fmt: skip
    alone = (folder / MANIFEST).is_file()
    name = name or (folder.parent if alone else folder).name
    if not store.is_word(name):
        rule = "a model's name is made of letters, digits, dots, dashes and underscores"
        raise UsageError(rule, repr(name), "give one with --name")
    return OneBundle(folder, name) if alone else Newest(folder, name)


def _number(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() and path.is_dir() else 0
