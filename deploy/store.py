"""Reads a store of promoted bundles: which version serves at a stage.

<store>/<name>/<version>/             a bundle, with its signature <version>.sig beside it
<store>/<name>/stages/<stage>.json    the stage's pointer, swapped whole: version, digest, revision
<store>/<name>/audit.jsonl            who moved which pointer, when and why
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import IntegrityError, UsageError

#: What names, versions and stages are made of: no separator, no leading dot.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Pointer:
    """What serves at a stage.

    Attributes:
        version: folder of the bundle.
        digest: SHA-256 of its manifest, in hexadecimal.
        revision: how often the pointer has been moved, from 1.
    """

    version: str
    digest: str
    revision: int


def is_word(text: str) -> bool:
    """Whether it can be a model's name, a version or a stage."""
    return _WORD.fullmatch(text) is not None


def pointer_path(store: Path, name: str, stage: str) -> Path:
    """Where the pointer of a stage lies."""
    return store / name / "stages" / f"{stage}.json"


def read_pointer(store: Path, name: str, stage: str) -> Pointer | None:
    """The pointer of a stage; None if nothing was ever promoted to it.

    Raises:
        UsageError: if the name or the stage cannot be one.
        IntegrityError: if it is no pointer.
    """
    if wrong := [text for text in (name, stage) if not is_word(text)]:
        rule = "names and stages are made of letters, digits, dots, dashes and underscores"
        raise UsageError(rule, ", ".join(map(repr, wrong)), "correct them")
    path = pointer_path(store, name, stage)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        pointer = Pointer(**raw)
        whole = is_word(pointer.version) and isinstance(pointer.digest, str) and isinstance(pointer.revision, int)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise _broken(path, f"{type(error).__name__}: {error}") from error
    if not whole:
        raise _broken(path, json.dumps(raw))
    return pointer


def current(store: Path, name: str, stage: str) -> Path:
    """Folder of the bundle that serves at a stage.

    Raises:
        UsageError: if nothing was promoted to it.
        IntegrityError: if the pointer is broken, or its version is not there.
    """
    pointer = read_pointer(store, name, stage)
    if pointer is None:
        found = f"{pointer_path(store, name, stage)} does not exist"
        raise UsageError(
            f"{name} must have been promoted to {stage}", found, f"assay promote {name} VERSION --to {stage}"
        )
    folder = store / name / pointer.version
    if not folder.is_dir():
        raise _broken(pointer_path(store, name, stage), f"it names {pointer.version}, which is not in the store")
    return folder


def _broken(path: Path, found: str) -> IntegrityError:
    way_out = f"point the stage at a whole version: assay rollback {path.parents[1].name} --to {path.stem} VERSION"
    return IntegrityError("a stage's pointer names a version, its digest and a revision", f"{path}: {found}", way_out)
