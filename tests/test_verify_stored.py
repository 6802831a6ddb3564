"""Rows that are read as they are asked for are the rows that a whole table holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.core import original
from tasks.verify import stored
from tasks.verify.stored import Stored


@pytest.fixture
def given(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Stored, original.Original, Path]:
    monkeypatch.setattr(stored, "_BATCH_ROWS", 70)
    path = tiny / "artifacts/validate/test.parquet"
    return Stored(path), original.load(tiny / "artifacts/tune"), path


def test_batches_are_the_rows_in_order(given: tuple[Stored, original.Original, Path]) -> None:
    rows, model, path = given
    whole = pq.read_table(path)
    parts = list(rows.batches())
    assert [len(part) for part in parts] == [70] * 8 + [40]
    assert [row for part in parts for row in part["row"].to_pylist()] == whole["row"].to_pylist()
    labels, answers = stored.asked(model, rows)
    assert labels.tolist() == whole["late"].to_pylist()
    np.testing.assert_allclose(answers, model.predict(whole), atol=1e-6)
    assert rows.column("carrier").equals(whole["carrier"])


def test_a_column_gives_the_rows_that_are_asked_for(given: tuple[Stored, original.Original, Path]) -> None:
    rows, model, path = given
    whole = model.encoder.raw_inputs(pq.read_table(path))
    columns = rows.inputs(model.encoder)
    assert list(columns) == list(whole)
    for name, column in columns.items():
        assert (len(column), column.shape, column.ndim) == (600, whole[name].shape, whole[name].ndim)
        for places in (np.array([5, 3, 599, 3]), np.arange(0), np.arange(600)):
            np.testing.assert_array_equal(column[places], whole[name][places])


def test_no_rows_are_one_batch_without_rows(tiny: Path, tmp_path: Path) -> None:
    whole = pq.read_table(tiny / "artifacts/validate/test.parquet")
    pq.write_table(whole.slice(0, 0), tmp_path / "none.parquet")
    (part,) = Stored(tmp_path / "none.parquet").batches()
    assert part.num_rows == 0
    assert part.schema.equals(whole.schema)
