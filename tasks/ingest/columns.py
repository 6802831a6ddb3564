"""What must hold for the columns of a source before any row is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.core.errors import DataRejected
from tasks.core.sections import nearest

#: The next stage puts each row's index into a column of this name.
RESERVED = "row"
_SHOWN = 5


def check_names(names: Sequence[str], file: str) -> None:
    """Column names must be there, distinct and free.

    Raises:
        DataRejected: naming every column that is not.
    """
    if not names:
        raise DataRejected("a table must have columns", f"{file} has none", "check how the file was written")
    repeated = [f"`{name}` ({count} times)" for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataRejected("column names must be distinct", f"{file}: {', '.join(repeated)}", "rename all but one")
    blank = [str(place) for place, name in enumerate(names, 1) if not name.strip()]
    if blank:
        found = f"{file}: no name for column {', '.join(blank)}"
        raise DataRejected("every column must have a name", found, "name it in the header, or leave it out")
    if RESERVED in names:
        found = f"{file} has a column `{RESERVED}`"
        raise DataRejected(f"the column name `{RESERVED}` is kept for each row's index", found, "rename the column")


def check_same(headers: Mapping[str, Sequence[str]]) -> None:
    """Every file must have the columns of the first one, in any order.

    Raises:
        DataRejected: naming the files and columns that differ.
    """
    (first, expected), *others = headers.items()
    differences = []
    for file, names in others:
        lacks, adds = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
        said = [f"{verb} {', '.join(which)}" for verb, which in (("lacks", lacks), ("adds", adds)) if which]
        if said:
            differences.append(f"{file} {' and '.join(said)}")
    if differences:
        more = f"; and {len(differences) - _SHOWN} more files" if len(differences) > _SHOWN else ""
        raise DataRejected(
            f"all files of a source must have the columns of the first, {first}",
            "; ".join(differences[:_SHOWN]) + more,
            "give the files the same columns, or name fewer files with ingest.pattern",
        )


def check_present(columns: Mapping[str, str], target: str, given: Mapping[str, str]) -> None:
    """The target, and every column that ``ingest.types`` names, must exist.

    Raises:
        DataRejected: naming the column, and the nearest one that exists.
    """
    if target not in columns:
        found = f"no column `{target}` among {len(columns)} columns"
        raise DataRejected("the source must have the column that base.target names", found, nearest(target, columns))
    for name in given:
        if name not in columns:
            found = f"no column `{name}` among {len(columns)} columns"
            raise DataRejected("ingest.types must name columns of the source", found, nearest(name, columns))
