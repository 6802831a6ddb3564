"""A bundle's files against its ``MANIFEST.sha256`` (the format of ``sha256sum``)."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from deploy.errors import IntegrityError, UsageError

MANIFEST = "MANIFEST.sha256"
_WAY_OUT = "fetch the bundle anew, or export it again"


def write_manifest(folder: Path) -> None:
    """Hash every file below ``folder`` into ``MANIFEST.sha256``, sorted by name."""
    lines = [f"{_sha256(folder / name)}  {name}\n" for name in sorted(_names(folder))]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8", newline="\n")


def check(folder: Path) -> None:
    """Check that the bundle holds exactly the files of its manifest, each with its hash.

    Raises:
        UsageError: if ``folder`` is no bundle.
        IntegrityError: naming every file that is missing, added, changed or a link.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise UsageError("a bundle is a folder with a MANIFEST.sha256", f"{manifest} does not exist", "name a bundle")
    expected = _parse(manifest)
    present = _names(folder)
    links = {name for name in present if (folder / name).is_symlink()}
    problems = [f"{name}: missing" for name in sorted(set(expected) - present)]
    problems += [f"{name}: not in the manifest" for name in sorted(present - set(expected))]
    problems += [f"{name}: a link" for name in sorted(links)]
    problems += [
        f"{name}: changed"
        for name in sorted(present & set(expected) - links)
        if _sha256(folder / name) != expected[name]
    ]
    if problems:
        raise IntegrityError("a bundle must be what its manifest says", f"{folder}: {'; '.join(problems)}", _WAY_OUT)


def _parse(manifest: Path) -> dict[str, str]:
    entries: dict[str, str] = {}
    # What is not UTF-8 becomes a name that no file has.
    text = manifest.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), 1):
        digest, _, name = line.partition("  ")
        path = PurePosixPath(name)
        if len(digest) != 64 or not name or path.is_absolute() or ".." in path.parts or name in entries:
            raise IntegrityError(
                "a manifest line is a hash and a file", f"{manifest} line {number}: {line!r}", _WAY_OUT
            )
        entries[name] = digest
    return entries


def _names(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found} - {MANIFEST}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
