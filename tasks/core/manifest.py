"""The manifest: a stage's output is complete exactly when its ``manifest.json`` exists and its hashes hold.

It carries no time, host name or absolute path, so that equal inputs give equal manifests; such things go to the run
record (:mod:`tasks.core.record`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.core import files
from tasks.core.errors import IntegrityError, UsageError

SCHEMA_VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class Entry:
    """One file of a stage: its hash (hex SHA-256), size in bytes, and role in the stage."""

    sha256: str
    bytes: int
    role: str


@dataclass(frozen=True)
class Manifest:
    """What a stage left.

    Attributes:
        stage: the stage's name.
        settings: hash of the settings the stage was given.
        upstream: stage name -> SHA-256 of the manifest it read.
        files: relative posix path -> :class:`Entry`.
        metrics: flat numbers worth comparing between runs.
        facts: what the next rooms need to know (JSON values).
        params: the settings themselves, by section; filled in by the stage runner.
    """

    stage: str
    settings: str
    upstream: Mapping[str, str]
    files: Mapping[str, Entry]
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def build(
    stage: str,
    settings: str,
    upstream: Mapping[str, Path],
    folder: Path,
    roles: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """Hash the files of ``folder`` (``roles``: relative path -> role) and the upstream manifests.

    Raises:
        ValueError: if the folder holds a file that ``roles`` does not name, or lacks one that it does (a bug).
    """
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if present != set(roles):
        raise ValueError(f"{stage}: files and roles disagree: {sorted(present ^ set(roles))}")
    entries = {
        name: Entry(files.sha256(folder / name), (folder / name).stat().st_size, role)
        for name, role in sorted(roles.items())
    }
    hashes = {name: identity(path) for name, path in upstream.items()}
    return Manifest(stage, settings, hashes, entries, dict(metrics or {}), dict(facts or {}))


def write(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into ``folder``: the last file a stage writes."""
    files.write_json(folder / NAME, asdict(manifest))


def identity(folder: Path) -> str:
    """SHA-256 of a stage's manifest: the identity of everything the stage left."""
    return files.sha256(folder / NAME)


def read(folder: Path, upstream: Mapping[str, Path] | None = None) -> Manifest:
    """Read a stage's manifest and check every file, and the identity of the given upstream stages.

    Raises:
        UsageError: if the stage, or one of the given upstream stages, has not been run.
        IntegrityError: if a file is missing, truncated or changed, or the stage was made from another upstream.
    """
    _require(folder)
    manifest = _parse(folder)
    for name, entry in manifest.files.items():
        _check_file(folder, name, entry)
    for name, path in (upstream or {}).items():
        _check_upstream(manifest, name, path)
    return manifest


def _require(folder: Path) -> None:
    stage = folder.name
    if not (folder / NAME).is_file():
        raise UsageError(
            f"stage {stage} must be complete before it is read",
            f"{folder / NAME} does not exist",
            f"run `dvc repro {stage}` (or `python -m tasks {stage}`)",
        )


def _parse(folder: Path) -> Manifest:
    path = folder / NAME
    try:
        raw = files.read_json(path)
        entries = {name: Entry(**entry) for name, entry in raw.pop("files").items()}
        manifest = Manifest(files=entries, **raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("a manifest must be whole", f"{path}: {error}", _rebuild(folder.name)) from error
    if manifest.schema_version != SCHEMA_VERSION:
        found = f"{path} has schema version {manifest.schema_version}"
        raise IntegrityError(f"a manifest must have schema version {SCHEMA_VERSION}", found, _rebuild(folder.name))
    return manifest


def _check_file(folder: Path, name: str, entry: Entry) -> None:
    path = folder / name
    rule = "an artifact must be what its manifest says"
    if not path.is_file():
        raise IntegrityError(rule, f"{path} is missing", _rebuild(folder.name))
    size = path.stat().st_size
    if size != entry.bytes:
        raise IntegrityError(rule, f"{path} has {size} bytes, expected {entry.bytes}", _rebuild(folder.name))
    found = files.sha256(path)
    if found != entry.sha256:
        raise IntegrityError(rule, f"{path} has sha256 {found}, expected {entry.sha256}", _rebuild(folder.name))


def _check_upstream(manifest: Manifest, name: str, path: Path) -> None:
    _require(path)
    expected, found = manifest.upstream.get(name), identity(path)
    if expected != found:
        raise IntegrityError(
            f"stage {manifest.stage} must have been made from the {name} that is read with it",
            f"{path / NAME} has sha256 {found}, {manifest.stage} was made from {expected}",
            _rebuild(manifest.stage),
        )


def _rebuild(stage: str) -> str:
    return f"run `dvc repro --force {stage}` to build it anew"


def settings_hash(*sections: Any, apart: Iterable[str] = ()) -> str:
    """SHA-256 of the canonical JSON of settings sections (pydantic models), but for where folders lie and ``apart``."""
    left_out = {"artifacts_dir", "dist_dir", *apart}
    values = [section.model_dump(mode="json", exclude=left_out) for section in sections]
    return hashlib.sha256(files.canonical_json(values).encode()).hexdigest()
