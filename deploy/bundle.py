"""A bundle: which files it is made of, their hashes (``MANIFEST.sha256``, as ``sha256sum`` has them), its identity."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from deploy.errors import IntegrityError, UsageError

MANIFEST = "MANIFEST.sha256"
#: Files that tell of a run on a machine: two runs with equal data, params and seed differ in these alone.
RECORDS = frozenset({"provenance.json", "sbom.cdx.json", "licences.json"})
#: What a bundle must have, besides a golden request with its answer.
REQUIRED = RECORDS | {
    "model.onnx", "signature.json", "config.pbtxt", "metrics.json", "verdict.json", "report.html",
    "drift_reference.json", "mlbom.cdx.json", "README.md",
}  # fmt: skip
_SERVED = r"model\.onnx|signature\.json|config\.pbtxt|golden/[a-z0-9_-]+\.(request|response)\.json"
_ALLOWED = re.compile(
    "|".join((MANIFEST, *REQUIRED)).replace(".", r"\.") + rf"|variants\.json|(variants/[a-z0-9_-]+/)?({_SERVED})"
)
#: Bytes: an ONNX file is one protobuf message, which cannot be larger; no other file is of use to a server when large.
_MOST_MODEL, _MOST_OTHER, _MOST_FILES = 2 << 30, 64 << 20, 1000
_WAY_OUT = "fetch the bundle anew, or export it again"


def write_manifest(folder: Path) -> None:
    """Hash every file below ``folder`` into ``MANIFEST.sha256``, sorted by name."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(hashes(folder).items())]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8", newline="\n")


def check(folder: Path) -> None:
    """Check that the bundle holds exactly the files of its manifest, each with its hash.

    Raises:
        UsageError: if ``folder`` is no bundle.
        IntegrityError: naming every file that is missing, added, changed or a link.
    """
    if not (folder / MANIFEST).is_file():
        found = f"{folder / MANIFEST} does not exist"
        raise UsageError("a bundle is a folder with a MANIFEST.sha256", found, "name a bundle")
    strange = _strange(folder)
    _refuse(folder, [*_against_manifest(folder, hashes(folder, apart_from=strange), strange), *strange.values()])


def verify(folder: Path, public_key: Path | None) -> None:
    """Check everything about a bundle that can be known without running it.

    Its signature; that it holds the files of its manifest, only such as a bundle has, all of them plain and of a sane
    size; no pickle and no archive in place of a model; and that its files agree with one another and with its name.

    Args:
        folder: the bundle.
        public_key: of whoever must have signed it; None proves nothing about who made it.

    Raises:
        UsageError: if ``folder`` is no folder, or the key is none.
        IntegrityError: naming everything that is wrong.
    """
    from deploy import agreement

    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (`resolve` would follow links)
    if folder.is_symlink() or not folder.is_dir():
        found = "is a link" if folder.is_symlink() else "is a file" if folder.exists() else "does not exist"
        way_out = "name the folder of the version itself; nothing is unpacked here, and no link is followed"
        raise UsageError("a bundle is a folder", f"{folder} {found}", way_out)
    strange = _strange(folder)
    known = hashes(folder, apart_from=strange)
    problems = [*_against_manifest(folder, known, strange), *strange.values(), *_not_allowed(folder)]
    if not strange:  # else what would be read next may be anything, of any size
        problems += [*_against_signature(folder, public_key), *agreement.problems(folder, known, digest(known))]
    _refuse(folder, problems)


def names(folder: Path) -> set[str]:
    """Every file of a bundle but its manifest, relative to it: links and devices too."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix() for path in found} - {MANIFEST}


def hashes(folder: Path, apart_from: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of every file but the manifest, by name, in hexadecimal."""
    return {name: _sha256(folder / name) for name in names(folder) - set(apart_from or ())}


def manifest_digest(folder: Path) -> str:
    """SHA-256 of a bundle's manifest, in hexadecimal: what approvals, pointers and logs name a bundle by.

    Raises:
        IntegrityError: if it has none.
    """
    try:
        return _sha256(folder / MANIFEST)
    except OSError as error:
        raise IntegrityError("a bundle has a manifest", f"{folder}: {error}", "fetch or export it again") from error


def digest(hashed: Mapping[str, str]) -> str:
    """The identity of a bundle: SHA-256 over the names and hashes of its files, in order, without :data:`RECORDS`."""
    lines = [f"{hashed[name]}  {name}\n" for name in sorted(set(hashed) - RECORDS)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        raise IntegrityError("a bundle must be what its maker left", f"{folder}: {'; '.join(problems)}", _WAY_OUT)


def _strange(folder: Path) -> dict[str, str]:
    """What must not even be opened, with the reason: links, devices, files without end."""
    found = {}
    for name in sorted(names(folder) | {MANIFEST}):
        path = folder / name
        most = _MOST_MODEL if name.endswith(".onnx") else _MOST_OTHER
        if path.is_symlink():
            found[name] = f"{name}: a link"
        elif path.exists() and not path.is_file():
            found[name] = f"{name}: no plain file"
        elif path.exists() and path.stat().st_size > most:
            found[name] = f"{name}: {path.stat().st_size} bytes, of at most {most}"
    return found


def _against_manifest(folder: Path, found: Mapping[str, str], strange: Mapping[str, str]) -> Iterator[str]:
    if MANIFEST in strange:
        return
    expected, wrong = _read_manifest(folder / MANIFEST)
    yield from wrong
    present = set(found) | set(strange)
    yield from (f"{name}: missing" for name in sorted(set(expected) - present))
    yield from (f"{name}: not in the manifest" for name in sorted(present - set(expected)))
    yield from (f"{name}: changed" for name in sorted(found) if found[name] != expected.get(name, found[name]))


def _against_signature(folder: Path, public_key: Path | None) -> Iterator[str]:
    from deploy import signing

    if public_key is not None:
        try:
            signing.verify(folder, public_key)
        except IntegrityError as error:
            yield error.found


def _read_manifest(manifest: Path) -> tuple[dict[str, str], list[str]]:
    """Hash by name; and what is wrong with the lines."""
    entries: dict[str, str] = {}
    wrong = []
    if not manifest.is_file():
        return {}, [f"{MANIFEST}: missing"]
    # What is not UTF-8 becomes a name that no file has.
    text = manifest.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), 1):
        sha256, _, name = line.partition("  ")
        path = PurePosixPath(name)
        if len(sha256) != 64 or not name or path.is_absolute() or ".." in path.parts or name in entries:
            wrong.append(f"{MANIFEST} line {number} is no hash and file: {line[:200]!r}")
        else:
            entries[name] = sha256
    return entries, wrong


def _not_allowed(folder: Path) -> Iterator[str]:
    present = names(folder)
    yield from (f"{name}: no file that a bundle has" for name in sorted(present) if not _ALLOWED.fullmatch(name))
    yield from (f"{name}: missing, and every bundle has it" for name in sorted(REQUIRED - present))
    parents = {str(parent) for name in present for parent in PurePosixPath(name).parents}
    folders = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}
    yield from (f"{name}: an empty folder" for name in sorted(folders - parents))
    if len(present) > _MOST_FILES:
        yield f"{len(present)} files, of at most {_MOST_FILES}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
