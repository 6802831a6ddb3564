"""New data against the last accepted snapshot: schema, volume, freshness, distribution."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.core.settings import Retrain
from tasks.retrain.profile import column, counts

#: Below this many new rows a shift is noise.
MIN_ROWS = 1000
_P = 0.001
_DAY = 86_400.0


@dataclass(frozen=True)
class Finding:
    """What one comparison found: ``failed`` refuses the data, ``shifted`` is a reason to train."""

    what: str
    word: Literal["fine", "note", "shifted", "failed"]
    found: str
    way_out: str = ""

    def as_json(self) -> dict[str, str]:
        """Of JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class New:
    """The new snapshot.

    Attributes:
        folder: output of `ingest`.
        summary: its profile.
        time_column: by which the source grows; None if nothing tells.
        read: columns whose shifts count: what the model reads, and the target.
    """

    folder: Path
    summary: Mapping[str, Any]
    time_column: str | None
    read: Collection[str]


def compare(new: New, last: Mapping[str, Any] | None, rules: Retrain) -> list[Finding]:
    """Every finding, the worst not first; ``last`` is the profile of the last accepted snapshot, if there is one."""
    found = list(_fresh(new, rules))
    if last is None:
        return found
    if backwards := _moment(new, last):
        return [*found, backwards]
    if broken := _schema(new.summary["columns"], last["columns"]):
        return [*found, broken]
    taken = _new_rows(new, last)
    found += [Finding("schema", "fine", f"the same {len(last['columns'])} columns"), *_volume(new, last, taken, rules)]
    return found + list(_shifts(new, last, taken, rules))


def new_rows(new: New, last: Mapping[str, Any] | None) -> int:
    """How many rows came since the last accepted snapshot."""
    if last is None:
        return int(new.summary["rows"])
    return int(_new_rows(new, last).sum()) if _cut(new, last) else int(new.summary["rows"] - last["rows"])


def _cut(new: New, last: Mapping[str, Any]) -> datetime | None:
    """Where new rows begin, if times tell."""
    return datetime.fromisoformat(last["as_of"]) if new.time_column and last["as_of"] else None


def _new_rows(new: New, last: Mapping[str, Any]) -> np.ndarray:
    """bool [rows]; all rows where nothing tells which are new."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cut = _cut(new, last)
    if cut is None or new.time_column is None:
        return np.ones(new.summary["rows"], np.bool_)
    later = pc.greater_equal(column(new.folder, new.time_column), pa.scalar(cut, pa.timestamp("us", "UTC")))
    return np.asarray(later.to_numpy())


def _moment(new: New, last: Mapping[str, Any]) -> Finding | None:
    as_of, cut = new.summary["as_of"], _cut(new, last)
    if cut is None or datetime.fromisoformat(as_of) >= cut:
        return None
    found = f"the snapshot is of {as_of}, which is before the last accepted one, of {cut.isoformat()}"
    return Finding("moment", "failed", found, "set the clock right, or give a later --as-of")


def _schema(now: Mapping[str, str], before: Mapping[str, str]) -> Finding | None:
    said = [f"`{name}` is gone" for name in before if name not in now]
    said += [f"`{name}` is new" for name in now if name not in before]
    said += [f"`{name}` was {before[name]}, now {kind}" for name, kind in now.items() if before.get(name, kind) != kind]
    way_out = "restore the source; or, if the change is meant, adapt params and suite, and `assay retrain --force`"
    return Finding("schema", "failed", "; ".join(said), way_out) if said else None


def _fresh(new: New, rules: Retrain) -> Iterator[Finding]:
    as_of, newest = new.summary["as_of"], new.summary["newest"]
    if as_of is None or newest is None:
        return
    days = (datetime.fromisoformat(as_of) - datetime.fromisoformat(newest)).total_seconds() / _DAY
    late = rules.max_stale_days is not None and days > rules.max_stale_days
    found = f"the newest row is {days:.1f} days older than the snapshot's moment"
    if late:
        found += f"; retrain.max_stale_days allows {rules.max_stale_days:g}"
    way_out = "find out why no newer rows came" if late else ""
    yield Finding("freshness", "failed" if late else "fine", found, way_out)


def _volume(new: New, last: Mapping[str, Any], taken: np.ndarray, rules: Retrain) -> Iterator[Finding]:
    cut = _cut(new, last)
    rows, before = int(new.summary["rows"]), int(last["rows"])
    if cut is None:
        lost = rows < rules.min_volume * before
        word: Literal["fine", "failed"] = "failed" if lost else "fine"
        yield Finding("volume", word, f"{rows:,} rows, {before:,} before", "restore the source" if lost else "")
        return
    old, came = int((~taken).sum()), int(taken.sum())
    if old < before:
        way_out = "a source that grows loses no rows: restore it; or `assay retrain --force` if they are meant to go"
        yield Finding("history", "failed", f"{before - old:,} rows before {cut.isoformat()} are gone", way_out)
    elif old > before:
        yield Finding("history", "note", f"{old - before:,} rows before {cut.isoformat()} came late")
    days = (datetime.fromisoformat(new.summary["as_of"]) - cut).total_seconds() / _DAY
    usual = before * _DAY / max(_span(last), _DAY)
    few = days > 0 and came < rules.min_volume * usual * days
    found = f"{came:,} new rows in {days:.1f} days; usual are {usual:,.0f} a day"
    way_out = "find out why so few came, or lower retrain.min_volume" if few else ""
    yield Finding("volume", "failed" if few else "fine", found, way_out)


def _span(last: Mapping[str, Any]) -> float:
    """Seconds that a snapshot covers."""
    if last["oldest"] is None:
        return _DAY
    return (datetime.fromisoformat(last["as_of"]) - datetime.fromisoformat(last["oldest"])).total_seconds()


def _shifts(new: New, last: Mapping[str, Any], taken: np.ndarray, rules: Retrain) -> Iterator[Finding]:
    import pyarrow as pa

    rows = int(taken.sum())
    if rows < MIN_ROWS:
        yield Finding("distribution", "note", f"{rows:,} new rows are too few to compare: {MIN_ROWS:,} are needed")
        return
    shifted = False
    for name, shape in last["shapes"].items():
        if name not in new.read:
            continue
        seen = counts(column(new.folder, name).filter(pa.array(taken)), shape)
        distance, certain = _distance(seen, np.asarray(shape["shares"]), int(last["rows"]))
        if not certain or distance < rules.min_shift:
            continue
        shifted, broken = True, distance > rules.max_shift
        found = f"`{name}`: {distance:.0%} of the new values lie elsewhere"
        way_out = "correct the source; or raise retrain.max_shift, or `assay retrain --force`, if the world changed"
        yield Finding("distribution", "failed" if broken else "shifted", found, way_out if broken else "")
    if not shifted:
        yield Finding("distribution", "fine", f"{rows:,} new rows look like the ones before")


def _distance(seen: np.ndarray, shares: np.ndarray, rows: int) -> tuple[float, bool]:
    """Total variation between new rows (counts) and old ones (shares of ``rows``), and whether chance is ruled out."""
    from scipy.stats import chi2_contingency

    distance = float(np.abs(seen / seen.sum() - shares).sum() / 2)
    table = np.stack([seen, np.rint(shares * rows)])
    table = table[:, table.sum(axis=0) > 0]
    return distance, table.shape[1] > 1 and bool(chi2_contingency(table).pvalue < _P)
