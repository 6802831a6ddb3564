"""Recent rows of the tiny world, steady and drifted, as logs that its server would have written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import worlds

from deploy.predictor import Predictor
from tasks.monitor.bundle import Champion

START = datetime(2030, 1, 1, tzinfo=UTC)
ROWS = 400


def steady(day: int, count: int = ROWS) -> pa.Table:
    """Rows like those that the model learnt from."""
    return worlds.rows(count, seed=1000 + day)


def drifted(day: int, count: int = ROWS) -> pa.Table:
    """The same with distances in another unit."""
    table = steady(day, count)
    place = table.column_names.index("distance")
    return table.set_column(place, "distance", pc.multiply(table["distance"], 1.609))


def ids(day: int, count: int) -> list[str]:
    return [f"{day}-{row}" for row in range(count)]


def columns(table: pa.Table, champion: Champion) -> dict[str, np.ndarray]:
    def values(column: pa.ChunkedArray) -> np.ndarray:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.float64())
        return np.asarray(column.to_numpy(zero_copy_only=False))

    return champion.signature.tensors({one.name: values(table[one.name]) for one in champion.signature.inputs})


def lines(champion: Champion, table: pa.Table, moment: datetime, names: Sequence[str] | None = None) -> str:
    """A log's lines of rows that were asked at a moment."""
    tensors = columns(table, champion)
    arrays = tensors | Predictor.open(champion.folder, "cpu").predict(tensors)
    places = np.stack([spread.place(arrays[spread.tensor]) for spread in champion.spreads.values()], axis=1)
    head = {"model": "tiny", "version": champion.version, "digest": champion.digest, "spreads": [*champion.spreads]}
    told: list[dict[str, Any]] = [head]
    for row, answer in enumerate(arrays[champion.answer][:, 0].tolist()):
        own = {} if names is None else {"id": names[row]}
        told.append({"time": moment.isoformat(), "bins": places[row].tolist(), "answer": answer, **own})
    return "".join(json.dumps(one) + "\n" for one in told)


def log(folder: Path, champion: Champion, days: Sequence[pa.Table], first: int = 0) -> None:
    """A file for each day."""
    folder.mkdir(exist_ok=True)
    for day, table in enumerate(days, first):
        text = lines(champion, table, START + timedelta(days=day, hours=3), ids(day, table.num_rows))
        (folder / f"predictions-{day:03}.jsonl").write_text(text)


def after(days: float) -> datetime:
    """A moment that much after the first day began, when what had ended is complete."""
    return START + timedelta(days=days, minutes=6)
