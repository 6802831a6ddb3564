"""Files and folders that are either whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.errors import MachineError

_CHUNK = 1 << 20


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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
    leaves the previous folder under ``.<name>.previous``; the next call puts it back first.
    """
    partial, previous = (final.with_name(f".{final.name}.{word}") for word in ("partial", "previous"))
    recover_folder(final)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if final.exists():
        final.rename(previous)
    partial.rename(final)
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(final: Path) -> None:
    """Undo a :func:`replaced_folder` that was killed between its two renames."""
    previous = final.with_name(f".{final.name}.previous")
    if previous.exists():
        if final.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(final)


@contextmanager
def machine_errors(folder: Path) -> Iterator[None]:
    """Turn "disk full" and "not writable" into a :class:`MachineError` that names the folder.

    Native writers (Arrow, safetensors, ONNX) often drop ``errno``, so the message is searched as well.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        code = getattr(error, "errno", None)
        text = str(error)
        if code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in text:
            raise MachineError(
                "a stage needs room on the disk for its results",
                f"no space left while writing under {folder} ({_free_mib(folder)} MiB free)",
                "free some space, or set base.artifacts_dir to a larger disk; the previous artifacts are untouched",
            ) from error
        if code in (errno.EACCES, errno.EROFS, errno.EPERM) or os.strerror(errno.EROFS) in text:
            raise MachineError(
                "a stage must be able to write its results",
                f"{getattr(error, 'filename', None) or folder} is not writable ({text})",
                "make the folder writable, or set base.artifacts_dir to one that is",
            ) from error
        raise


def _free_mib(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20
