"""The search as a whole: a budget of time, smaller networks that are shipped, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import worlds

from tasks.compress import isolated, search
from tasks.compress.isolated import Crashed, call
from tasks.core import files
from tasks.core.errors import DataRejected
from tasks.core.stage import run_stage

SEARCH: dict[str, Any] = {
    "methods": ["merge", "structured", "int8"], "pruning": {"shares": [0.5]}, "budget_minutes": 5, "rounds": 20,
}  # fmt: skip


def settings(root: Path, **own: Any) -> Any:
    return worlds.write_params(root, {"compress": SEARCH | own})


def rows(root: Path) -> dict[str, Any]:
    return {row["name"]: row for row in files.read_json(root / "artifacts" / "compress" / "candidates.json")}


@pytest.fixture(scope="module")
def searched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    root = shutil.copytree(tiny, tmp_path_factory.mktemp("searched") / "world")
    run_stage("compress", settings(root, pick="smallest"), root)
    return root


def test_a_smaller_network_is_found_trained_and_chosen(searched: Path) -> None:
    found = rows(searched)
    chosen = next(row for row in found.values() if row["chosen"])
    assert chosen["network"]["method"] == "structured"
    assert chosen["network"]["passes"] > 0
    assert chosen["size_kib"] < found["int8"]["size_kib"]
    assert chosen["parameters"] < found["fp32"]["parameters"]
    assert found["fp32"]["value"] - chosen["value"] <= 0.02
    assert chosen["front"]


def test_what_was_chosen_goes_through_the_gate_and_into_a_bundle(searched: Path) -> None:
    params = settings(searched, pick="smallest")
    for stage in ("verify", "export"):
        run_stage(stage, params, searched)
    assert files.read_json(searched / "artifacts/verify/verdict.json")["verdict"] == "ACCEPT"


def test_every_shape_that_was_looked_at_is_told_with_its_fate(searched: Path) -> None:
    shapes = files.read_json(searched / "artifacts" / "compress" / "shapes.json")
    names = {row["name"] for row in shapes}
    trained = {row["name"] for row in shapes if row.get("short_value") is not None}
    assert trained
    assert trained <= names
    for row in shapes:
        assert row["bytes"] > 0
        assert row["time"] > 0
        assert row["dropped"] or row["name"] in trained or row["short_value"] is None


def test_the_search_keeps_to_its_budget(searched: Path) -> None:
    measured = files.read_json(searched / "artifacts" / "runs" / "compress.json")["measured"]
    assert measured["training_seconds"] > 0
    assert measured["search_seconds"] < 3 * 24, "a pass that has begun is finished"


def test_no_time_means_the_original_and_its_files_only(world: Path) -> None:
    run_stage("compress", settings(world, budget_minutes=0), world)
    assert set(rows(world)) == {"fp32", "int8"}
    run_stage("compress", settings(world, budget_minutes=0.0001), world)
    assert set(rows(world)) == {"fp32", "int8"}


def test_a_killed_search_goes_on_from_what_it_has(world: Path) -> None:
    params = settings(world)
    command = [sys.executable, "-P", "-m", "tasks", "compress", "--params", str(world / "params.yaml")]
    before = (world / "artifacts" / "compress" / "model.onnx").read_bytes()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    scratch = world / "artifacts" / "scratch" / "compress"
    try:
        deadline = time.monotonic() + 120
        while not list(scratch.glob("*/*-short.weights.json")):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (world / "artifacts" / "compress" / "model.onnx").read_bytes() == before
    kept = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*/*.json") if path.name != "clock.json"}
    assert any(name.startswith("fp32") for name in kept)
    left: list[str] = []
    original = search.Search._short

    def watched(self: search.Search, *arguments: Any) -> Any:
        found = original(self, *arguments)
        same = {path.name: path.stat().st_mtime_ns for path in scratch.glob("*/*.json")}
        left.extend(name for name, moment in kept.items() if same.get(name) == moment)
        return found

    search.Search._short = watched  # type: ignore[method-assign]
    try:
        run_stage("compress", params, world)
    finally:
        search.Search._short = original  # type: ignore[method-assign]
    assert set(left) == set(kept), "what was made before the kill was taken as it was"
    assert any(row["network"]["method"] != "original" for row in rows(world).values())
    assert not scratch.exists()


def test_spreading_keeps_the_ends_and_jumps_about() -> None:
    assert search._spread([], 4) == []
    assert search._spread([1], 4) == [1]
    assert sorted(search._spread(list(range(100)), 5)) == [0, 25, 50, 74, 99]
    order = search._spread(list(range(8)), 8)
    assert sorted(order) == list(range(8))
    assert order[:4] == [0, 4, 2, 6]


# A process of its own.


def add(a: int, b: int) -> int:
    return a + b


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def sleep() -> None:
    time.sleep(60)


def stumble() -> None:
    raise ValueError("over a stone")


def refuse() -> None:
    raise DataRejected("rows must be there", "none", "add some")


def large() -> np.ndarray:
    return np.ones((1000, 1000))


def test_a_function_in_a_process_of_its_own() -> None:
    assert call(add, 2, 3, seconds=60) == 5
    assert call(large, seconds=60).sum() == 1_000_000


@pytest.mark.parametrize(
    ("function", "seconds", "told"),
    [
        (die, 60, "ended by SIGKILL"),
        (leave, 60, "ended with code 7"),
        (sleep, 3, "took longer than 3 s"),
        (stumble, 60, "ValueError: over a stone"),
    ],
)
def test_how_such_a_process_ends_is_told(function: Callable[[], None], seconds: float, told: str) -> None:
    with pytest.raises(Crashed, match=told):
        isolated.call(function, seconds=seconds)


def test_a_refusal_in_such_a_process_stays_what_it_is() -> None:
    with pytest.raises(DataRejected, match="rows must be there"):
        call(refuse, seconds=60)
