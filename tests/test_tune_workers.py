"""Trials in other processes: the same results, and a process that dies fails its trial alone."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import learners
import pytest
import worlds
from learners import EPOCHS, bugs, learner, refuser

from tasks.core import files, manifest
from tasks.core.errors import MachineError, UsageError
from tasks.core.settings import Tune, parse
from tasks.core.stage import run_stage
from tasks.tune import on_dask, on_ray, study, together
from tasks.tune.elsewhere import Bug
from tasks.tune.processes import Worker
from tasks.tune.search import search
from tasks.tune.trial import Event, Job, Outcome, Report, Task

#: Random trials that nothing stops: each depends on its own seed alone.
ALIKE = {"sampler": "random", "pruner": "none", "trials": 4, "epochs": 1, "top_k": 1}


def tune(**values: Any) -> Tune:
    return parse(worlds.params({"tune": {"trials": 5, "epochs": EPOCHS, "pruner": "none"} | values})).tune


@pytest.fixture
def job(tmp_path: Path) -> Job:
    params = parse(worlds.params())
    return Job(params.base, Tune(), {}, tmp_path, tmp_path)


def test_a_trial_that_kills_its_process_or_runs_out_of_memory_has_failed_and_the_search_goes_on(
    tmp_path: Path, job: Job
) -> None:
    workers = [Worker(job, learner) for _ in range(2)]
    try:
        settings = tune()
        trials = search(study.open_study(settings, tmp_path / "study"), settings, 3, workers)
    finally:
        for worker in workers:
            worker.close()
    states = {trial.number: trial.state.name for trial in trials}
    assert states == {0: "COMPLETE", 1: "FAIL", 2: "FAIL", 3: "COMPLETE", 4: "COMPLETE"}
    assert "killed (SIGKILL)" in trials[1].user_attrs["error"]
    assert "out of memory" in trials[2].user_attrs["error"]


def test_a_worker_that_dies_between_two_questions_fails_its_trial_and_takes_the_next(job: Job) -> None:
    worker = Worker(job, learner)
    try:
        assert isinstance(worker.begin(Task(0, 0, {"learning_rate": 0.1})), Report)
        worker._process.kill()
        worker._process.join()
        died = worker.go_on(False)
        assert isinstance(died, Outcome)
        assert (died.state, "SIGKILL" in died.error) == ("failed", True)
        assert isinstance(worker.begin(Task(3, 0, {"learning_rate": 0.1})), Report)
    finally:
        worker.close()


class Member:
    """One of several that train together; ``behave`` answers for it, and may wait for its end."""

    def __init__(self, behave: Callable[[threading.Event], Event]) -> None:
        self.behave, self.ended = behave, threading.Event()

    def begin(self, task: Task) -> Event:
        return self.behave(self.ended)

    def is_alive(self) -> bool:
        return not self.ended.is_set()

    def close(self) -> None:
        self.ended.set()


def waits(ended: threading.Event) -> Event:
    """For the one that has left: in a sum of gradients, for half an hour."""
    assert ended.wait(60)
    return Outcome("failed", error="its process was killed")


def runs_out_of_memory(ended: threading.Event) -> Event:
    return Outcome("failed", error="out of memory")


@pytest.mark.parametrize(("second", "anew"), [(waits, True), (runs_out_of_memory, False)])
def test_where_one_of_a_group_fails_the_others_do_not_wait_for_it(
    job: Job, monkeypatch: pytest.MonkeyPatch, second: Callable[[threading.Event], Event], anew: bool
) -> None:
    made: list[list[Member]] = []

    def start(self: together.Together) -> None:
        made.append([Member(runs_out_of_memory), Member(second)])
        self._workers = made[-1]  # type: ignore[assignment]

    monkeypatch.setattr(together, "_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(together.Together, "_start", start)
    group = together.Together(job)
    assert group.begin(Task(0, 0, {})) == Outcome("failed", error="out of memory")
    assert len(made) == 1 + anew
    made[-1][1].close()
    group.begin(Task(1, 0, {}))
    assert len(made) == 2 + 2 * anew, "a group with a dead member is started anew before the next trial"


def test_a_cluster_gives_every_runner_its_share_of_the_gpus(job: Job) -> None:
    gpu = replace(job, base=job.base.model_copy(update={"device": "auto"}))
    assert [on_ray._share_of_gpus(gpu, gpus, 4) for gpus in (0.0, 2.0, 4.0, 8.0)] == [0.0, 0.5, 1.0, 1.0]
    assert on_ray._share_of_gpus(gpu, 2.0, 3) == 0.5, "two thirds of a GPU leave no room for a third runner"
    assert on_ray._share_of_gpus(job, 8.0, 4) == 0.0, "on the CPU"


def test_a_ray_cluster_without_room_for_all_workers_is_refused_before_the_search() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}] * 2 + [{"Alive": False, "Resources": {"CPU": 64.0}}]
    on_ray._check_room(nodes, 4, 4)
    with pytest.raises(MachineError, match="of 2 workers of 16 cores each there is room for 0"):
        on_ray._check_room(nodes, 2, 16)
    with pytest.raises(MachineError, match="of 5 workers of 4 cores each there is room for 4"):
        on_ray._check_room(nodes, 5, 4)


@pytest.mark.parametrize(("make", "error", "said"), [(bugs, Bug, "ZeroDivisionError"), (refuser, UsageError, "a rule")])
def test_what_is_no_trials_fault_ends_the_search(
    tmp_path: Path, job: Job, make: Any, error: type[Exception], said: str
) -> None:
    workers = [Worker(job, make), Worker(job, learner)]
    settings = tune()
    with pytest.raises(error, match=said):
        search(study.open_study(settings, tmp_path / "study"), settings, 3, workers)
    assert not any(worker._process.is_alive() for worker in workers), "no training is left behind"
    trials = study.open_study(settings, tmp_path / "study").get_trials(deepcopy=False)
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL", "WAITING"}, "to be run again"
    assert all("a rule" not in trial.user_attrs.get("error", "") for trial in trials)


def run(root: Path, **values: Any) -> dict[str, Any]:
    """Run the room with these settings; the trials by number, and what was measured."""
    run_stage("tune", worlds.write(root, {"tune": ALIKE | values}), root)
    tuned = root / "artifacts" / "tune"
    (best,) = files.read_json(tuned / "models.json")
    measured = files.read_json(root / "artifacts" / "runs" / "tune.json")["measured"]
    found = manifest.read(tuned).files
    return {
        "trials": (tuned / "trials.csv").read_text(),
        "weights": found[best["file"]].sha256,
        "workers": measured["workers"],
    }


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("alone") / "w")


@pytest.mark.parametrize("executor", ["ray", "dask"])
def test_a_cluster_that_does_not_answer_is_the_machines_fault(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    monkeypatch.setattr(on_dask, "_SECONDS", 1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    address = dask.config.set({"scheduler-address": "tcp://127.0.0.1:1"})
    cluster = (on_ray if executor == "ray" else on_dask).cluster
    with address, pytest.raises(MachineError, match=f"needs a {executor.title()} cluster"), cluster(job, 1, learner):
        pytest.fail("there is none")


def test_an_address_that_is_none_is_told(job: Job) -> None:
    address = dask.config.set({"scheduler-address": "localhost"})
    with address, pytest.raises(MachineError, match="needs a Dask cluster"), on_dask.cluster(job, 1, learner):
        pytest.fail("there is none")


@pytest.mark.parametrize("executor", ["ray", "dask"])
def test_a_worker_of_a_cluster_that_dies_fails_its_trial_alone(tmp_path: Path, job: Job, executor: str) -> None:
    settings = tune()
    if executor == "ray":  # whose workers do not find this folder's modules
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(learners)
    with (on_ray if executor == "ray" else on_dask).cluster(job, 2, learner) as runners:
        trials = search(study.open_study(settings, tmp_path / "study"), settings, 3, runners)
    states = {trial.number: trial.state.name for trial in trials}
    assert states[1] == states[2] == "FAIL"
    assert f"its {executor.title()} worker died" in trials[1].user_attrs["error"]
    assert sum(state == "COMPLETE" for state in states.values()) >= 2


@pytest.mark.parametrize("executor", ["local", "ray", "dask"])
def test_more_workers_give_every_trial_the_same_result(tmp_path: Path, alone: dict[str, Any], executor: str) -> None:
    """The table and the best weights are the same to the last bit: a trial is its parameters and its seed."""
    found = run(tmp_path / "w", executor=executor, workers=2)
    assert found == alone | {"workers": 2}


def test_two_processes_that_train_together_learn_what_one_does(tmp_path: Path) -> None:
    """The same curve as one process with the same steps; without dropout, which each would draw for its own rows."""
    space = worlds.PARAMS["tune"]["space"] | {"dropout": 0.0, "feature_dropout": 0.0, "learning_rate": 0.01}
    values = {"sampler": "random", "pruner": "none", "trials": 1, "epochs": 3, "top_k": 1, "space": space}
    curves = []
    for processes in (1, 2):
        root = tmp_path / str(processes)
        run_stage("tune", worlds.write(root, {"tune": values | {"processes": processes}}), root)
        with (root / "artifacts" / "tune" / "curves.csv").open() as file:
            curves.append([float(row["value"]) for row in csv.DictReader(file)])
    alone, together = curves
    assert len(alone) == 3
    assert together == pytest.approx(alone, abs=2e-4)
