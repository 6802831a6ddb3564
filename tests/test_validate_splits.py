"""Properties of every kind of split, for many seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from validate_world import START, days

from tasks.core.splitting import Split
from tasks.validate.snapshot import Snapshot
from tasks.validate.splits import ASIDE, TEST, TRAIN, VALIDATION, assign, draw_calibration
from tasks.validate.target import Target

FRESH = 3
ROWS = 1000
KINDS: dict[str, dict[str, Any]] = {
    "time": {"column": "t", "validation_from": "2021-06-01", "test_from": "2022-01-01", "fresh_from": "2022-07-01"},
    "random": {"validation": 0.15, "test": 0.2},
    "stratified": {"validation": 0.15, "test": 0.2},
    "group": {"column": "g", "validation": 0.15, "test": 0.2},
    "predefined": {"column": "p"},
}


def split_of(kind: str, **changes: Any) -> Any:
    return TypeAdapter(Split).validate_json(json.dumps({"by": kind} | KINDS[kind] | changes))


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    names = ["train", "validation", "test", "fresh"]
    table = pa.table(
        {
            "t": pa.array(days(ROWS), pa.timestamp("us", tz="UTC")),
            "g": [f"group {(i * 7919) % 50}" for i in range(ROWS)],
            "p": [names[i % 4] for i in range(ROWS)],
        }
    )
    return at(tmp_path / "rows.parquet", table)


def at(path: Path, table: pa.Table) -> Snapshot:
    pq.write_table(table, path, row_group_size=128)
    return Snapshot(path, dict.fromkeys(table.column_names, "string"), len(table), "")


KEEP = np.arange(ROWS) % 10 != 3
TARGET = Target((np.arange(ROWS) % 4 == 0).astype(np.int8), (0, 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(5))
def test_every_kept_row_is_in_one_part_and_the_same_one_again(snapshot: Snapshot, kind: str, seed: int) -> None:
    parts = assign(split_of(kind), snapshot, KEEP, TARGET, seed)
    assert ((parts == ASIDE) == ~KEEP).all()
    assert {VALIDATION, TEST, TRAIN} <= set(parts[KEEP].tolist())
    assert (parts == assign(split_of(kind), snapshot, KEEP, TARGET, seed)).all()


@pytest.mark.parametrize(("kind", "differs"), [("time", False), ("random", True), ("stratified", True), ("group", True),
                                               ("predefined", False)])  # fmt: skip
def test_the_seed_matters_where_something_is_random(snapshot: Snapshot, kind: str, differs: bool) -> None:
    one, other = (assign(split_of(kind), snapshot, KEEP, TARGET, seed) for seed in (1, 2))
    assert (one != other).any() == differs


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_exact_where_rows_are_drawn(snapshot: Snapshot, seed: int) -> None:
    parts = assign(split_of("random"), snapshot, KEEP, TARGET, seed)
    assert np.bincount(parts[KEEP]).tolist() == [585, 135, 180]
    parts = assign(split_of("stratified"), snapshot, KEEP, TARGET, seed)
    for code in (0, 1):
        rows = KEEP & (TARGET.codes == code)
        sizes = np.bincount(parts[rows])
        assert sizes[VALIDATION] == int(rows.sum() * 0.15 + 0.5)
        assert sizes[TEST] == int(rows.sum() * 0.2 + 0.5)


@pytest.mark.parametrize("seed", range(10))
def test_no_group_is_in_two_parts_and_shares_are_near(snapshot: Snapshot, seed: int) -> None:
    parts = assign(split_of("group"), snapshot, KEEP, TARGET, seed)
    groups = np.array(snapshot.column("g").to_pylist())
    members = [set(groups[parts == part]) for part in (TRAIN, VALIDATION, TEST)]
    assert not (members[0] & members[1] | members[0] & members[2] | members[1] & members[2])
    largest = max(np.unique(groups[KEEP], return_counts=True)[1])
    assert abs((parts == VALIDATION).sum() - 0.15 * KEEP.sum()) <= largest
    assert abs((parts == TEST).sum() - 0.2 * KEEP.sum()) <= largest


def test_groups_go_where_they_go_whatever_the_order_of_the_rows(tmp_path: Path, snapshot: Snapshot) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    shuffled = at(tmp_path / "shuffled.parquet", pq.read_table(snapshot.path).take(order))
    whole = np.ones(ROWS, dtype=bool)
    parts = assign(split_of("group"), snapshot, whole, TARGET, 3)
    groups = snapshot.column("g").to_pylist()
    where = dict(zip(groups, parts.tolist(), strict=True))
    again = assign(split_of("group"), shuffled, whole, TARGET, 3)
    assert dict(zip(shuffled.column("g").to_pylist(), again.tolist(), strict=True)) == where


def test_time_puts_each_boundary_first_and_keeps_ties_together(tmp_path: Path) -> None:
    hours = [0, 23, 24, 24, 24, 47, 48, 48, 72, 90]
    table = pa.table({"t": pa.array([START.timestamp() * 1e6 + h * 3600e6 for h in hours]).cast("int64")})
    table = pa.table({"t": table["t"].cast(pa.timestamp("us", tz="UTC"))})
    where = at(tmp_path / "rows.parquet", table)
    keep, target = np.ones(10, dtype=bool), Target(np.zeros(10, dtype=np.int8), (0, 1))
    expected = [0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    plain = {"validation_from": "2020-01-02", "test_from": "2020-01-03", "fresh_from": "2020-01-04"}
    zoned = {
        "validation_from": "2020-01-02T00:00:00",
        "test_from": "2020-01-03T05:00:00+05:00",
        "fresh_from": "2020-01-03T19:00:00-05:00",
    }
    for boundaries in (plain, zoned):
        assert assign(split_of("time", **boundaries), where, keep, target, 0).tolist() == expected
    two = assign(split_of("time", **(plain | {"fresh_from": None})), where, keep, target, 0)
    assert two.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_predefined_goes_by_name(snapshot: Snapshot) -> None:
    parts = assign(split_of("predefined"), snapshot, KEEP, TARGET, 0)
    assert (parts[KEEP] == (np.arange(ROWS) % 4)[KEEP]).all()


@pytest.mark.parametrize("count", [1, 16, 585])
def test_calibration_is_exactly_so_many_rows_of_train_seeded(snapshot: Snapshot, count: int) -> None:
    parts = assign(split_of("random"), snapshot, KEEP, TARGET, 0)
    drawn = draw_calibration(parts, count, 7)
    assert drawn.sum() == count
    assert (parts[drawn] == TRAIN).all()
    assert (drawn == draw_calibration(parts, count, 7)).all()
    if count == 16:
        assert (drawn != draw_calibration(parts, count, 8)).any()
