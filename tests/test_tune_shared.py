"""A study in a database that others see too: a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import postgresql_world
import pytest
import worlds
from test_tune_search import SPACE, Killed, learn, plain, tune

from tasks.core import files
from tasks.core.errors import UsageError
from tasks.core.stage import run_stage
from tasks.tune import study
from tasks.tune.search import search
from tasks.tune.trial import Local, Report, Task, Training

SHARED = {"storage": "shared", "pruner": "none", "trials": 5}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql_world.server() as address:
        yield address


@pytest.fixture
def database(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(study.ADDRESS, server)
    return server


def run(folder: Path, train: Any = learn, data: str = "a", **values: Any) -> list[optuna.trial.FrozenTrial]:
    settings = tune(**SHARED | values)
    return search(study.open_study(settings, folder, about={"the data": data}), settings, 11, [Local(train)])


def test_the_same_trials_in_a_database_and_in_a_file(tmp_path: Path, database: str) -> None:
    shared = run(tmp_path / "same")
    assert plain(shared) == plain(run(tmp_path / "journal", storage="journal"))
    assert plain(run(tmp_path / "same", trials=6))[:5] == plain(shared), "it goes on with more trials"


def test_a_killed_search_loses_no_finished_trial_and_marks_the_one_that_ran(tmp_path: Path, database: str) -> None:
    def killed(task: Task) -> Training:
        if task.number == 3:
            yield Report(1, 0.1)
            raise Killed
        return (yield from learn(task))

    with pytest.raises(Killed):
        run(tmp_path / "killed", killed)
    expected = plain(run(tmp_path / "undisturbed"))
    found = plain(run(tmp_path / "killed"))
    assert found[:3] == expected[:3]
    assert [number for number, *_ in found] == [0, 1, 2, 4, 5], "trial 3 does not count"
    everything = optuna.load_study(study_name="killed", storage=database.replace("postgresql", "postgresql+psycopg"))
    assert everything.trials[3].user_attrs == {"error": study.INTERRUPTED}


def test_a_study_goes_on_only_with_its_own_space_data_and_training(tmp_path: Path, database: str) -> None:
    run(tmp_path, study="mine")
    changes = {
        "dropout was": {"space": SPACE | {"dropout": {"low": 0.0, "high": 0.4}}},
        "the data changed": {"data": "b"},
        "tune.epochs changed": {"epochs": 7},
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
