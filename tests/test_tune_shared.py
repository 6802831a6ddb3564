"""A study in a database that others see too: a real PostgreSQL, also behind a real proxy."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import worlds
from learners import EPOCHS, learner
from test_tune_search import SPACE, TRADE_OFF, Killed, learn, plain, tune

from tasks.core import files
from tasks.core.errors import MachineError, UsageError
from tasks.core.settings import Tune, parse
from tasks.core.stage import run_stage
from tasks.tune import database as database_of
from tasks.tune import study
from tasks.tune.processes import Worker
from tasks.tune.search import search
from tasks.tune.trial import INTERRUPTED, Job, Local, Report, Task, Training

SHARED = {"storage": "shared", "pruner": "none", "trials": 5}


#: As docs/tuning.md says it.
PROXY = """
import os
from optuna.storages import RDBStorage, run_grpc_proxy_server
run_grpc_proxy_server(RDBStorage(os.environ["DATABASE"]), host="127.0.0.1", port=int(os.environ["PORT"]))
"""


@pytest.fixture
def proxy(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """A proxy in front of the database, in a process of its own; the database itself is not told."""
    pytest.importorskip("grpc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = {"DATABASE": database.replace("postgresql", "postgresql+psycopg"), "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROXY], env=os.environ | there)
    monkeypatch.setenv(database_of.ADDRESS, f"grpc://127.0.0.1:{port}")
    monkeypatch.setattr(database_of, "_CONNECT_SECONDS", 120)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(
    folder: Path, train: Any = learn, data: str = "a", code: str = "a", **values: Any
) -> list[optuna.trial.FrozenTrial]:
    settings = tune(**SHARED | values)
    about = {"the data": data, "the code or a library": code}
    return search(study.open_study(settings, folder, about=about), settings, 11, [Local(train)])


def test_the_same_trials_in_a_database_and_in_a_file(tmp_path: Path, database: str) -> None:
    shared = run(tmp_path / "same")
    assert plain(shared) == plain(run(tmp_path / "journal", storage="journal"))
    assert plain(run(tmp_path / "same", trials=6))[:5] == plain(shared), "it goes on with more trials"


def killed(task: Task) -> Training:
    if task.number == 3:
        yield Report(1, 0.1)
        raise Killed
    return (yield from learn(task))


@pytest.mark.parametrize(("sampler", "more"), [("cmaes", {}), ("nsga2", TRADE_OFF)])
def test_what_a_sampler_keeps_for_itself_survives_a_kill(
    tmp_path: Path, database: str, sampler: str, more: Mapping[str, Any]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / f"killed-{sampler}", killed, sampler=sampler, trials=8, **more)
    found = plain(run(tmp_path / f"killed-{sampler}", sampler=sampler, trials=8, **more))
    assert found == plain(run(tmp_path / f"undisturbed-{sampler}", sampler=sampler, trials=8, **more))


def test_a_study_that_died_before_it_had_said_what_it_is_about_begins(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: optuna.Study, key: str, value: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(optuna.Study, "set_user_attr", dies)
        run(tmp_path / "young")
    assert len(run(tmp_path / "young")) == 5


def test_the_same_trials_through_a_proxy_by_two_workers(tmp_path: Path, proxy: object) -> None:
    trials: dict[str, Any] = {}
    for storage in ("shared", "journal"):
        settings = tune(**SHARED | {"storage": storage, "epochs": EPOCHS, "sampler": "random"})
        params = parse(worlds.params())
        workers = [Worker(Job(params.base, Tune(), {}, tmp_path, tmp_path), learner) for _ in range(2)]
        try:
            found = search(study.open_study(settings, tmp_path / f"proxy-{storage}"), settings, 3, workers)
        finally:
            for worker in workers:
                worker.close()
        trials[storage] = plain(found)
    assert trials["shared"] == trials["journal"]
    assert [state for _, state, *_ in trials["shared"]].count("FAIL") == 2, "two were killed or out of memory"


def test_through_a_proxy_a_killed_search_loses_no_finished_trial_and_marks_the_one_that_ran(
    tmp_path: Path, proxy: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(Killed):
        run(tmp_path / "marked", killed)
    expected = plain(run(tmp_path / "journal", storage="journal"))
    found = plain(run(tmp_path / "marked"))
    assert found[:3] == expected[:3]
    assert [number for number, *_ in found] == [0, 1, 2, 4, 5], "trial 3 does not count"
    opened = study.open_study(tune(**SHARED), tmp_path / "marked", about={"the data": "a"})
    assert opened.trials[3].user_attrs == {"error": INTERRUPTED}
    proxy.kill()
    proxy.wait()
    with pytest.raises(MachineError, match="must answer"):
        search(opened, tune(**SHARED | {"trials": 9}), 11, [Local(learn)])


def test_a_study_that_another_search_runs_is_left_alone(tmp_path: Path, database: str) -> None:
    run(tmp_path / "mine")
    assert len(run(tmp_path / "mine", trials=6)) == 6, "this process may go on with its own"
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('assay.tune'), hashtext('theirs'))")
        with pytest.raises(MachineError, match="another one runs theirs") as caught:
            run(tmp_path / "theirs")
    assert "tune.study" in str(caught.value)
    assert len(run(tmp_path / "theirs")) == 5


def test_a_study_goes_on_only_with_its_own_space_data_and_training(tmp_path: Path, database: str) -> None:
    run(tmp_path, study="mine")
    changes = {
        "dropout was": {"space": SPACE | {"dropout": {"low": 0.0, "high": 0.4}}},
        "the data changed": {"data": "b"},
        "tune.epochs changed": {"epochs": 7},
        "the code or a library changed": {"code": "b"},
    }
    for said, change in changes.items():
        with pytest.raises(UsageError, match=said) as caught:
            run(tmp_path, study="mine", **change)
        assert "tune.study: mine-2" in str(caught.value)
        assert "hidden was" not in str(caught.value)
    assert len(run(tmp_path, study="mine-2", data="b")) == 5


def test_the_room_trains_again_what_another_run_has_found(tmp_path: Path, database: str) -> None:
    """A study outlives the weights of its trials; the best are made again, to the last bit."""
    values = {"storage": "shared", "study": "room", "epochs": 1, "sampler": "random", "trials": 2, "top_k": 2}
    made = []
    for trials in (2, 3):
        root = tmp_path / str(trials)
        run_stage("tune", worlds.write(root, {"tune": values | {"trials": trials}}), root)
        tuned = root / "artifacts" / "tune"
        found = files.read_json(tuned / "models.json")
        made.append({model["trial"]: files.sha256(tuned / model["file"]) for model in found})
    assert len(made[1]) == 2
    assert any(made[0].get(trial) == digest for trial, digest in made[1].items())
