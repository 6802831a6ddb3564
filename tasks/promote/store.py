"""Where promoted bundles are kept: objects by key that are replaced whole, if they are still what was read.

The keys, and what a reader does with them, are in :mod:`deploy.store`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from deploy.signing import signature_path
from tasks.core import files

_INCOMING = ".incoming-"


@dataclass(frozen=True)
class Blob:
    """An object's bytes, and a tag that is another one as soon as the object is."""

    data: bytes
    tag: str


class Moved(Exception):
    """An object is no longer what was read: somebody else was quicker."""


class Store(Protocol):
    """What publishing needs of a place; each change is durable when the call returns."""

    def read(self, key: str) -> Blob | None:
        """An object, or None if there is none."""

    def swap(self, key: str, data: bytes, before: Blob | None) -> None:
        """Replace an object whole; :class:`Moved` if it is not what was read before."""

    def append(self, key: str, line: bytes, before: Blob | None, keep: int) -> None:
        """Put a line behind the first ``keep`` bytes of an object; :class:`Moved` likewise."""

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Keep others on this machine from publishing the same model meanwhile."""

    def holds(self, name: str, version: str) -> bool:
        """Whether a bundle is there, whole."""

    def put(self, name: str, version: str, folder: Path, check: Callable[[Path], None]) -> None:
        """Copy a bundle and its signature; ``check`` is given the copy, and raises to refuse it."""

    def fetched(self, name: str, version: str) -> AbstractContextManager[Path]:
        """A bundle that is there, in a folder of this machine with its signature beside it."""


def find(location: str, root: Path) -> Store:
    """The store of the settings: ``s3://bucket/prefix``, or a folder relative to ``root``."""
    if location.startswith("s3://"):
        from tasks.promote.s3 import S3Store

        return S3Store(location)
    return FolderStore(root / location)


class FolderStore:
    """A folder, on a disk whose file system renames atomically and knows locks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, key: str) -> Blob | None:
        """See :class:`Store`; the bytes are their own tag."""
        try:
            data = (self._root / key).read_bytes()
        except FileNotFoundError:
            return None
        return Blob(data, "")

    def swap(self, key: str, data: bytes, before: Blob | None) -> None:
        """See :class:`Store`; to be called under the lock."""
        self._check(key, before)
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, data.decode())
        files.flush_folder(path.parent)

    def append(self, key: str, line: bytes, before: Blob | None, keep: int) -> None:
        """See :class:`Store`; to be called under the lock."""
        self._check(key, before)
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.truncate(keep)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        files.flush_folder(path.parent)

    def _check(self, key: str, before: Blob | None) -> None:
        if self.read(key) != before:
            raise Moved(key)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """See :class:`Store`: a lock of the system's, which ends with the process that holds it.

        What that process was killed over is cleared away by the next to hold the lock.
        """
        from filelock import FileLock

        folder = self._root / name
        with files.machine_errors(self._root):
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                for leftover in folder.glob(f"{_INCOMING}*"):
                    shutil.rmtree(leftover, ignore_errors=True)  # in nobody's way
                yield

    def holds(self, name: str, version: str) -> bool:
        """See :class:`Store`: the folder is the last to get its name."""
        return (self._root / name / version).is_dir()

    def put(self, name: str, version: str, folder: Path, check: Callable[[Path], None]) -> None:
        """See :class:`Store`; to be called under the lock."""
        home = self._root / name
        home.mkdir(parents=True, exist_ok=True)
        incoming = Path(mkdtemp(prefix=_INCOMING, dir=home))
        try:
            copy = incoming / version
            shutil.copytree(folder, copy, symlinks=True)
            shutil.copyfile(signature_path(folder), signature_path(copy), follow_symlinks=False)
            files.flush_tree(incoming)
            check(copy)
            signature_path(copy).replace(signature_path(home / version))
            copy.rename(home / version)
            files.flush_folder(home)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    @contextmanager
    def fetched(self, name: str, version: str) -> Iterator[Path]:
        """See :class:`Store`: the folder itself."""
        yield self._root / name / version
