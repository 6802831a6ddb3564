"""Puts a bundle under ``dist/<name>/<version>/``: whole or not at all, and never over another one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deploy import bundle, signing
from tasks.core import files
from tasks.core.errors import IntegrityError, UsageError

PROVENANCE = "provenance.json"
#: Where a bundle is put together: below it, under its own name.
_PARTIAL = ".partial"
#: The version with the highest number.
_LAST = ".last"


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
        version = f"{last_number(dist) + 1}-{digest[:12]}"
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
        files.write_text(dist / _LAST, f"{version}\n")
    return dist / version


def go_on_after(dist: Path, other: Path) -> None:
    """Let the numbers of an empty ``dist/<name>`` go on where those of another one end."""
    dist.mkdir(parents=True, exist_ok=True)
    if number := last_number(other):
        files.write_text(dist / _LAST, f"{number}-\n")


def adopt(dist: Path, version: Path) -> Path:
    """Publish a version that was finished in another ``dist/<name>``, and its signature; return its folder here.

    Raises:
        UsageError: if its number was used here meanwhile.
    """
    from filelock import FileLock

    dist.mkdir(parents=True, exist_ok=True)
    final = dist / version.name
    with FileLock(dist / ".lock"):
        if final.is_dir():
            return final
        number = int(version.name.partition("-")[0])
        if last_number(dist) >= number and not signing.signature_path(final).is_file():
            rule = "a version's number is used once"
            raise UsageError(rule, f"{dist} has a version {number} by now", "run again: the bundle gets the next one")
        shutil.rmtree(dist / _PARTIAL, ignore_errors=True)
        partial = dist / _PARTIAL / version.name
        shutil.copytree(version, partial)
        bundle.check(partial)
        files.flush_tree(partial)
        if (signature := signing.signature_path(version)).is_file():  # before the version: who follows it needs both
            shutil.copyfile(signature, signing.signature_path(final))
        partial.rename(final)
        shutil.rmtree(dist / _PARTIAL, ignore_errors=True)
        files.flush_folder(dist)
        files.write_text(dist / _LAST, f"{version.name}\n")
    return final


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


def last_number(dist: Path) -> int:
    """The highest number ever used here, also if that version was deleted since; 0 before the first."""
    names = [path.name for path in dist.glob("*") if path.is_dir() or path.name.endswith(signing.SUFFIX)]
    last = dist / _LAST
    names += [last.read_text(encoding="utf-8").strip()] if last.is_file() else []
    numbers = [int(name.partition("-")[0]) for name in names if name.partition("-")[0].isdigit()]
    return max(numbers, default=0)
