"""The parts of the room that only a real network can show: costs, pace, shared rows, early ends."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
import worlds

from tasks import tune
from tasks.core import files, manifest
from tasks.core.errors import MachineError
from tasks.core.settings import Costs, Params, parse
from tasks.core.stage import StageSettings, run_stage
from tasks.tune import objective, proposals, rows, workers
from tasks.tune.choose import Candidate
from tasks.tune.objective import Objective, has_stalled
from tasks.tune.processes import Worker
from tasks.tune.trial import Job, Outcome, Report, Task, Training


@pytest.fixture(scope="module")
def params() -> Params:
    return parse(worlds.params())


@pytest.fixture(scope="module")
def task(params: Params) -> Task:
    return workers.middle(params.tune.space)


@pytest.fixture
def job(tiny: Path, tmp_path: Path, params: Params) -> Job:
    settings = StageSettings(params.base, params.tune, tmp_path)
    splits = tiny / "artifacts" / "validate"
    return Job.of(settings, manifest.read(splits).facts, splits, tmp_path)


def test_what_a_model_costs_is_measured_and_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "_LATENCY_RUNS", 3)
    tune = {
        "objectives": ["metric", "size_kib", "latency_ms"], "limits": {"training_seconds": 1000.0}, "pick": "knee",
        "pruner": "none", "sampler": "random", "epochs": 1,
    }  # fmt: skip
    run_stage("tune", worlds.write(tmp_path, {"tune": tune}), tmp_path)
    tuned = tmp_path / "artifacts" / "tune"
    with (tuned / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert all(float(trial[cost]) > 0 for trial in trials for cost in ("size_kib", "latency_ms", "training_seconds"))
    sizes = {trial["hidden"]: float(trial["size_kib"]) for trial in trials}
    assert len(sizes) == 1 or sizes["48"] < sizes["64"]
    best = files.read_json(tuned / "best.json")["trial"]
    assert next(trial["front"] for trial in trials if int(trial["trial"]) == best) == "yes"
    assert files.read_json(tuned / "models.json")[0]["trial"] == best
    assert "against latency_ms" in (tuned / "report.html").read_text()


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other, equal_nan=True)


def test_a_worker_maps_the_rows_that_another_process_wrote(job: Job) -> None:
    whole = Objective.prepare(job)
    shared = workers.share(job, whole)
    read = Objective.prepare(job)
    for found in (shared, read, workers.share(job, read)):
        assert all(same(a.numpy(), b.numpy()) for a, b in zip(found.examples, whole.examples, strict=True))
        assert all(same(a, b) for a, b in zip(found.inputs, whole.inputs, strict=True))
        assert np.array_equal(found.labels, whole.labels)
    read.examples[0].zero_()
    again, *_ = rows.read(job.folder / "rows")[0]
    assert same(again.numpy(), whole.examples[0].numpy()), "a page that is written to is a copy"
    mapped = Path("/proc/self/maps")
    assert not mapped.exists() or str(job.folder / "rows" / "example-0.npy") in mapped.read_text()


def test_the_pace_is_measured_without_a_whole_training(job: Job, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_TIMED_SECONDS", 0.05)
    runner = workers._pacer(job)
    assert isinstance(runner.begin(task), Report)
    paced = runner.go_on(False)
    assert isinstance(paced, Outcome)
    assert paced.score is not None
    assert paced.score > 100
    assert not list(job.folder.glob("trial-*")), "nothing is left"


def test_a_trial_that_was_interrupted_goes_on_after_its_last_epoch(
    job: Job, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.tune.checkpoints._SHARE_OF_TIME", 1e9)  # keep every epoch, whatever it costs
    steps: list[int] = []
    learn = Objective.loss

    def counted(self: Objective, network: Any, batch: Any) -> Any:
        steps.append(len(batch[0]))
        return learn(self, network, batch)

    monkeypatch.setattr(Objective, "loss", counted)

    def scores(training: Training, most: int) -> list[float]:
        steps.clear()
        told: list[float] = []
        answer: bool | None = None
        while len(told) < most:
            try:
                told.append(training.send(answer).score)  # type: ignore[arg-type]
            except StopIteration:
                break
            answer = False
        return told

    whole = scores(Objective.prepare(job).train(task), 99)
    all_steps = len(steps)
    assert len(whole) == job.tune.epochs == 3
    assert scores(Objective.prepare(job).train(replace(task, number=1)), 2) == whole[:2]
    assert scores(Objective.prepare(job).train(replace(task, number=1)), 99) == whole
    assert len(steps) == all_steps / 3, "two epochs of three were not trained again"


def told(training: Training) -> tuple[list[float], Outcome]:
    """The scores of a training's epochs, and how it ended."""
    scores: list[float] = []
    event = next(training)
    while True:
        scores.append(event.score)
        try:
            event = training.send(False)
        except StopIteration as ended:
            return scores, ended.value


def test_a_trial_that_ended_before_the_process_was_killed_is_not_trained_again(
    job: Job, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = replace(job, tune=job.tune.model_copy(update={"limits": Costs(training_seconds=1000.0), "epochs": 2}))
    prepared = Objective.prepare(limited)
    expected = told(prepared.train(task))
    steps: list[int] = []
    learn = Objective.loss

    def counted(self: Objective, network: Any, batch: Any) -> Any:
        steps.append(len(batch[0]))
        return learn(self, network, batch)

    monkeypatch.setattr(Objective, "loss", counted)
    assert told(prepared.train(task)) == expected, "with the time that the training took"
    training = prepared.train(task)
    next(training)
    with pytest.raises(StopIteration) as ended:
        training.send(True)
    assert ended.value.value == Outcome("stopped")
    assert not steps
    sized = job.tune.model_copy(update={"limits": Costs(size_kib=1000.0), "epochs": 2})
    others = [
        (prepared, replace(task, seed=task.seed + 1)),
        (prepared, replace(task, values={**task.values, "learning_rate": 2 * task.values["learning_rate"]})),
        (replace(prepared, settings=sized), task),
    ]
    for objective_, other in others:
        steps.clear()
        told(objective_.train(other))
        assert steps, "what was kept is of another training, or lacks a cost"


def test_the_time_in_which_a_training_waits_for_the_study_is_not_its_own(
    job: Job, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def evaluate(*_: Any) -> float:
        clock[0] += 10
        return 0.5

    prepared = Objective.prepare(
        replace(job, tune=job.tune.model_copy(update={"limits": Costs(training_seconds=1000.0)}))
    )
    monkeypatch.setattr(Objective, "evaluate", evaluate)
    monkeypatch.setattr("tasks.tune.checkpoints.time.perf_counter", lambda: clock[0])
    training = prepared.train(task)
    next(training)
    with pytest.raises(StopIteration) as ended:
        while True:
            clock[0] += 1000
            training.send(False)
    assert ended.value.value.costs == {"training_seconds": 10.0 * job.tune.epochs}


def test_a_trial_ends_early_where_params_say_so(job: Job, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.55, 0.54])  # the first is the look at whether the metric fits
    monkeypatch.setattr(Objective, "evaluate", lambda *_: next(scores))
    prepared = Objective.prepare(replace(job, tune=job.tune.model_copy(update={"early_stopping": 1, "epochs": 9})))
    training = prepared.train(task)
    assert [next(training).score, training.send(False).score] == [0.6, 0.55]
    with pytest.raises(StopIteration) as ended:
        training.send(False)
    assert ended.value.value == Outcome("complete", 0.55, {})


def test_a_training_is_what_params_say(job: Job, task: Task) -> None:
    own = {"clip": 0.5, "parts": 2, "compile": True, "epochs": 7, "batch_size": 96, "precision": "bf16"}
    recipe = Objective.prepare(replace(job, tune=job.tune.model_copy(update=own))).recipe(task.values)
    assert (recipe.clip, recipe.parts, recipe.compiled, recipe.together) == (0.5, 2, True, 1)
    assert (recipe.epochs, recipe.batch_size, recipe.dtype) == (7, 96, torch.bfloat16)
    assert recipe.learning_rate == task.values["learning_rate"]


def test_the_number_of_workers_is_measured_where_params_leave_it_open(
    job: Job, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(workers, "measured", lambda job, task, most: asked.append(most) or 2)
    monkeypatch.setattr(workers.devices, "cores", lambda: 16)
    open_ = params.tune.model_copy(update={"workers": "auto", "trials": 5})
    assert workers._count(open_, job) == 2
    assert asked == [5], "never more than there are trials"
    assert workers._count(open_.model_copy(update={"workers": 8}), job) == 5


@pytest.mark.parametrize(
    ("rates", "memory", "best"),
    [
        ({1: 100, 2: 180, 4: 190, 8: 500}, 1, 2),
        ({1: 100, 2: 105}, 1, 1),
        ({1: 100, 2: 200, 4: 400}, 1 << 60, 1),
        ({1: 0, 2: 0}, 0, 1),
    ],
)
def test_no_more_processes_are_taken_than_pay_off_or_fit(
    job: Job, task: Task, monkeypatch: pytest.MonkeyPatch, rates: dict[int, float], memory: int, best: int
) -> None:
    monkeypatch.setattr(workers, "_rate", lambda job, task, count: (rates[count], memory))
    assert workers.measured(job, task, max(rates)) == best


def test_kept_trials_whose_second_training_breaks_down_are_told(job: Job, params: Params, tmp_path: Path) -> None:
    class Broken:
        def begin(self, task: Task) -> Outcome:
            return Outcome("failed", error="out of memory")

    settings = StageSettings(params.base, params.tune, tmp_path)
    searched = proposals.distributions(params.tune.space)
    trial = optuna.trial.create_trial(
        value=0.9, params=dict(optuna.study.create_study().ask(searched).params), distributions=searched
    )
    with pytest.raises(MachineError, match="trial -1 failed: out of memory"):
        tune._train_again(settings, Broken(), tmp_path, [Candidate(trial.number, 0.9, {})], [trial])


def test_workers_that_run_out_of_memory_while_they_are_measured_are_too_many(
    job: Job, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Worker):
        def begin(self, task: Task) -> Outcome:
            self.close()
            return Outcome("failed", error="out of memory")

    assert workers._rate(job, task, 1)[0] > 0
    monkeypatch.setattr(workers, "Worker", Broken)
    assert workers._rate(job, task, 2) == (0.0, 0)


@pytest.mark.parametrize(("threads", "each"), [(None, 3), (5, 5)])
def test_cores_are_divided_unless_their_number_is_set(
    job: Job, monkeypatch: pytest.MonkeyPatch, threads: int | None, each: int
) -> None:
    monkeypatch.setattr(workers.devices, "cores", lambda: 6)
    own = Job(job.base.model_copy(update={"threads": threads}), job.tune, job.facts, job.splits, job.folder)
    assert workers.share_of_cores(own, 2).base.threads == each


def test_a_worker_that_is_closed_is_not_started_again(job: Job, task: Task) -> None:
    worker = Worker(job)
    worker.close()
    outcome = worker.begin(task)
    assert isinstance(outcome, Outcome)
    assert outcome.error == "the search is over"
    assert not worker.is_alive()


@pytest.mark.parametrize(
    ("scores", "patience", "higher", "stalled"),
    [
        ([0.1, 0.2, 0.3], 2, True, False),
        ([0.3, 0.2, 0.3], 2, True, True),
        ([0.3, 0.2, 0.1], 2, True, True),
        ([0.3, 0.2, 0.1], 2, False, False),
        ([0.3, 0.2], 2, True, False),
        ([0.3, 0.2, 0.1], None, True, False),
    ],
)
def test_a_training_has_stalled_after_so_many_epochs_without_a_better_one(
    scores: list[float], patience: int | None, higher: bool, stalled: bool
) -> None:
    assert has_stalled(scores, patience, higher) == stalled
