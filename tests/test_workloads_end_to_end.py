"""Each family of problems, from a file to a bundle that answers: all six stages, real ones, on a tiny world."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from deploy import bundle, golden
from deploy.predictor import Predictor
from tasks.core import files
from tasks.core.settings import STAGES, parse
from tasks.core.stage import run_stage

ROWS = 1200
TUNE = {"trials": 1, "epochs": 4, "batch_size": 64, "top_k": 1, "precision": "fp32"}


def table(folder: Path, target: Callable[[np.ndarray, np.ndarray], Any]) -> str:
    random = np.random.default_rng(0)
    size, kind = random.normal(size=ROWS), random.integers(0, 3, ROWS)
    moments = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=int(hour)) for hour in random.integers(0, 9000, ROWS)]
    columns = {
        "size": pa.array(size, mask=random.random(ROWS) < 0.1),
        "kind": pa.array(np.array(["a", "b", "c"])[kind]),
        "seen": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "household": pa.array(random.integers(0, 300, ROWS)),
        "answer": pa.array(target(size, kind)),
    }
    pyarrow.csv.write_csv(pa.table(columns), folder / "rows.csv")
    return "rows.csv"


def three_classes(folder: Path) -> dict[str, Any]:
    source = table(folder, lambda size, kind: np.where(size > 0.5, "high", np.where(kind == 0, "low", "middle")))
    return {
        "base": {"target": "answer"},
        "ingest": {"source": source},
        "validate": {"split": {"by": "group", "column": "household", "test": 0.3}},
        "tune": {"class_weights": "balanced", "features": {"min_count": 5}},
    }


def quantity(folder: Path) -> dict[str, Any]:
    source = table(folder, lambda size, kind: 1000 + 50 * size + 20 * kind)
    return {
        "base": {"target": "answer"},
        "ingest": {"source": source},
        "validate": {"split": {"by": "random", "test": 0.3}},
        "tune": {"features": {"min_count": 5}},
        "verify": {"margin": "10%", "max_gain": "50%"},
    }


def images(folder: Path) -> dict[str, Any]:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, ROWS)
    pixels = random.integers(0, 60, (ROWS, 9, 7, 3))
    pixels[labels == 1, 2:5] += 150
    np.savez(folder / "images.npz", x=pixels.astype(np.uint8), y=np.array(["cat", "dog"])[labels])
    return {
        "base": {"target": "animal", "workload": "array"},
        "ingest": {"source": "images.npz"},
        "validate": {"split": {"by": "stratified", "test": 0.3}},
        "tune": {"space": {"width": 8, "stages": 1}},
    }


def signals(folder: Path) -> dict[str, Any]:
    """Two channels of a series, of which one swings faster."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, ROWS)
    moments = np.arange(24) * np.where(labels == 1, 1.2, 0.5)[:, None]
    waves = np.stack([np.sin(moments), np.cos(moments)], axis=2) + 0.3 * random.normal(size=(ROWS, 24, 2))
    np.savez(folder / "signals.npz", x=waves.astype(np.float32), y=np.array(["slow", "fast"])[labels])
    return {
        "base": {"target": "pace", "workload": "array"},
        "ingest": {"source": "signals.npz"},
        "validate": {"split": {"by": "stratified", "test": 0.3}},
        "tune": {"space": {"width": 8, "stages": 1}},
    }


def interactions(folder: Path) -> dict[str, Any]:
    """Each user buys the items of one taste, in random order."""
    random = np.random.default_rng(0)
    users = np.repeat(np.arange(150), 8)
    taste = users % 3
    items = np.concatenate([random.permutation(20)[:8] for _ in range(150)]) + 20 * taste
    moments = pa.array(random.integers(1_500_000_000, 1_600_000_000, len(users)), pa.timestamp("s", tz="UTC"))
    columns = {"who": pa.array([f"u{user}" for user in users]), "what": pa.array(items), "when": moments}
    pyarrow.csv.write_csv(pa.table(columns), folder / "rows.csv")
    return {
        "base": {"target": "what", "workload": "recommender", "user": "who", "time": "when"},
        "ingest": {"source": "rows.csv"},
        "validate": {"split": {"by": "leave_last"}, "min_interactions": 2},
        "tune": {"space": {"dim": 8}},
        "verify": {"margin": 0.1, "max_gain": 0.3},
    }


WORLDS = (three_classes, quantity, images, signals, interactions)


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.__name__)
def test_a_family_goes_from_a_file_to_a_bundle(tmp_path: Path, world: Callable[[Path], Any]) -> None:
    (tmp_path / "suite.yaml").write_text(
        "checks:\n  - expect: expect_table_row_count_to_be_between\n    min_value: 1\n"
    )
    raw: dict[str, Any] = {
        "base": {"name": "tiny", "threads": 1, "device": "cpu"},
        "ingest": {},
        "validate": {"suite": "suite.yaml", "calibration_rows": 64},
        "tune": dict(TUNE),
        "compress": {"max_metric_drop": 0.2, "max_slowdown": 1000.0, "rounds": 20, "batch_sizes": [1, 7]},
        "verify": {"margin": 0.05, "max_gain": 0.2, "resamples": 300},
        "export": {"golden_rows": 5},
    }
    for section, values in world(tmp_path).items():
        raw[section] |= values
    params = parse(raw)
    for stage in STAGES:
        run_stage(stage, params, tmp_path)

    assert files.read_json(tmp_path / "artifacts/verify/verdict.json")["verdict"] == "ACCEPT"
    (folder,) = (tmp_path / "dist" / "tiny").glob("1-*")
    bundle.verify(folder, None)
    predictor = Predictor.load(folder, "cpu")
    cases = {case.name: case for case in golden.read(folder)}
    assert set(cases) == {"typical", "single", "odd"}
    for case in cases.values():
        assert case.differences(predictor.predict(case.columns), predictor.provider) == []
    features = files.read_json(folder / "drift_reference.json")["features"]
    assert set(features) == {tensor.name for tensor in predictor.signature.inputs}
    assert features.get("user", {"kind": "identifier"})["kind"] == "identifier", "people are not listed"
    found = cases["typical"].answers[predictor.signature.outputs[0].name].expected.ravel().tolist()
    assert len(set(map(str, found))) > 1, "the answers differ from row to row"
