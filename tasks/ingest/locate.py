"""From the text in ``ingest.source`` to the files it means."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.core.errors import MachineError, UsageError

_SUFFIXES = (".csv", ".parquet")
_CARDS = (".yaml", ".yml")
_MAGIC = frozenset("*?[")


def is_card(source: str) -> bool:
    """Whether the source is a source card, by its suffix."""
    return Path(source).suffix.lower() in _CARDS


def files(root: Path, source: str, pattern: str | None) -> list[Path]:
    """The data files of a source, sorted by name; at least one, and all of one format.

    Args:
        root: where relative paths start.
        source: a file, a folder, or a path with a glob in it.
        pattern: a glob inside the folder.

    Raises:
        UsageError: if nothing is found, formats are mixed or unknown, or a file is not readable.
    """
    place = root / source
    if place.is_file():
        refuse_pattern(place, pattern)
        found_files = [place]
    elif place.is_dir():
        found_files = _in_folder(place, pattern)
    elif _MAGIC & set(source):
        refuse_pattern(place, pattern)
        found_files = matching(*_split_glob(place))
    else:
        raise UsageError(
            "ingest.source must exist",
            f"{place} does not",
            "name a CSV, Parquet or .npz file, a folder of data or image files, a glob, or a source card (.yaml)",
        )
    _check(found_files)
    return found_files


def portable(path: Path, root: Path) -> str:
    """A path that is the same on another machine."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def refuse_pattern(source: Path, pattern: str | None) -> None:
    """Raise :class:`UsageError` if there is a pattern, for a source that is no folder."""
    if pattern is not None:
        found = f"ingest.pattern = {pattern!r}, but {source} is no folder"
        raise UsageError("ingest.pattern belongs to a source that is a folder", found, "remove ingest.pattern")


def has_tables(folder: Path) -> bool:
    """Whether a folder itself holds CSV or Parquet files."""
    return any(path.suffix.lower() in _SUFFIXES and _visible(path) for path in folder.iterdir())


def _in_folder(folder: Path, pattern: str | None) -> list[Path]:
    if pattern is not None:
        return matching(folder, pattern)
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES and _visible(path)]
    if not found:
        way_out = "put .csv or .parquet files there, or name others with ingest.pattern"
        raise UsageError("a source folder must hold data files", f"none in {folder}", way_out)
    return found


def matching(folder: Path, pattern: str) -> list[Path]:
    """The visible files in a folder that a glob matches, sorted; at least one. Raises :class:`UsageError`."""
    try:
        found = sorted(path for path in folder.glob(pattern) if path.is_file() and _visible(path))
    except (ValueError, NotImplementedError) as error:  # empty, absolute, or `**` inside a name
        raise UsageError("ingest.pattern must be a glob", f"{pattern!r}: {error}", "for example 2013-*.csv") from error
    if not found:
        there = f"{folder} holds {len(list(folder.iterdir()))} entries" if folder.is_dir() else f"there is no {folder}"
        raise UsageError("a glob must match at least one file", f"{pattern!r} matches none: {there}", "correct it")
    return found


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _split_glob(place: Path) -> tuple[Path, str]:
    """The folder before the first part with a wildcard, and the rest."""
    parts = place.parts
    first = next(index for index, part in enumerate(parts) if _MAGIC & set(part))
    return Path(*parts[:first]), str(Path(*parts[first:]))


def _check(paths: list[Path]) -> None:
    suffixes = sorted({path.suffix.lower() for path in paths})
    unknown = next((path for path in paths if path.suffix.lower() not in _SUFFIXES), None)
    if unknown:
        rule = f"data files end in {' or '.join(_SUFFIXES)}"
        raise UsageError(rule, f"{unknown} does not", "convert it, or narrow ingest.pattern")
    if len(suffixes) > 1:
        found = f"{' and '.join(suffixes)} in {paths[0].parent}"
        raise UsageError("all files of a source must have one format", found, "name one of them with ingest.pattern")
    locked = next((path for path in paths if not os.access(path, os.R_OK)), None)
    if locked:
        raise MachineError("a source file must be readable", f"{locked} is not", "allow this user to read it")
