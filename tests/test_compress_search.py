"""The search as a whole: a budget of time, smaller networks that are shipped, and what a kill leaves."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import worlds

from tasks.compress import contest, isolated, probe, search
from tasks.compress.choose import Budget
from tasks.compress.isolated import Crashed, call
from tasks.compress.race import Lap
from tasks.compress.targets import together
from tasks.compress.treatments import Treatments
from tasks.compress.workshop import Built
from tasks.core import files
from tasks.core.child import Child
from tasks.core.errors import DataRejected, MachineError, NotProven
from tasks.core.metrics import find
from tasks.core.settings import Magnitude
from tasks.core.stage import run_stage

SEARCH: dict[str, Any] = {
    "methods": ["merge", "structured", "int8"], "pruning": {"shares": [0.5]}, "budget_minutes": 5, "rounds": 20,
}  # fmt: skip

IN_STEPS = {"shares": [0.5], "steps": 2}


def settings(root: Path, **own: Any) -> Any:
    return worlds.write_params(root, {"compress": SEARCH | own})


def rows(root: Path) -> dict[str, Any]:
    return {row["name"]: row for row in files.read_json(root / "artifacts" / "runs" / "candidates.json")}


@pytest.fixture(scope="module")
def searched(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    root = shutil.copytree(tiny, tmp_path_factory.mktemp("searched") / "world")
    run_stage("compress", settings(root, pick="smallest", pruning=IN_STEPS), root)
    return root


def test_a_smaller_network_is_found_trained_and_chosen(searched: Path) -> None:
    found = rows(searched)
    chosen = next(row for row in found.values() if row["chosen"])
    assert chosen["network"]["method"] == "structured"
    assert chosen["network"]["steps"] == 2
    assert chosen["network"]["passes"] > 0
    assert chosen["size_kib"] < found["int8"]["size_kib"]
    assert chosen["parameters"] < found["fp32"]["parameters"]
    assert found["fp32"]["value"] - chosen["value"] <= 0.02
    assert chosen["front"]


def test_what_was_chosen_goes_through_the_gate_and_into_a_bundle(searched: Path) -> None:
    params = settings(searched, pick="smallest", pruning=IN_STEPS)
    for stage in ("verify", "export"):
        run_stage(stage, params, searched)
    assert files.read_json(searched / "artifacts/verify/verdict.json")["verdict"] == "ACCEPT"


def test_every_shape_that_was_looked_at_is_told_with_its_fate(searched: Path) -> None:
    shapes = files.read_json(searched / "artifacts" / "runs" / "shapes.json")
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
    assert measured["training_seconds_estimated"] > 0
    assert 0 < measured["search_seconds"] < 2 * 300, "a pass that has begun is finished"


def test_no_time_means_the_original_and_its_files_only(world: Path) -> None:
    run_stage("compress", settings(world, budget_minutes=0), world)
    assert set(rows(world)) == {"fp32", "int8"}
    run_stage("compress", settings(world, budget_minutes=0.0001), world)
    assert set(rows(world)) == {"fp32", "int8"}


def test_a_shape_that_is_larger_than_the_limit_is_not_trained(world: Path) -> None:
    with pytest.raises(NotProven, match="INFEASIBLE"):
        run_stage("compress", settings(world, max_size_kib=1.0), world)
    shapes = files.read_json(world / "artifacts" / "rejected" / "compress" / "shapes.json")
    assert shapes
    assert all(row["dropped"] == "more than max_size_kib: 1" and row["bytes"] > 1024 for row in shapes)


def test_a_shape_that_is_slower_than_asked_for_is_not_trained(world: Path) -> None:
    with pytest.raises(NotProven, match="not shown to be 1000 times as fast"):
        run_stage("compress", settings(world, min_speedup=1000.0), world)
    shapes = files.read_json(world / "artifacts" / "rejected" / "compress" / "shapes.json")
    assert shapes
    assert all(row["dropped"] == "slower than min_speedup: 1000" for row in shapes)


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
    kept = {path.name: path.stat().st_mtime_ns for path in scratch.rglob("*.json") if path.name != "clock.json"}
    assert any(name.startswith("fp32") for name in kept)
    left: list[str] = []
    original = search.Search._short

    def watched(self: search.Search, *arguments: Any) -> Any:
        found = original(self, *arguments)
        same = {path.name: path.stat().st_mtime_ns for path in scratch.rglob("*.json")}
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


def test_what_was_trained_before_a_kill_in_the_last_race_is_all_there_though_no_time_is_left(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = world / "artifacts" / "scratch" / "compress"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as first, pytest.raises(KeyboardInterrupt):
        first.setattr(contest, "hold", killed)
        run_stage("compress", settings(world, budget_minutes=0.5), world)
    made = {path.stem for path in scratch.glob("*/candidates/*.json")}
    assert any(name.startswith("structured") for name in made)
    for clock in scratch.glob("*/clock.json"):
        files.write_json(clock, {"budget": 30.0, "spent": 3000.0})
    run_stage("compress", settings(world, budget_minutes=0.5), world)
    assert set(rows(world)) == made


def test_a_full_recovery_goes_on_from_the_first_pass_of_an_earlier_life(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bool] = []

    def killed(self: search.Search, family: Any, learnt: Any, lead: Any) -> None:
        for one, _ in learnt:
            kept = self.workshop.weights(f"{one.shape.name}-short")
            assert kept is not None
            state = family.network(one.shape).state_dict()
            same = all(bool((state[name] == value).all()) for name, value in kept[0].items())
            compared.append(same and family.seconds.get(f"{one.shape.name}-short") == kept[1]["seconds"])
        raise KeyboardInterrupt

    monkeypatch.setattr(search.Search, "_bisect", killed)
    for _life in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_stage("compress", settings(world), world)
    assert len(compared) >= 2
    assert all(compared)


def test_a_disk_too_full_for_weights_is_no_shapes_fault(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*_: Any, **__: Any) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    before = (world / "artifacts" / "compress" / "model.onnx").read_bytes()
    with pytest.raises(MachineError, match="no space left"):
        run_stage("compress", settings(world), world)
    assert (world / "artifacts" / "compress" / "model.onnx").read_bytes() == before


def test_spreading_keeps_the_ends_and_begins_in_the_middle() -> None:
    assert search._spread([], 4) == []
    assert search._spread([1], 4) == [1]
    assert sorted(search._spread(list(range(100)), 5)) == [0, 25, 50, 74, 99]
    order = search._spread(list(range(8)), 8)
    assert sorted(order) == list(range(8))
    assert order[:3] == [4, 2, 6]


# A process of its own.


def add(a: int, b: int) -> int:
    return a + b


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(7)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def sleep() -> None:
    time.sleep(60)


def draw(mark: Path) -> None:
    try:
        mark.write_text("a bar")
        time.sleep(60)
    finally:
        mark.write_text("in order")


def stumble() -> None:
    raise ValueError("over a stone")


def refuse() -> None:
    raise MachineError("a device must be there", "none", "add one")


def fill() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def reject() -> None:
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
        (terminate, 60, "ended by SIGTERM"),
        (leave, 60, "ended with code 7"),
        (sleep, 3, "took longer than 3 s"),
        (stumble, 60, "ValueError: over a stone"),
        (threading.Lock, 60, "TypeError: cannot pickle"),
        (reject, 60, "rows must be there: none"),
    ],
)
def test_how_such_a_process_ends_is_told(function: Callable[[], None], seconds: float, told: str) -> None:
    with pytest.raises(Crashed, match=told):
        isolated.call(function, seconds=seconds)


def test_a_process_that_nobody_listens_to_any_more_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(isolated._answer, large, ())
    child.pipe.close()
    assert (child.wait(60), capfd.readouterr().err) == (0, "")


def test_an_interrupt_ends_the_process_which_may_put_the_terminal_in_order_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "_GRACE_SECONDS", 30)
    mark = tmp_path / "mark"
    mark.touch()

    def interrupt() -> None:
        end = time.monotonic() + 60
        while mark.read_text() != "a bar" and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        call(draw, mark, seconds=60)
    assert mark.read_text() == "in order"


def test_what_the_machine_refuses_stays_what_it_is() -> None:
    with pytest.raises(MachineError, match="a device must be there"):
        call(refuse, seconds=60)
    with pytest.raises(MachineError, match="no space left"):
        call(fill, seconds=60)


def test_a_profile_that_was_cut_off_is_no_models_fault(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('[{"cat": "Node", ')
    with pytest.raises(MachineError, match="must be whole"):
        probe._events(profile)


# The ladder, without a network.


def screened(name: str, size: int = 1, time: float = 1.0, capacity: float = 1.0, **others: Any) -> search.Screened:
    figures = {"least_bytes": size, "slowest": time, "p50_ms": time} | others
    shape: Any = SimpleNamespace(name=name, report={})
    return search.Screened(shape, bytes=size, time=time, capacity=capacity, **figures)


class FakeFamily:
    """Shapes of known loss; a full recovery takes a third of the time."""

    def __init__(self, seconds: float = 300.0, kept: tuple[str, ...] = (), pass_seconds: float = 1.0) -> None:
        self.clock = SimpleNamespace(left=seconds, seconds=seconds)
        self.kept = kept
        self.pass_seconds = pass_seconds
        self.seconds: dict[str, float] = {}
        self.trained: list[str] = []

    def passes(self, shape: Any, seconds: float) -> int:
        return int(seconds / self.pass_seconds)

    def has_learnt(self, shape: Any, stage: str) -> bool:
        return f"{shape.name} {stage}" in self.kept

    def recover(self, shape: Any, stage: str, passes: int) -> float:
        self.clock.left -= 0 if self.has_learnt(shape, stage) else 80
        self.seconds[f"{shape.name}-{stage}"] = 80.0
        self.trained.append(f"{shape.name} {stage}")
        shape.report["passes"] = shape.report.get("passes", 0) + passes
        return 0.9

    def network(self, shape: Any) -> Any:
        return shape.name

    core = staticmethod(lambda network: network)

    def prepare(self) -> None:
        pass


def bisect(
    drops: list[float],
    seconds: float = 300.0,
    kept: tuple[str, ...] = (),
    pass_seconds: float = 1.0,
    fresh: bool = True,
    **limits: float,
) -> list[str]:
    """Which shapes, named by their place on the ladder, are trained, if these are the losses after a full recovery.

    In int8 and 50 KiB, that is; in float, and 200 KiB, they lose nothing.
    """
    made = {f"s{place}": 0.9 - drop for place, drop in enumerate(drops)}

    def treated(name: str, core: Any, origin: Any) -> list[Built]:
        int8 = Built(f"{name}-int8", name, "int8", score=made[name.removesuffix("-longer")], bytes=50 << 10)
        return [Built(name, name, "", score=0.9, bytes=200 << 10), int8] if limits else [int8]

    shop: Any = SimpleNamespace(
        built={"fp32": Built("fp32", "", "", score=0.9)}, problem=SimpleNamespace(metric=find("accuracy", "multiclass"))
    )
    family: Any = FakeFamily(seconds, kept, pass_seconds)
    treatments: Any = SimpleNamespace(all=treated, as_sketched=lambda method: method == "int8")
    ladder: Any = [
        (SimpleNamespace(shape=SimpleNamespace(name=name, report={}, fresh=fresh)), score)
        for name, score in made.items()
    ]
    search.Search(shop, treatments, family, (1,), Budget(0.01, 0.1, **limits))._bisect(family, ladder, None)
    trained: list[str] = family.trained
    return trained


@pytest.mark.parametrize(
    ("limits", "first"), [({}, "middle"), ({"max_size_kib": 100.0}, "large"), ({"min_speedup": 1.0}, "large")]
)
def test_under_a_limit_the_most_capable_shape_is_looked_at_first_and_what_learnt_most_leads(
    limits: dict[str, float], first: str
) -> None:
    passes = {"tiny": 90, "small": 70, "middle": 50, "large": 20, "huge": 3}
    family: Any = SimpleNamespace(clock=SimpleNamespace(left=60.0), passes=lambda shape, seconds: passes[shape.name])
    ladder = [screened(name, capacity=capacity) for capacity, name in enumerate(passes, 1)]
    shop: Any = SimpleNamespace(
        built={"fp32": Built("fp32", "", "", score=0.9)}, problem=SimpleNamespace(metric=find("accuracy", "multiclass"))
    )
    within = search.Search(shop, None, None, (1,), Budget(0.01, 0.1, **limits))  # type: ignore[arg-type]
    turns = within._in_turn(family, ladder)
    assert next(one.shape.name for one in turns) == first
    lead = within._lead(family, list(zip(ladder, [0.5, 0.7, 0.6, 0.4, 0.8], strict=True)))
    assert (lead and lead.shape.name) == ("small" if limits else None), "huge learnt most, but there is no time for it"
    lead = within._lead(family, list(zip(ladder, [0.5, 0.7, 0.69, 0.67, 0.3], strict=True)))
    assert (lead and lead.shape.name) == ("middle" if limits else None), "about as much, and it can hold more"
    assert sorted(one.shape.name for one in turns) == sorted(passes)


def test_what_was_learnt_before_a_kill_in_the_first_passes_is_all_taken_though_less_time_is_left() -> None:
    ladder = [screened(f"s{place}", capacity=place) for place in range(8)]

    def first_passes(family: Any) -> list[str]:
        shop: Any = SimpleNamespace(built={}, problem=None)
        found = search.Search(shop, None, family, (1,), Budget(0.01, 0.1))._first_passes(family, ladder)  # type: ignore[arg-type]
        return [one.shape.name for one, _ in found]

    whole = first_passes(FakeFamily(1400.0))
    assert len(whole) == 4
    for known in range(1, 4):
        kept = tuple(f"{name} short" for name in whole[:known])
        again = first_passes(FakeFamily(1400.0 - 80 * known, kept))
        assert set(whole[:known]) <= set(again)
    assert set(first_passes(FakeFamily(0.0, tuple(f"{name} short" for name in whole)))) == set(whole)


def test_a_method_whose_shapes_cannot_be_found_leaves_those_of_the_others() -> None:
    def shapes(method: str) -> list[Any]:
        if method == "depth":
            raise TypeError("forward() got an unexpected keyword argument 'mask'")
        return [SimpleNamespace(name=method)]

    family: Any = SimpleNamespace(shapes=shapes)
    assert search.Search._shapes(family, "depth") == []
    assert [shape.name for shape in search.Search._shapes(family, "student")] == ["student"]


def test_a_shape_that_cannot_be_timed_does_not_lead() -> None:
    def passes(shape: Any, seconds: float) -> int:
        if shape.name == "sick":
            raise FloatingPointError("the network's answers are not finite")
        return 100

    family: Any = SimpleNamespace(clock=SimpleNamespace(left=60.0), passes=passes)
    shop: Any = SimpleNamespace(
        built={"fp32": Built("fp32", "", "", score=0.9)}, problem=SimpleNamespace(metric=find("accuracy", "multiclass"))
    )
    within = search.Search(shop, None, None, (1,), Budget(0.01, 0.1, max_size_kib=1.0))  # type: ignore[arg-type]
    lead = within._lead(family, [(screened("sick"), 0.8), (screened("sound"), 0.7)])
    assert lead
    assert lead.shape.name == "sound"


def test_a_shape_is_only_refused_for_what_no_file_of_it_can_keep_to() -> None:
    shop: Any = SimpleNamespace(built={}, problem=None)

    def fate(one: search.Screened, **limits: float) -> str:
        within = search.Search(shop, None, None, (1,), Budget(0.01, 0.1, **limits))  # type: ignore[arg-type]
        return within._over_limit(one)

    float_sketch = screened("s", 400 << 10, 0.5, least_bytes=100 << 10, p50_ms=2.0)
    assert fate(float_sketch, max_size_kib=150.0) == "", "its int8 weights may be a quarter"
    assert fate(float_sketch, max_size_kib=90.0) == "more than max_size_kib: 90"
    assert fate(float_sketch, max_p99_ms=3.0) == ""
    assert fate(float_sketch, max_p99_ms=1.0) == "slower than max_p99_ms: 1"
    assert fate(float_sketch, min_speedup=4.0) == "slower than min_speedup: 4"


def test_a_shape_near_the_speed_that_is_asked_for_is_raced_again_as_in_the_end() -> None:
    raced: list[list[str]] = []

    def race(family: Any, models: dict[str, Path], rounds: int) -> dict[str, dict[int, Lap]]:
        raced.append(sorted(path.stem for path in models.values()))
        return {name: {1: Lap(1.0, 1.0, 0.11, 0.1, 0.12), 64: Lap(1.0, 1.0, 0.05, 0.05, 0.06)} for name in models}

    shop: Any = SimpleNamespace(built={}, path=lambda name: Path(f"{name}.onnx"))
    looking = search.Search(shop, None, None, (1, 64), Budget(0.01, 0.1, min_speedup=10.0))  # type: ignore[arg-type]
    looking._race = race  # type: ignore[method-assign, assignment]
    fast, slow = screened("fast", time=0.05), screened("slow", time=0.2)
    near = [screened(f"near-{place}", time=0.09) for place in range(5)]
    found = looking._raced_again(None, [fast, *near, slow])  # type: ignore[arg-type]
    assert raced == [[f"untrained-near-{place}" for place in range(4)], ["untrained-near-4"]]
    assert (found[0], found[-1]) == (fast, slow), "no doubt about them"
    assert {one.slowest for one in found[1:-1]} == {0.12}, "what it is shown to be, not what it may be"
    assert looking._over_limit(found[1]) == "slower than min_speedup: 10"


@pytest.mark.parametrize(
    ("methods", "sketched", "in_float"),
    [
        (("int8",), 1.0, 0.25),
        (("int8", "int4_weights"), 0.5, 0.125),
        (("int8_weights",), 0.25, 0.25),
        (("fuse", "magnitude"), 1.0, 1.0),
    ],
)
def test_how_small_a_file_may_get_against_what_is_looked_at(
    methods: tuple[str, ...], sketched: float, in_float: float
) -> None:
    shop: Any = SimpleNamespace(target=together(("cpu",)))
    found = Treatments(shop, methods, Magnitude(), 0.01)
    assert (found.least_share, found.least_share_of_float) == (sketched, in_float)


@pytest.mark.parametrize(
    ("drops", "trained"),
    [
        ([0.05, 0.04, 0.03, 0.008, 0.005, 0.004, 0.003], ["s3 full", "s1 full", "s2 full"]),
        ([0.001] * 7, ["s3 full", "s1 full", "s0 full"]),
        ([0.5] * 7, ["s3 full", "s5 full", "s6 full"]),
        ([0.5, 0.015, 0.001], ["s1 full", "s2 full", "s1 longer"]),
        ([0.001], ["s0 full"]),
        ([], []),
    ],
)
def test_the_cheapest_shape_in_budget_is_found_by_bisection(drops: list[float], trained: list[str]) -> None:
    assert bisect(drops) == trained


def test_no_shape_is_trained_without_time() -> None:
    assert bisect([0.001] * 3, seconds=0.0) == []
    assert bisect([0.5] * 7, seconds=100.0) == ["s3 full", "s5 full"]


def test_a_few_passes_are_for_the_shape_that_missed_by_little_and_not_for_another_one() -> None:
    assert bisect([0.5, 0.015, 0.001], pass_seconds=30.0) == ["s1 full", "s1 longer"]
    assert bisect([0.5, 0.03, 0.001], pass_seconds=30.0) == ["s1 full", "s2 full"], "it missed by too much"
    assert bisect([0.5, 0.015, 0.001], pass_seconds=30.0, fresh=False) == ["s1 full", "s2 full", "s1 longer"]
    assert bisect([0.5, 0.015, 0.001], seconds=85.0, pass_seconds=30.0) == ["s1 full", "s2 full"], "too little for s1"


@pytest.mark.parametrize("limits", [{"max_size_kib": 100.0}, {"min_speedup": 3.0}, {"max_memory_mib": 10.0}])
def test_a_shape_is_not_in_budget_by_a_file_that_breaks_a_hard_limit(limits: dict[str, float]) -> None:
    drops = [0.03] * 4 + [0.005] * 3
    if "max_memory_mib" in limits:  # no file's memory is known here: none is usable
        assert bisect(drops, **limits) == ["s3 full", "s5 full", "s6 full"]
    else:
        assert bisect(drops, **limits) == ["s3 full", "s5 full", "s4 full"]


def test_a_search_whose_time_is_over_goes_through_what_it_has() -> None:
    drops = [0.5, 0.015, 0.001]
    before = tuple(bisect(drops))
    assert before == ("s1 full", "s2 full", "s1 longer")
    assert tuple(bisect(drops, seconds=0.0, kept=before)) == before
    assert bisect(drops, seconds=0.0, kept=before[:1]) == ["s1 full"]


def test_a_file_that_one_of_several_targets_refuses_is_no_shapes_rival() -> None:
    problem = SimpleNamespace(metric=find("accuracy", "multiclass"))
    built = {"fp32": Built("fp32", "", "", score=0.9)}
    int8, int4 = Built("int8", "", "int8", score=0.9), Built("int4_weights", "", "int4_weights", score=0.9)
    found = {}
    for names in (("cpu",), ("cpu", "edge")):
        shop: Any = SimpleNamespace(built=built, problem=problem, target=together(names))
        looking = search.Search(shop, None, None, (1,), Budget(0.01, 0.1))  # type: ignore[arg-type]
        found[names] = [looking._is_rival(one) for one in (int8, int4)]
    assert found == {("cpu",): [True, True], ("cpu", "edge"): [True, False]}


def test_a_shape_that_a_smaller_and_faster_one_outdoes_is_hopeless() -> None:
    def loss(before: float, after: float) -> float:
        return before - after

    def one(size: int, time_: float, score: float) -> Any:
        return screened("", size, time_), score

    small, large, slow, nan = one(10, 0.1, 0.8), one(20, 0.2, 0.9), one(15, 0.3, 0.7), one(5, 0.1, float("nan"))
    found = [small, large, slow, nan]
    assert [search._hopeless(pair, found, loss, 0.05) for pair in found] == [False, False, True, True]
