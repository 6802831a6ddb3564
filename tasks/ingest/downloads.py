"""Finds the files that a card names: installed on this machine, in the cache, or on the web; never used unchecked."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from tasks.core.errors import IntegrityError, MachineError
from tasks.core.log import log
from tasks.ingest.archive import CACHE_VARIABLE, cache_folder
from tasks.ingest.card import FilesCard

_SECONDS = 60
_GZIP = b"\x1f\x8b"


def contents(card: FilesCard) -> dict[str, bytes]:
    """File name -> content (unpacked, if the file is .gz) whose SHA-256 is the card's.

    Raises:
        IntegrityError: if what the web server gives has another hash.
        MachineError: if a file is nowhere to be had, or the cache folder cannot be written.
    """
    return {name: _content(card, name, sha256) for name, sha256 in card.files.items()}


def _content(card: FilesCard, name: str, sha256: str) -> bytes:
    from filelock import FileLock

    # The hash is part of the name: two cards may have different files of one name.
    cached = cache_folder() / f"{sha256[:16]}-{name}"
    if (data := _checked(Path(card.installed) / name, sha256)) is not None:
        return data
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_name(f".{cached.name}.lock")):
            data = _checked(cached, sha256)
            return _fetched(card, name, sha256, cached) if data is None else data
    except OSError as error:
        raise MachineError(
            "the cache of data files must be writable",
            f"{cached.parent}: {error}",
            f"free space or allow writing there, or set {CACHE_VARIABLE} to another folder",
        ) from error


def _checked(path: Path, sha256: str) -> bytes | None:
    """The content of a file, or None if it is not there, or not what the card names."""
    if not path.is_file():
        return None
    try:
        data = _unpacked(path.read_bytes())
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
        log.warning("ingest: the content of %s has not the sha256 of its card; looking elsewhere", path)
    except (OSError, EOFError, zlib.error) as error:
        log.warning("ingest: %s cannot be read (%s); looking elsewhere", path, error)
    return None


def _fetched(card: FilesCard, name: str, sha256: str, place: Path) -> bytes:
    by_hand = f"install the system's package {card.package}, or get {name} from elsewhere and put it at {place}"
    packed = _downloaded(card.url + name, by_hand)
    try:
        data = _unpacked(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise IntegrityError("a fetched file must be whole", f"{card.url}{name}: {error}", by_hand) from error
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise IntegrityError(
            f"the data file {name} must be the one that its source card names",
            f"the content has sha256 {found} from {card.url}, expected {sha256}",
            f"check what stands between you and the web server (a proxy), or {by_hand}",
        )
    partial = place.with_name(f".{place.name}.partial")
    partial.write_bytes(packed)
    partial.replace(place)
    return data


def _downloaded(url: str, by_hand: str) -> bytes:
    from http.client import HTTPException
    from urllib.request import urlopen

    log.info("ingest: fetching %s", url)
    try:
        with urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310  (the card's schema admits http and https only)
            data: bytes = answer.read()
            return data
    except (OSError, HTTPException) as error:
        raise MachineError(
            "a data file must be installed, cached, or on the web", f"{url}: {error}", by_hand
        ) from error


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == _GZIP else data
