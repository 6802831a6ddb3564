"""Trials in other processes: the same results, and a process that dies fails its trial alone."""

from __future__ import annotations

import _thread
import csv
import importlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import learners
import pytest
import torch
import worlds
from learners import EPOCHS, bugs, learner, refuser

from tasks.core import files, manifest
from tasks.core.errors import MachineError, UsageError
from tasks.core.settings import Tune, parse
from tasks.core.stage import run_stage
from tasks.tune import on_dask, on_ray, study, together, workers
from tasks.tune.elsewhere import Bug
from tasks.tune.processes import Worker
from tasks.tune.search import search
from tasks.tune.trial import Event, Job, Local, Outcome, Report, Task, Training

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


def test_the_number_of_processes_is_measured_with_a_configuration_that_can_be() -> None:
    space = worlds.PARAMS["tune"]["space"] | {
        "hidden": {"low": 32, "high": 80, "step": 16},
        "layers": {"choices": [1, 2, 3]},
        "dropout": {"low": 0.1, "high": 0.5, "when": {"layers": [3]}, "otherwise": 0.0},
    }
    values = workers.middle(parse(worlds.params({"tune": {"space": space}})).tune.space).values
    assert (values["hidden"], values["layers"], values["dropout"]) == (64, 2, 0.0)


def test_a_worker_that_dies_between_two_questions_fails_its_trial_and_takes_the_next(job: Job) -> None:
    worker = Worker(job, learner)
    try:
        assert isinstance(worker.begin(Task(0, 0, {"learning_rate": 0.1})), Report)
        worker._child.kill()
        worker._child.wait()
        died = worker.go_on(False)
        assert isinstance(died, Outcome)
        assert (died.state, "SIGKILL" in died.error) == ("failed", True)
        assert isinstance(worker.begin(Task(3, 0, {"learning_rate": 0.1})), Report)
    finally:
        worker.close()


def test_a_worker_that_is_asked_nothing_any_more_is_silent(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    worker = Worker(job, learner)
    worker._child.pipe.close()
    assert (worker._child.wait(60), capfd.readouterr().err) == (0, "")


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


def test_a_group_of_which_one_dies_between_two_epochs_fails_its_trial_alone(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[list[Member]] = []

    def start(self: together.Together) -> None:
        made.append([Member(lambda _: Report(1, 0.5)) for _ in range(2)])
        self._workers = made[-1]  # type: ignore[assignment]

    monkeypatch.setattr(together.Together, "_start", start)
    group = together.Together(job)
    assert group.begin(Task(0, 0, {})) == Report(1, 0.5)
    made[0][1].close()
    assert group.go_on(False) == Outcome("failed", error="one of its processes died between two epochs")
    assert group.begin(Task(1, 0, {})) == Report(1, 0.5)
    assert len(made) == 2


def interrupts(ended: threading.Event) -> Event:
    _thread.interrupt_main()
    assert ended.wait(20), "Ctrl-C waits for the epoch"
    return Outcome("failed", error="its process was killed")


def test_an_interrupt_ends_a_group_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [Member(interrupts), Member(waits)]
    monkeypatch.setattr(together.Together, "_start", lambda self: setattr(self, "_workers", members))
    group = together.Together(job)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        group.begin(Task(0, 0, {}))
    assert time.monotonic() - began < 10
    assert all(member.ended.is_set() for member in members)


def test_no_two_groups_meet_in_one_file_and_none_is_left(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = replace(job, tune=job.tune.model_copy(update={"processes": 2}))
    met: list[tuple[Path, int]] = []

    class Meets(Member):
        def __init__(self, job: Job, make: Any) -> None:
            super().__init__(runs_out_of_memory)
            make.keywords["meeting"].touch()
            met.append((make.keywords["meeting"], make.keywords["place"]))

    monkeypatch.setattr(together, "Worker", Meets)
    groups = [together.Together(pair, index) for index in range(2)]
    names, places = [path for path, _ in met], [place for _, place in met]
    assert places == [0, 1, 2, 3]
    assert names[0] == names[1] != names[2] == names[3]
    assert all(path.exists() for path in names), "the second group leaves the first one's"
    groups[1].close()
    assert [path.exists() for path in names] == [True, True, False, False]
    killed = together.Together(pair)  # after a search that was killed with its file in the folder
    assert met[-1][0] not in names
    assert not names[0].exists()
    killed.close()
    assert not list(job.folder.glob("meeting*"))


def test_a_group_without_a_gpu_for_each_is_refused_before_the_search(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(together, "Worker", lambda *_: pytest.fail("a process was started"))
    base, tune = job.base.model_copy(update={"device": "auto"}), job.tune.model_copy(update={"processes": 2})
    with pytest.raises(MachineError, match="CUDA devices: 1"):
        together.Together(replace(job, base=base, tune=tune))


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
        "CUDA out of memory",
    ],
)
def test_every_library_has_its_words_for_too_little_memory(said: str) -> None:
    def train(task: Task) -> Training:
        raise RuntimeError(said)
        yield

    event = Local(train).begin(Task(0, 0, {}))
    assert isinstance(event, Outcome)
    assert (event.state, event.error, event.lost) == ("failed", f"out of memory: {said}", False)


PROCESS_DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
NODE_DIED = "The actor died because its node has died. Node Id: 0123"
MEMORY = "Task was killed due to the node running low on memory."
CLOSED = "the connection was closed"


def of_ray(said: str) -> Exception:
    """The error with which Ray says it."""
    from ray import exceptions

    if said == CLOSED:
        return exceptions.ActorUnavailableError(said, None)
    if said == MEMORY:
        return exceptions.OutOfMemoryError(said)
    error = exceptions.ActorDiedError()
    error.error_msg = f"{error.BASE_ERROR_MSG}\n\tclass_name: There\n\tip: 10.0.0.2\n{said}"
    return error


class Remote:
    """Stands for a Ray actor, its class and its methods."""

    def remote(self, *args: Any) -> Remote:
        return self

    def options(self, **more: Any) -> Remote:
        return self

    answer = __ray_ready__ = property(remote)


@pytest.fixture
def ray_runner(job: Job, monkeypatch: pytest.MonkeyPatch) -> Callable[..., on_ray.OnRay]:
    """Makes a runner of whose actor Ray says this, one after the other."""
    import ray

    def made(*said: str) -> on_ray.OnRay:
        left = [of_ray(one) for one in said]

        def get(*args: Any, **more: Any) -> Any:
            if left:
                raise left.pop(0)

        monkeypatch.setattr(ray, "get", get)
        monkeypatch.setattr(ray, "kill", lambda actor: None)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 1.0}}])
        monkeypatch.setattr(ray, "remote", lambda kind: Remote())
        return on_ray.OnRay(job, learner, 1, 1, 0.0)

    return made


@pytest.mark.parametrize(
    ("said", "told", "lost"),
    [
        ([PROCESS_DIED], PROCESS_DIED, False),
        ([MEMORY], MEMORY, False),
        ([NODE_DIED], NODE_DIED, True),
        ([CLOSED, NODE_DIED], NODE_DIED, True),
        ([CLOSED, PROCESS_DIED], PROCESS_DIED, False),
        ([CLOSED], CLOSED, True),
    ],
)
def test_a_death_on_ray_is_told_in_its_words_and_whether_the_machine_went(
    ray_runner: Callable[..., on_ray.OnRay], said: list[str], told: str, lost: bool
) -> None:
    event = ray_runner(*said).begin(Task(0, 0, {}))
    assert isinstance(event, Outcome)
    assert event.error.startswith("its Ray worker died: ")
    assert told in event.error
    assert (event.state, event.lost) == ("failed", lost)


class Asked:
    """A question to a Dask actor, or what becomes one: a future with this result, this error, or none for long."""

    status = "finished"

    def __init__(self, found: Any = None, ends: bool = True) -> None:
        self.found, self.ends, self.asked = found, ends, threading.Event()

    def result(self, timeout: float | None = None) -> Any:
        self.asked.set()
        if isinstance(self.found, Exception):
            raise self.found
        if not self.ends:
            time.sleep(20 if timeout is None else timeout)
            raise TimeoutError
        return self.found

    def done(self) -> bool:
        return self.ends

    def release(self) -> None:
        pass


class DaskActor:
    _address = "tcp://10.0.0.2:1"

    def __init__(self, asked: Asked) -> None:
        self.answer = lambda method, argument: asked


class DaskClient:
    """Stands for a client: ``made`` are the actors that its workers make, ``nannies`` who has started workers."""

    def __init__(self, *made: Any) -> None:
        self.made = list(made)
        self.worker = {"nanny": "tcp://10.0.0.2:2", "local_directory": "/one"}

    def wait_for_workers(self, count: int, timeout: float) -> None:
        pass

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        return {"workers": {DaskActor._address: self.worker}}

    def submit(self, *args: Any, **more: Any) -> Asked:
        return Asked(self.made.pop(0))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no time for a runner"),
        (ModuleNotFoundError("No module named 'tasks'"), "No module named 'tasks'"),
        (RuntimeError("all those workers died while running it"), "all those workers died"),
        (OSError("the scheduler is gone"), "the scheduler is gone"),
    ],
)
def test_a_runner_that_dask_cannot_make_is_the_machines_fault_at_first_and_after_a_death(
    job: Job, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_dask, "_SECONDS", 0.1)
    with pytest.raises(MachineError, match=said):
        on_dask.OnDask(job, learner, DaskClient(error), 0)  # type: ignore[arg-type]
    died = DaskActor(Asked(OSError("Unable to contact Actor's worker")))
    runner = on_dask.OnDask(job, learner, DaskClient(died, error), 0)  # type: ignore[arg-type]
    with pytest.raises(MachineError, match=said):
        runner.begin(Task(0, 0, {}))


@pytest.mark.parametrize(
    ("nanny", "folder", "lost"),
    [("tcp://10.0.0.2:2", "/two", False), ("tcp://10.0.0.3:2", "/two", True), (None, "/one", False)],
)
def test_a_death_on_dask_is_told_with_whether_the_machine_went(
    job: Job, monkeypatch: pytest.MonkeyPatch, nanny: str | None, folder: str, lost: bool
) -> None:
    monkeypatch.setattr(on_dask, "_SECONDS", 0.1)
    died = DaskActor(Asked(OSError("Unable to contact Actor's worker")))
    client = DaskClient(died, DaskActor(Asked(("event", Report(1, 0.5)))))
    if nanny is None:
        client.worker["nanny"] = None  # type: ignore[assignment]
    runner = on_dask.OnDask(job, learner, client, 0)  # type: ignore[arg-type]
    client.worker = {"nanny": nanny, "local_directory": folder}  # type: ignore[dict-item]
    event = runner.begin(Task(0, 0, {}))
    assert isinstance(event, Outcome)
    assert event.error.startswith("its Dask worker")
    assert (event.state, event.lost) == ("failed", lost)
    assert runner.begin(Task(1, 0, {})) == Report(1, 0.5)


def test_nobody_waits_for_a_dask_actor_that_is_closed_or_whose_worker_was_lost(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_dask, "_SECONDS", 0.1)
    monkeypatch.setattr(on_dask, "_LOOK_SECONDS", 0.05)
    for ends in ("close", "loss"):
        question = Asked(ends=False)
        silent = DaskActor(question)
        runner = on_dask.OnDask(job, learner, DaskClient(silent, silent), 0)  # type: ignore[arg-type]
        began, heard = time.monotonic(), list[Event]()
        waits = threading.Thread(target=lambda runner=runner, heard=heard: heard.append(runner.begin(Task(0, 0, {}))))
        waits.start()
        assert question.asked.wait(10)
        runner.close() if ends == "close" else setattr(runner._future, "status", "error")
        waits.join(10)
        assert time.monotonic() - began < 10
        assert [event.state for event in heard if isinstance(event, Outcome)] == ["failed"]


class Absent:
    """Makes runners where a module is that no worker of a cluster has."""

    def __call__(self, job: Job) -> Any:
        pytest.fail("it is nowhere")

    def __reduce__(self) -> Any:
        return importlib.import_module, ("assay_of_another_machine",)


@pytest.mark.parametrize(
    ("cluster", "said"), [(on_ray.cluster, "assay_of_another_machine"), (on_dask.cluster, "different environments")]
)
def test_a_cluster_whose_machines_lack_a_module_is_told(job: Job, cluster: Any, said: str) -> None:
    with pytest.raises(MachineError, match=said) as caught, cluster(job, 1, Absent()) as runners:
        runners[0].begin(Task(0, 0, {"learning_rate": 0.1}))
    assert "same packages" in caught.value.way_out


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
    assert not any(worker.is_alive() for worker in workers), "no training is left behind"
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
        root = tmp_path / f"{processes} Köpfe"
        run_stage("tune", worlds.write(root, {"tune": values | {"processes": processes}}), root)
        with (root / "artifacts" / "tune" / "curves.csv").open() as file:
            curves.append([float(row["value"]) for row in csv.DictReader(file)])
    alone, together = curves
    assert len(alone) == 3
    assert together == pytest.approx(alone, abs=2e-4)
