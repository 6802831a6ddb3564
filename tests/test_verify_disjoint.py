"""What splits may share: nothing, but for a little content."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import worlds

from tasks.core.errors import IntegrityError
from tasks.core.measured import Measured
from tasks.core.tensors import to_arrow
from tasks.verify import disjoint

FACTS: dict[str, Any] = {"target": worlds.TARGET, "task": "binary", "tensors": {}, "split": {"by": "random"}}
SIZES = {"train": 800, "validation": 200, "test": 200}
ROWS, GROUPS, CALIBRATION = "row numbers", "groups of g", "rows of calibration"
EQUAL, NEAR = (f"test rows {how} equal to one of train or validation".replace("  ", " ") for how in ("", "nearly"))


def parts(table: pa.Table | None = None) -> dict[str, pa.Table]:
    """The splits of a table, in order."""
    table = worlds.rows(1200) if table is None else table
    numbered = table.add_column(0, "row", pa.array(np.arange(table.num_rows)))
    found, start = {}, 0
    for name, size in SIZES.items():
        found[name] = numbered.slice(start, size)
        start += size
    return found | {"calibration": found["train"].slice(10, 50)}


def measured(folder: Path, tables: Mapping[str, pa.Table], **facts: Any) -> dict[str, Measured]:
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=300)
    return {line.name: line for line in disjoint.measure(folder, FACTS | facts)}


def broken(lines: Mapping[str, Measured]) -> set[str]:
    """Names of the lines that would fail."""
    return {
        name
        for name, line in lines.items()
        if line.problems or (line.loss is not None and line.loss > line.margin)  # type: ignore[operator]
    }


def renumbered(table: pa.Table, first: int = 10_000) -> pa.Table:
    """The rows with other numbers."""
    return table.set_column(0, "row", pa.array(np.arange(first, first + table.num_rows)))


def test_honest_splits_share_nothing(tmp_path: Path) -> None:
    found = measured(tmp_path, parts())
    assert set(found) == {ROWS, CALIBRATION, EQUAL, NEAR}
    assert broken(found) == set()
    assert found[EQUAL].loss == found[NEAR].loss == 0
    assert all((line.kind, line.fails_as) == ("data", "ANOMALOUS") for line in found.values())


def test_train_rows_in_test(tmp_path: Path) -> None:
    tables = parts()
    tables["test"] = pa.concat_tables([tables["test"], tables["train"].slice(0, 3)])
    found = measured(tmp_path, tables)
    assert found[ROWS].problems == ("train and test share 3 rows",)
    assert found[EQUAL].loss == pytest.approx(3 / 203)
    assert broken(found) == {ROWS, EQUAL, NEAR}


def test_validation_rows_in_train(tmp_path: Path) -> None:
    tables = parts()
    tables["train"] = pa.concat_tables([tables["train"], tables["validation"].slice(0, 1)])
    assert measured(tmp_path, tables)[ROWS].problems == ("train and validation share 1 rows",)


def test_duplicated_test_rows(tmp_path: Path) -> None:
    tables = parts()
    tables["test"] = pa.concat_tables([tables["test"], tables["test"].slice(0, 2)])
    found = measured(tmp_path, tables)
    assert found[ROWS].problems == ("test holds 2 rows more than once",)
    assert "2 rows repeat another one" in found[EQUAL].note


def test_calibration_on_test_rows(tmp_path: Path) -> None:
    tables = parts()
    tables["calibration"] = tables["test"].slice(0, 7)
    problems = measured(tmp_path, tables)[CALIBRATION].problems
    assert problems == ("7 rows of calibration are rows of test", "7 rows of calibration are none of train")


def test_calibration_on_validation_rows(tmp_path: Path) -> None:
    tables = parts()
    tables["calibration"] = tables["validation"].slice(0, 7)
    assert measured(tmp_path, tables)[CALIBRATION].problems == ("7 rows of calibration are none of train",)


def grouped() -> dict[str, pa.Table]:
    return parts(worlds.rows(1200).append_column("g", pa.array([f"group {row // 10}" for row in range(1200)])))


@pytest.mark.parametrize("split", [{"by": "group", "column": "g"}, {"by": "predefined", "column": "p", "group": "g"}])
def test_a_group_in_two_splits(tmp_path: Path, split: dict[str, str]) -> None:
    tables = grouped()
    assert broken(measured(tmp_path, tables, split=split)) == set()
    last = tables["test"].num_columns - 1
    names = ["group 3", *tables["test"]["g"].to_pylist()[1:]]
    tables["test"] = tables["test"].set_column(last, "g", pa.array(names))
    found = measured(tmp_path, tables, split=split)
    assert found[GROUPS].problems == ("train and test share 1 groups of g",)
    assert broken(found) == {GROUPS}


def test_groups_that_cannot_be_told_apart_are_not_taken_for_disjoint(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="has no column g"):
        measured(tmp_path, parts(), split={"by": "group", "column": "g"})


def test_some_equal_rows_are_honest_and_many_are_not(tmp_path: Path) -> None:
    tables = parts()
    twins = {count: renumbered(tables["train"].slice(0, count)) for count in (1, 30)}
    one = measured(tmp_path, tables | {"test": pa.concat_tables([tables["test"], twins[1]])})
    assert (one[EQUAL].loss, broken(one)) == (pytest.approx(1 / 201), set())
    many = measured(tmp_path, tables | {"test": pa.concat_tables([tables["test"], twins[30]])})
    assert (many[EQUAL].loss, broken(many)) == (pytest.approx(30 / 230), {EQUAL, NEAR})


def test_near_duplicates_beyond_the_limit(tmp_path: Path) -> None:
    """Floats moved by a millionth, and the other label: equal to nobody, and known all the same."""
    tables = parts()
    twins = renumbered(tables["train"].slice(0, 100))
    for name in ("distance", "pressure"):
        moved = pa.array([None if v is None else v * (1 + 1e-6) for v in twins[name].to_pylist()], pa.float64())
        twins = twins.set_column(twins.schema.get_field_index(name), name, moved)
    labels = pa.array(1 - twins[worlds.TARGET].to_numpy())
    twins = twins.set_column(twins.schema.get_field_index(worlds.TARGET), worlds.TARGET, labels)
    found = measured(tmp_path, tables | {"test": pa.concat_tables([tables["test"], twins])})
    assert broken(found) == {NEAR}
    assert found[EQUAL].loss == 0
    assert found[NEAR].loss is not None
    assert 0.28 < found[NEAR].loss <= 100 / 300  # a few fall on the other side of a rounding step


def test_missing_and_zero_are_not_the_same(tmp_path: Path) -> None:
    tables = parts(pa.table({"a": pa.array([0.0] * 800 + [None] * 400), worlds.TARGET: pa.array([1] * 1200)}))
    tables["validation"] = renumbered(tables["train"].slice(0, 5))
    assert measured(tmp_path, tables)[NEAR].loss == 0


def pictures(count: int = 1200) -> tuple[pa.Table, dict[str, Any]]:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 200, (count, 1, 7, 7)).repeat(4, axis=2).repeat(4, axis=3)
    pixels = (coarse + random.integers(0, 20, coarse.shape)).astype(np.uint8)
    table = pa.table({"x": to_arrow(pixels), worlds.TARGET: pa.array(random.integers(0, 2, count))})
    return table, {"x": {"dtype": "uint8", "shape": [1, 28, 28]}}


def test_pictures_with_a_pixel_changed_are_near_duplicates(tmp_path: Path) -> None:
    table, tensors = pictures()
    tables = parts(table)
    assert broken(measured(tmp_path, tables, tensors=tensors)) == set()
    twins = renumbered(tables["train"].slice(0, 50))
    pixels = np.frombuffer(b"".join(twins["x"].to_pylist()), np.uint8).reshape(50, 1, 28, 28).copy()
    pixels[:, 0, 5, 5] += 1
    twins = twins.set_column(1, "x", to_arrow(pixels))
    found = measured(tmp_path, tables | {"test": pa.concat_tables([tables["test"], twins])}, tensors=tensors)
    assert broken(found) == {NEAR}
    assert found[EQUAL].loss == 0
    assert found[NEAR].loss is not None
    assert found[NEAR].loss > 0.9 * 50 / 250


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (5,)), ("float32", (128,)), ("int64", (4,))])
def test_short_arrays_signals_and_codes_are_told_apart(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    values = (1000 * random.normal(size=(1200, *shape))).astype(dtype)
    tables = parts(pa.table({"x": to_arrow(values), worlds.TARGET: pa.array(np.zeros(1200))}))
    tensors = {"x": {"dtype": dtype, "shape": list(shape)}}
    assert measured(tmp_path, tables, tensors=tensors)[NEAR].loss == 0
    tables["test"] = renumbered(tables["train"].slice(0, 20))
    assert measured(tmp_path, tables, tensors=tensors)[NEAR].loss == 1


def test_a_hash_does_not_depend_on_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = parts()
    tables["test"] = renumbered(tables["train"].slice(100, 200))
    monkeypatch.setattr(disjoint, "_BATCH_ROWS", 17)
    found = measured(tmp_path, tables)
    assert found[EQUAL].loss == found[NEAR].loss == 1


def test_ranked_items_have_no_near_duplicates_and_histories_are_no_content(tmp_path: Path) -> None:
    tables = parts()
    history = pa.array([[1, 2]] * 200)
    tables["test"] = tables["test"].append_column("history", history)
    found = measured(tmp_path, tables, task="ranking")
    assert NEAR not in found
    assert broken(found) == set()


def test_a_split_that_is_cut_short_is_a_clear_error(tmp_path: Path) -> None:
    measured(tmp_path, parts())
    data = (tmp_path / "test.parquet").read_bytes()
    (tmp_path / "test.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="whole Parquet file"):
        disjoint.measure(tmp_path, FACTS)
