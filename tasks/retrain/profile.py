"""What a snapshot looks like in a few numbers: enough to tell later whether new rows still look like it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core import files, manifest

if TYPE_CHECKING:
    import pyarrow as pa

_BINS = 10
_VALUES = 30
_NUMBERS = ("int64", "float64")


def profile(folder: Path, time_column: str | None) -> dict[str, Any]:
    """Summary of `ingest`'s output, of JSON values.

    Keys: ``columns`` (name -> type), ``rows``, ``content_hash``, ``as_of``, ``oldest`` and ``newest`` (ISO 8601; null
    without a time column), ``shapes``: column -> ``edges`` (numbers; inner limits of the deciles) or ``values`` (the
    30 most frequent, as text), and ``shares`` of the rows in each bin, then of the rest, then of missing ones.
    """
    import pyarrow.compute as pc

    facts = files.read_json(folder / manifest.NAME)["facts"]
    types: dict[str, str] = facts["columns"]
    ends = pc.min_max(column(folder, time_column)).as_py() if time_column else {"min": None, "max": None}
    shapes = {}
    for name, kind in types.items():
        if kind != "timestamp":
            values = column(folder, name)
            bins = _bins(values, kind)
            shapes[name] = {**bins, "shares": _shares(values, bins)}
    return {
        "columns": types,
        "rows": facts["rows"],
        "content_hash": facts["content_hash"],
        "as_of": facts["as_of"],
        "oldest": _iso(ends["min"]),
        "newest": _iso(ends["max"]),
        "shapes": shapes,
    }


def column(folder: Path, name: str) -> pa.ChunkedArray:
    """One column of a snapshot."""
    import pyarrow.parquet as pq

    return pq.read_table(folder / "rows.parquet", columns=[name]).column(0)


def counts(values: pa.ChunkedArray, bins: dict[str, Any]) -> np.ndarray:
    """Rows in each bin of ``edges`` or ``values``, then the rest, then missing ones: int64 [bins + 2]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    present = values.drop_null()
    if "edges" in bins:
        numbers = present.cast(pa.float64()).to_numpy()
        place = np.searchsorted(bins["edges"], numbers, side="right")
        size = len(bins["edges"]) + 1
    else:
        size = len(bins["values"])
        found = pc.index_in(present.cast(pa.string()), value_set=pa.array(bins["values"], pa.string()))
        place = pc.fill_null(found, size).to_numpy()
    return np.append(np.bincount(place, minlength=size + 1), values.null_count)


def _bins(values: pa.ChunkedArray, kind: str) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind in _NUMBERS:
        numbers = values.drop_null().cast(pa.float64()).to_numpy()
        inner = np.linspace(0, 1, _BINS + 1)[1:-1]
        return {"edges": np.unique(np.quantile(numbers, inner)).tolist() if len(numbers) else []}
    frequent = sorted(pc.value_counts(values.drop_null().cast(pa.string())).to_pylist(), key=_most_frequent_first)
    return {"values": [one["values"] for one in frequent[:_VALUES]]}


def _most_frequent_first(one: dict[str, Any]) -> tuple[int, str]:
    return -one["counts"], one["values"]


def _shares(values: pa.ChunkedArray, bins: dict[str, Any]) -> list[float]:
    shares: list[float] = (counts(values, bins) / max(1, len(values))).tolist()
    return shares


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat()
