"""The room `retrain`: what new data are compared for, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import files
from tasks.core.settings import Retrain
from tasks.retrain import Decision, New, profile, retrain

START = datetime(2020, 1, 1, tzinfo=UTC)
ROWS_A_DAY = 100
MONTH = 30


def snapshot(folder: Path, days: int, as_of: int | None = None, timed: bool = True, **columns: Any) -> Path:
    """Output of `ingest` up to a day, with a number, a text and a target; ``columns``: name -> values, to replace."""
    count = days * ROWS_A_DAY
    draw = np.random.default_rng(days)
    times = [START + timedelta(days=row // ROWS_A_DAY, minutes=row % ROWS_A_DAY) for row in range(count)]
    given: dict[str, Any] = {"when": times, "x": draw.normal(size=count), "c": draw.choice(["a", "b"], count)}
    given |= {"y": draw.integers(0, 2, count)} | columns
    types = {"when": "timestamp", "x": "float64", "c": "string", "y": "int64"}
    kept = {name: values for name, values in given.items() if values is not None}
    folder.mkdir()
    pq.write_table(pa.table(kept), folder / "rows.parquet")
    moment = (START + timedelta(days=as_of or days)).isoformat() if timed else None
    facts = {"columns": {name: types.get(name, "float64") for name in kept}, "rows": count, "content_hash": str(days)}
    files.write_json(folder / "manifest.json", {"facts": {**facts, "as_of": moment}})
    return folder


def decided(folder: Path, last: dict[str, Any] | None, forced: bool = False, because: str | None = None,
            timed: bool = True, **rules: Any) -> Decision:  # fmt: skip
    column = "when" if timed else None
    new = New(folder, profile(folder, column), column, {"x", "c", "y", "z"})
    when = datetime.fromisoformat(new.summary["as_of"]) if timed else START + timedelta(days=MONTH)
    return retrain(new, last, when, Retrain(**rules), forced, because)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = snapshot(tmp_path_factory.mktemp("last") / "ingest", 2 * MONTH)
    return {"when": (START + timedelta(days=2 * MONTH)).isoformat(), "snapshot": profile(folder, "when")}


def test_the_first_run_trains(tmp_path: Path) -> None:
    found = decided(snapshot(tmp_path / "ingest", 2), None)
    assert (found.word, found.reason) == ("TRAIN", "the first run")


def test_new_rows_that_look_like_the_old_ones_are_no_reason(tmp_path: Path, last: dict[str, Any]) -> None:
    folder = snapshot(tmp_path / "ingest", 3 * MONTH)
    found = decided(folder, last, max_age_days=None, min_new_share=None)
    assert found.word == "NOTHING"
    assert {one.word for one in found.findings} == {"fine"}


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"min_new_share": None}, "age: the last accepted run is 30.0 days old"),
        ({"max_age_days": None}, "volume: 50% more rows"),
    ],
)
def test_age_and_volume_are_reasons(tmp_path: Path, last: dict[str, Any], rules: Any, reason: str) -> None:
    found = decided(snapshot(tmp_path / "ingest", 3 * MONTH), last, **rules)
    assert (found.word, found.reason) == ("TRAIN", reason)


def test_a_shift_of_the_new_rows_is_a_reason_and_a_large_one_is_broken_data(
    tmp_path: Path, last: dict[str, Any]
) -> None:
    count, new = 3 * MONTH * ROWS_A_DAY, slice(2 * MONTH * ROWS_A_DAY, None)
    x = np.random.default_rng(1).normal(size=count)
    x[new] += 1.0
    folder = snapshot(tmp_path / "ingest", 3 * MONTH, x=x)
    found = decided(folder, last, max_age_days=None, min_new_share=None)
    assert found.word == "TRAIN"
    assert found.reason.startswith("drift: `x`: ")
    broken = decided(folder, last, max_shift=0.25)
    assert broken.word == "BROKEN"
    forced = decided(folder, last, forced=True, max_shift=0.25)
    assert forced.word == "TRAIN"
    assert "in spite of" in forced.reason


@pytest.mark.parametrize(
    ("columns", "days", "as_of", "rules", "told"),
    [
        ({"x": None}, 90, 90, {}, "`x` is gone"),
        ({"z": np.zeros(9000)}, 90, 90, {}, "`z` is new"),
        ({}, 61, 90, {}, "100 new rows in 30.0 days; usual are 100 a day"),
        ({}, 50, 90, {}, "1,000 rows before 2020-03-01T00:00:00+00:00 are gone"),
        ({}, 85, 90, {"max_stale_days": 2.0}, "max_stale_days allows 2"),
    ],
)
def test_data_that_are_not_what_they_were_are_refused(
    tmp_path: Path, last: dict[str, Any], columns: Any, days: int, as_of: int, rules: Any, told: str
) -> None:
    found = decided(snapshot(tmp_path / "ingest", days, as_of, **columns), last, **rules)
    assert found.word == "BROKEN"
    assert told in found.reason


def test_a_source_without_times_is_compared_as_a_whole(tmp_path: Path) -> None:
    first = snapshot(tmp_path / "first", MONTH, timed=False)
    before = {"when": START.isoformat(), "snapshot": profile(first, None)}
    shrunk = decided(snapshot(tmp_path / "shrunk", 2, timed=False), before, timed=False)
    assert (shrunk.word, shrunk.reason) == ("BROKEN", "200 rows, 3,000 before")
    same = decided(first, before, timed=False, max_age_days=31.0)
    assert same.word == "NOTHING"
    asked = decided(first, before, because="drift that monitor saw", timed=False, max_age_days=None)
    assert (asked.word, asked.reason) == ("TRAIN", "drift that monitor saw")
