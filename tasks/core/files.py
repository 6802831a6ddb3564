"""Files and folders that are either whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.errors import AssayError, MachineError

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def without_nan(value: Any) -> Any:
    """JSON values in which a figure that is not finite is None: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, two spaces, a final newline; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file by temporary file, fsync and rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def copy(source: Path, path: Path) -> None:
    """Copy a file's bytes by temporary file and rename: where the disk is full, nothing is left of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write :func:`canonical_json` atomically."""
    write_text(path, canonical_json(value))


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def replaced_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``final`` that takes its place when the block ends well.

    On any exception the partial folder is removed and ``final`` stays as it was. A kill between the two renames
    leaves the previous folder under ``.<name>.previous``; :func:`recover_folder` puts it back.
    """
    partial, previous = (final.with_name(f".{final.name}.{word}") for word in ("partial", "previous"))
    recover_folder(final)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if final.exists():
            final.rename(previous)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        recover_folder(final)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """Undo a :func:`replaced_folder` that was killed between its two renames."""
    previous = final.with_name(f".{final.name}.previous")
    if previous.exists():
        if final.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(final)


def flush_tree(folder: Path) -> None:
    """Make all files below a folder, and their names, durable."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            flush_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Make names in a folder durable (where the system opens folders: not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL_TEXTS = (os.strerror(errno.ENOSPC), "database or disk is full")
_REFUSED = frozenset({errno.EACCES, errno.EROFS, errno.EPERM})
_REFUSED_TEXTS = (os.strerror(errno.EROFS), "attempt to write a readonly database")
_NO_FOLDER = frozenset({errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG})


@contextmanager
def machine_errors(folder: Path) -> Iterator[None]:
    """Turn "disk full", "not allowed" and "a file in the way" into a :class:`MachineError` that names the place.

    Native writers (Arrow, safetensors, SQLite) drop ``errno`` and raise types of their own, so messages are searched
    as well, in its causes too.
    """
    try:
        yield
    except AssayError:
        raise
    except Exception as error:
        refusal = _machine_error(error, folder)
        if refusal is None:
            raise
        raise refusal from error


def _machine_error(error: Exception, folder: Path) -> MachineError | None:
    chain = list(_causes(error))
    codes = {getattr(link, "errno", None) for link in chain}
    said = "\n".join(str(link) for link in chain)
    place = next((link.filename for link in chain if isinstance(link, OSError) and link.filename), folder)
    if codes & _FULL or any(text in said for text in _FULL_TEXTS):
        return MachineError(
            "a stage needs room on the disk for its results",
            f"no space left while writing {place} ({_free_mib(folder)} MiB free in {folder})",
            "free some space, or set base.artifacts_dir to a larger disk (temporary files follow TMPDIR); "
            "the previous artifacts are untouched",
        )
    if codes & _REFUSED or any(text in said for text in _REFUSED_TEXTS):
        return MachineError(
            "a stage must be allowed to read its inputs and to write its results",
            f"{place}: {error}",
            "make it readable or writable, or set base.artifacts_dir to a folder that is",
        )
    if isinstance(error, OSError) and error.errno in _NO_FOLDER:
        return MachineError(
            "a stage's results need folders of their own", f"{place}: {error}", "choose another base.artifacts_dir"
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _free_mib(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20
