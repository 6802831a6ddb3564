"""`ingest.as_of`: a snapshot of a source that grows, and splits that are counted back from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.core.errors import SettingsError, UsageError
from tasks.core.manifest import Manifest
from tasks.core.settings import parse
from tasks.core.stage import run_stage

FIRST = datetime(2020, 1, 1, tzinfo=UTC)
ROLLING = {"by": "time", "column": "t", "validation_days": 10, "test_days": 10, "fresh_days": 10}


def source(root: Path, days: int) -> None:
    """A row a day, none of whose columns says which file it is in; and one without a time."""
    lines = [f"{(FIRST + timedelta(days=day)).isoformat()},{day},{(day // 2) % 2}" for day in range(days)]
    (root / "rows.csv").write_text("\n".join(["t,x,late", *lines, ",0,1", ""]))
    (root / "suite.yaml").write_text("checks: []\n")


def raw(split: dict[str, Any] | None = None, **ingest: Any) -> dict[str, Any]:
    return {
        "base": {"name": "tiny", "target": "late"},
        "ingest": {"source": "rows.csv", **ingest},
        "validate": {"suite": "suite.yaml", "split": split or {"by": "random"}, "calibration_rows": 16},
    }


def ingest(root: Path, as_of: str, **settings: Any) -> Manifest:
    return run_stage("ingest", parse(raw(as_of=as_of, **({"time_column": "t"} | settings))), root)


def test_a_snapshot_stays_what_it_is_while_its_source_grows(tmp_path: Path) -> None:
    source(tmp_path, 60)
    before = ingest(tmp_path, "2020-02-01").facts
    assert (before["rows"], before["as_of"]) == (31, "2020-02-01T00:00:00+00:00")
    assert pq.read_table(tmp_path / "artifacts/ingest/rows.parquet")["x"].to_pylist() == list(range(31))
    source(tmp_path, 90)
    assert ingest(tmp_path, "2020-02-01").facts == before
    later = ingest(tmp_path, "2020-02-02T00:00:00+02:00").facts
    assert later["rows"] == 32  # the day's own midnight in UTC comes after the moment that is named, the one before not
    assert later["content_hash"] != before["content_hash"]


@pytest.mark.parametrize(
    ("as_of", "settings", "told"),
    [
        ("2019-12-31", {}, "the first row is of 2020-01-01"),
        ("2020-01-01", {}, "the first row is of 2020-01-01"),
        ("9999-01-01", {}, "is yet to come"),
        ("2020-02-01", {"time_column": "x"}, "`x` holds int64 values"),
        ("2020-02-01", {"time_column": "when"}, "no column `when`"),
    ],
)
def test_a_moment_that_cannot_cut_is_refused(tmp_path: Path, as_of: str, settings: dict[str, Any], told: str) -> None:
    source(tmp_path, 40)
    with pytest.raises(UsageError, match=told):
        ingest(tmp_path, as_of, **settings)
    assert not (tmp_path / "artifacts/ingest").exists()


@pytest.mark.parametrize(
    ("split", "ingest", "told"),
    [
        (None, {"as_of": "2020-02-01"}, "`time_column` names"),
        (None, {"as_of": "soon", "time_column": "t"}, "ingest.as_of"),
        (ROLLING, {"time_column": "t"}, "set it"),
        ({**ROLLING, "test_days": None}, {"time_column": "t", "as_of": "2020-02-01"}, "needs `validation_days`"),
        (
            {**ROLLING, "fresh_from": "2020-01-20"},
            {"time_column": "t", "as_of": "2020-02-01"},
            "either moments or days",
        ),
        ({"by": "time", "column": "t", "test_from": "2020-01-20"}, {}, "needs `validation_from`"),
        ({**ROLLING, "fresh_days": 0}, {"time_column": "t", "as_of": "2020-02-01"}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(split: Any, ingest: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        parse(raw(split, **ingest))


def test_a_split_by_days_follows_the_snapshot(tmp_path: Path) -> None:
    source(tmp_path, 120)
    counts = {}
    for as_of in ("2020-03-01", "2020-04-01"):
        params = parse(raw(ROLLING, time_column="t", as_of=as_of))
        run_stage("ingest", params, tmp_path)
        facts = run_stage("validate", params, tmp_path).facts
        counts[as_of] = facts["rows"]
        assert facts["as_of"] == f"{as_of}T00:00:00+00:00"
    assert facts["split"] == {
        "by": "time", "column": "t", "validation_from": "2020-03-02T00:00:00Z", "test_from": "2020-03-12T00:00:00Z",
        "fresh_from": "2020-03-22T00:00:00Z", "validation_days": None, "test_days": None, "fresh_days": None,
    }  # fmt: skip
    assert [counts["2020-04-01"][part] for part in ("train", "validation", "test", "fresh")] == [61, 10, 10, 10]
    assert [counts["2020-03-01"][part] for part in ("train", "validation", "test", "fresh")] == [30, 10, 10, 10]
