"""Puts a bundle under ``dist/<name>/<version>/``: whole or not at all, and never over another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy import bundle, signing
from tasks.core import files
from tasks.core.errors import IntegrityError

PROVENANCE = "provenance.json"
#: Where a bundle is put together: below it, under its own name.
_PARTIAL = ".partial"


def publish(
    dist: Path, contents: Path, digest: str, records: Mapping[str, Mapping[str, Any]], prove: Callable[[Path], None]
) -> Path:
    """Publish the bundle, or find that this very content is published already.

    A version is ``<number>-<first 12 digits of the digest>``; numbers count up and are not used twice. Everything is
    written to a hidden folder, proven there, then renamed.

    Args:
        dist: ``dist/<name>``.
        contents: the reproducible files.
        digest: their identity.
        records: what is true of this run alone, :data:`deploy.bundle.RECORDS`: file -> JSON values. The version is
            added to ``provenance.json``.
        prove: called with the complete bundle before it is published; raises to refuse it.

    Returns:
        The version's folder.

    Raises:
        IntegrityError: if the same content is published but no longer whole, or by ``prove``.
    """
    from filelock import FileLock

    dist.mkdir(parents=True, exist_ok=True)
    with FileLock(dist / ".lock"):
        shutil.rmtree(dist / _PARTIAL, ignore_errors=True)
        published = find(dist, digest)
        if published is not None:
            _check_content(published, digest)
            prove(published)
            return published
        version = f"{_next_number(dist)}-{digest[:12]}"
        partial = dist / _PARTIAL / version
        try:
            shutil.copytree(contents, partial)
            for name, values in records.items():
                known = {"version": version} if name == PROVENANCE else {}
                files.write_json(partial / name, {**values, **known})
            bundle.write_manifest(partial)
            prove(partial)
            files.flush_tree(partial)
            partial.rename(dist / version)
            files.flush_folder(dist)
        finally:
            shutil.rmtree(dist / _PARTIAL, ignore_errors=True)
        files.write_text(dist / ".last", f"{version}\n")
    return dist / version


def sign(version: Path, key: Path, password: bytes | None) -> None:
    """Put the key's signature beside a published version, if it is not there: a kill before this is made good so."""
    from filelock import FileLock

    with FileLock(version.parent / ".lock"):
        signing.sign(version, key, password)


def _check_content(published: Path, digest: str) -> None:
    """A version's name and manifest could both have been edited: its content is hashed anew."""
    bundle.check(published)
    found = bundle.digest(bundle.hashes(published))
    if found != digest:
        raise IntegrityError(
            "a published version must hold the content it is named for",
            f"{published} has content {found[:12]}, expected {digest[:12]}",
            "find out who changed it; then remove that folder and export again",
        )


def find(dist: Path, digest: str) -> Path | None:
    """The published version with this content, if there is one.

    Raises:
        IntegrityError: if several versions claim it.
    """
    found = sorted(path for path in dist.glob(f"[0-9]*-{digest[:12]}") if path.is_dir())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise IntegrityError("a content has one version", f"{dist} holds {names}", "remove the copies")
    return found[0] if found else None


def _next_number(dist: Path) -> int:
    """One above the highest number ever used here, also if that version was deleted since."""
    names = [path.name for path in dist.iterdir() if path.is_dir() or path.name.endswith(signing.SUFFIX)]
    last = dist / ".last"
    names += [last.read_text(encoding="utf-8").strip()] if last.is_file() else []
    numbers = [int(name.partition("-")[0]) for name in names if name.partition("-")[0].isdigit()]
    return max(numbers, default=0) + 1
