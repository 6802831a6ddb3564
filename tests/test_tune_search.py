"""What a search can be told to do: every method, budget, space, earlier search and trade-off; no network is trained."""

from __future__ import annotations

import csv
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy.exc
import worlds
from optuna.trial import FrozenTrial

from tasks.core import chosen
from tasks.core.errors import MachineError, NotProven, SettingsError, UsageError
from tasks.core.settings import Tune, parse
from tasks.tune import choose, database, methods, proposals, study, tables
from tasks.tune.choose import Candidate
from tasks.tune.search import search
from tasks.tune.trial import Local, Outcome, Report, Task, Training

EPOCHS = 6
FIXED = {"weight_decay": 0.0, "layers": 2, "feature_dropout": 0.0, "number_dim": 2, "category_dim": 2}
SPACE = FIXED | {
    "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "hidden": {"low": 8, "high": 64, "step": 8},
    "dropout": {"low": 0.0, "high": 0.5},
}
CONDITIONAL = SPACE | {
    "layers": {"choices": [1, 2, 3]},
    "dropout": {"low": 0.1, "high": 0.5, "when": {"layers": [2, 3]}, "otherwise": 0.0},
    "feature_dropout": {"choices": [0.1, 0.2], "when": {"layers": [3]}, "otherwise": 0.5},
}
ONE, SEVERAL = ("random", "qmc", "tpe", "gp", "cmaes"), ("random", "qmc", "tpe", "gp", "nsga2", "nsga3")
TRADE_OFF = {"objectives": ["metric", "size_kib"], "pruner": "none"}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the search may handle it."""


def tune(**values: Any) -> Tune:
    return parse(worlds.params({"tune": {"trials": 8, "epochs": EPOCHS, "space": SPACE} | values})).tune


def mistakes(**values: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        tune(**values)
    return {mistake.key: f"{mistake.rule} | {mistake.way_out}" for mistake in caught.value.mistakes}


def learn(task: Task) -> Training:
    """A curve that the hyperparameters decide; a wide network is better, and costs more."""
    values = task.values
    quality = 0.9 - abs(values["dropout"] - 0.2) - values["learning_rate"] - 1 / values["hidden"]
    for epoch in range(1, EPOCHS + 1):
        if (yield Report(epoch, quality * (1 - 0.5**epoch))):
            return Outcome("stopped")
    return Outcome("complete", quality, {"size_kib": float(values["hidden"] * values["layers"])})


def run(settings: Tune, folder: Path, train: Any = learn, **more: Any) -> list[FrozenTrial]:
    return search(study.open_study(settings, folder), settings, 11, [Local(train)], **more)


def plain(trials: list[FrozenTrial]) -> list[Any]:
    return [(trial.number, trial.state.name, trial.params, trial.values) for trial in trials]


# Methods.


@pytest.mark.parametrize(
    ("sampler", "more"),
    [(sampler, {}) for sampler in ONE] + [(sampler, TRADE_OFF) for sampler in SEVERAL if sampler != "random"],
)
def test_every_sampler_goes_on_after_a_kill_as_if_nothing_had_happened(
    tmp_path: Path, sampler: str, more: Mapping[str, Any]
) -> None:
    """Whatever a sampler keeps for itself (a generation, a distribution) survives too."""
    settings = tune(sampler=sampler, trials=8, **more)
    expected = plain(run(settings, tmp_path / "undisturbed"))
    assert len(expected) == 8
    assert len({str(params) for _, _, params, _ in expected}) >= 7, "it does not propose the same again and again"

    def killed(at: int) -> Any:
        def train(task: Task) -> Training:
            running = learn(task)
            if task.number == at:
                yield next(running)
                raise Killed
            return (yield from running)

        return train

    for at in (2, 6):
        with pytest.raises(Killed):
            run(settings, tmp_path / "killed", killed(at))
    assert plain(run(settings, tmp_path / "killed")) == expected


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median", "wilcoxon"])
def test_every_pruner_stops_hopeless_trials_and_lets_the_best_one_end(tmp_path: Path, pruner: str) -> None:
    trials = run(tune(sampler="random", pruner=pruner, trials=20), tmp_path)
    pruned = [trial for trial in trials if trial.state.name == "PRUNED"]
    assert pruned
    assert all(len(trial.intermediate_values) < EPOCHS for trial in pruned)
    all_through = run(tune(sampler="random", pruner="none", trials=20), tmp_path / "none")
    best = max(all_through, key=lambda trial: trial.values[0])
    assert trials[best.number].state.name == "COMPLETE"


def test_the_sequence_fills_the_space_more_evenly_than_chance(tmp_path: Path) -> None:
    trials = run(tune(sampler="qmc", trials=16, pruner="none"), tmp_path)
    for name, low, high in (("dropout", 0.0, 0.5), ("hidden", 8 - 4, 64 + 4)):
        quarters = [int(4 * (trial.params[name] - low) / (high - low)) for trial in trials]
        assert sorted(quarters) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, name


# Budgets.


def test_the_search_ends_after_so_many_trials_without_a_better_one(tmp_path: Path) -> None:
    def worse_and_worse(task: Task) -> Training:
        yield Report(1, -float(task.number))
        return Outcome("complete", 1.0 if task.number == 2 else -float(task.number))

    trials = run(tune(trials=50, patience=4, pruner="none"), tmp_path, worse_and_worse)
    assert [trial.number for trial in trials] == list(range(2 + 1 + 4))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], Training]:
    """:func:`learn`, where every epoch takes ten seconds of the search's clock."""
    clock = [0.0]
    monkeypatch.setattr("tasks.tune.search.time.monotonic", lambda: clock[0])

    def train(task: Task) -> Training:
        training, stop = learn(task), None
        while True:
            try:
                report = training.send(stop)  # type: ignore[arg-type]
            except StopIteration as ended:
                outcome: Outcome = ended.value
                return outcome
            clock[0] += 10
            stop = yield report

    return train


def test_the_search_ends_with_its_time_and_stops_what_is_running(
    tmp_path: Path, slow: Callable[[Task], Training]
) -> None:
    settings = tune(trials=50, minutes=1.5, pruner="none")
    trials = run(settings, tmp_path, slow)
    assert [(trial.state.name, len(trial.intermediate_values)) for trial in trials] == [("COMPLETE", 6), ("PRUNED", 3)]
    assert len(run(settings, tmp_path, slow)) == 2, "a search whose time is over is over after a restart, too"

    with pytest.raises(NotProven, match=r"tune\.minutes \(0\.5\) was over"):
        run(tune(trials=50, minutes=0.5, pruner="none"), tmp_path / "short", slow)


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_a_trial_that_time_cut_short_is_none_of_the_budget_once_there_is_more(
    tmp_path: Path, slow: Callable[[Task], Training], sampler: str
) -> None:
    for minutes in (0.5, 1.0):
        with pytest.raises(NotProven, match="was over before a trial"):
            run(tune(trials=2, minutes=minutes, sampler=sampler, pruner="none"), tmp_path, slow)
    trials = run(tune(trials=2, minutes=None, sampler=sampler, pruner="none"), tmp_path, slow)
    assert [trial.state.name for trial in trials] == ["PRUNED", "PRUNED", "COMPLETE", "COMPLETE"]
    if sampler == "grid":
        assert trials[0].params == trials[1].params == trials[2].params != trials[3].params


def test_a_search_without_time_for_one_trial_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotProven, match="was over before the first began") as caught:
        run(tune(minutes=1e-9), tmp_path)
    assert caught.value.way_out == "raise tune.minutes"


def test_time_or_patience_without_a_number_of_trials_is_the_budget(
    tmp_path: Path, slow: Callable[[Task], Training]
) -> None:
    assert tune(trials=None).most_trials == 10
    trials = run(tune(trials=None, minutes=15, sampler="random", pruner="none"), tmp_path / "time", slow)
    assert len(trials) == 15, "of a minute each"
    trials = run(tune(trials=None, patience=12, sampler="random", pruner="none"), tmp_path / "patience")
    best = max(trials, key=lambda trial: trial.values[0])
    assert len(trials) == best.number + 1 + 12

    def diverge(task: Task) -> Training:
        raise FloatingPointError("the scores are not finite")
        yield

    with pytest.raises(NotProven, match="all 3 failed"):
        run(tune(trials=None, patience=3), tmp_path / "nothing", diverge)


def test_while_one_runner_waits_for_a_proposal_the_epochs_of_another_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proposing, heard, in_time = threading.Event(), threading.Event(), list[bool]()

    class Slow(optuna.samplers.RandomSampler):
        def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
            if trial.number == 2:
                proposing.set()
                in_time.append(heard.wait(10))
            return super().sample_relative(study, trial, search_space)

    def train(task: Task) -> Training:
        if task.number == 0:
            assert proposing.wait(10)
            yield Report(1, 0.5)
            heard.set()
        return Outcome("complete", 0.5 + task.number / 100)

    monkeypatch.setattr(methods, "sampler", lambda _settings, seed, number: Slow(seed=seed + number))
    settings = tune(trials=3, pruner="none")
    search(study.open_study(settings, tmp_path), settings, 11, [Local(train), Local(train)])
    assert in_time == [True]


def test_a_metric_that_tells_nothing_apart_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def constant(task: Task) -> Training:
        yield Report(1, 0.5)
        return Outcome("complete", 0.5)

    settings = tune(pruner="none")
    with caplog.at_level("WARNING", "assay"):
        found = study.open_study(settings, tmp_path)
        trials = search(found, settings, 11, [Local(constant)])
    assert "all 8 completed trials reach exactly 0.5" in caplog.text
    tables.write(found, trials, 0, settings, "auc", tmp_path)
    assert not (tmp_path / "importance.json").exists()
    assert "0.5" in (tmp_path / "report.html").read_text()


# Spaces.


@pytest.mark.parametrize("sampler", ["grid", "qmc", "gp", "tpe", "random"])
def test_a_hyperparameter_on_a_condition_is_searched_only_where_it_holds(tmp_path: Path, sampler: str) -> None:
    given: list[Mapping[str, Any]] = []

    def keep(task: Task) -> Training:
        given.append(task.values)
        return (yield from learn(task))

    trials = run(tune(sampler=sampler, space=CONDITIONAL, trials=24, pruner="none"), tmp_path, keep)
    for trial, values in zip(trials, given, strict=True):
        layers = values["layers"]
        assert ("dropout" in trial.params) == (layers in (2, 3))
        assert ("feature_dropout" in trial.params) == (layers == 3)
        assert values["dropout"] == 0.0 or layers > 1
        assert (values["feature_dropout"] == 0.5) == (layers < 3)
        assert trial.params["hidden"] % 8 == 0
    assert {values["layers"] for values in given} == {1, 2, 3}
    if sampler == "grid":
        assert len({str(trial.params) for trial in trials}) == 24, "no point twice"


def test_the_grid_has_a_point_for_each_thing_that_really_differs() -> None:
    points = proposals.grid(tune(space=CONDITIONAL).space, 0)
    # 3 rates, 3 widths; one layer: nothing else; two: 3 dropouts; three: 3 dropouts and 2 shares.
    assert len(points) == 3 * 3 * (1 + 3 + 3 * 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dropout": {"low": 0, "high": 0.5, "when": {"depth": [1]}, "otherwise": 0}}, "no hyperparameter"),
        ({"dropout": {"low": 0, "high": 0.5, "when": {"dropout": [0.1]}, "otherwise": 0}}, "waits for itself"),
        ({"dropout": {"low": 0, "high": 0.5, "when": {"layers": [7]}, "otherwise": 0}}, "to be 7, which it never is"),
        ({"dropout": {"low": 0, "high": 0.5, "when": {"hidden": [9]}, "otherwise": 0}}, "to be 9, which it never is"),
        (
            {
                "dropout": {"choices": [0.1], "when": {"layers": [2]}, "otherwise": 0},
                "layers": {"choices": [2, 3], "when": {"dropout": [0.1]}, "otherwise": 1},
            },
            "waits for itself",
        ),
    ],
)
def test_conditions_that_cannot_be_are_refused_at_the_door(change: Mapping[str, Any], said: str) -> None:
    found = mistakes(space=SPACE | change)
    assert set(found) == {"tune.space"}
    assert said in found["tune.space"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"low": 0, "high": 0.5, "when": {"layers": [2]}}, "come together"),
        ({"low": 0, "high": 0.5, "otherwise": 0.1}, "come together"),
        ({"low": 0, "high": 0.5, "when": {"layers": []}, "otherwise": 0}, "at least one value"),
        ({"low": 0, "high": 0.5, "when": {"layers": [2]}, "otherwise": 7}, "below 1"),
        ({"low": 0, "high": 0.5, "step": 0.2}, "whole number of steps"),
        ({"low": 0.1, "high": 0.5, "step": 0.1, "log": True}, "either logarithmic or in steps"),
    ],
)
def test_a_range_that_cannot_be_is_refused(option: Mapping[str, Any], said: str) -> None:
    found = mistakes(space=SPACE | {"dropout": option})
    assert said in found["tune.space.dropout"]


def test_settings_that_do_not_go_together_are_told_with_all_others() -> None:
    found = mistakes(
        objectives=["metric", "size_kib"], sampler="cmaes", pick="knee", patience=3, study="mine", epochs=0
    )
    assert set(found) == {"tune.epochs"}, "what fits together can be said only of keys that are right themselves"
    found = mistakes(objectives=["metric", "size_kib"], sampler="cmaes", pick="knee", patience=3, study="mine")
    for said in ("pruner: none", "`cmaes` has one objective", "`patience`", "storage: shared"):
        assert said in found["tune"]
    for values, said in (
        ({"objectives": ["size_kib"]}, "`metric` comes first"),
        ({"pick": "knee"}, "needs several"),
        ({"executor": "dask", "workers": "auto"}, "measures this machine"),
        ({"sampler": "cmaes", "space": FIXED | {"learning_rate": 0.1, "hidden": 8, "dropout": 0}}, "searches numbers"),
    ):
        assert said in " ".join(mistakes(**values).values())


@pytest.mark.parametrize(("key", "extra"), [("sampler", "cmaes"), ("executor", "ray"), ("executor", "dask")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, key: str, extra: str
) -> None:
    monkeypatch.setattr(chosen.importlib.util, "find_spec", lambda name: None)
    found = mistakes(**{key: extra})
    assert f".[{extra}]" in found[f"tune.{key}"]


# Earlier searches.


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


EARLIER = [
    {"trial": 0, "state": "complete", "value": 0.7, "learning_rate": 0.01, "hidden": 16, "dropout": 0.1},
    {"trial": 1, "state": "pruned", "value": 0.99, "learning_rate": 0.02, "hidden": 16, "dropout": 0.1},
    {"trial": 2, "state": "complete", "value": 0.9, "learning_rate": 0.03, "hidden": 24, "dropout": 0.9},
    {"trial": 3, "state": "complete", "value": 0.8, "learning_rate": 0.04, "hidden": 13, "dropout": 0.2},
    {"trial": 4, "state": "fail", "value": "", "learning_rate": 0.05, "hidden": 16, "dropout": 0.1},
]


@pytest.mark.parametrize("sampler", ["tpe", "grid", "qmc"])
def test_the_best_of_an_earlier_search_are_the_first_trials(tmp_path: Path, sampler: str) -> None:
    """Values that this space does not have (a dropout of 0.9, 13 units) are proposed anew."""
    table(tmp_path / "earlier" / "tune" / "trials.csv", EARLIER)
    settings = tune(sampler=sampler, warm_start="earlier", pruner="none")
    first = proposals.earlier(settings, tmp_path, True)
    assert first == [
        {"learning_rate": 0.03, "hidden": 24},
        {"learning_rate": 0.04, "dropout": 0.2},
        {"learning_rate": 0.01, "hidden": 16, "dropout": 0.1},
    ]
    trials = run(settings, tmp_path / "study", first=first)
    assert [trial.params["learning_rate"] for trial in trials[:3]] == [0.03, 0.04, 0.01]
    assert len({str(trial.params) for trial in trials}) == 8
    less_is_better = proposals.earlier(settings, tmp_path, False)
    assert less_is_better[0] == {"learning_rate": 0.01, "hidden": 16, "dropout": 0.1}


def test_the_best_of_an_earlier_search_are_so_by_the_metric_that_it_had(tmp_path: Path) -> None:
    """Its column of the best so far tells whether more was better: of a loss it was not."""
    for values, best, rate in (
        ((0.7, 0.8, 0.9), (0.7, 0.8, 0.9), 0.03),
        ((0.9, 0.8, 0.7), (0.9, 0.8, 0.7), 0.03),
        ((0.9, 0.7, 0.8), (0.9, 0.9, 0.9), 0.01),
        ((0.7, 0.9, 0.8), (0.7, 0.7, 0.7), 0.01),
    ):
        rows = [
            {"trial": number, "state": "complete", "learning_rate": (number + 1) / 100, "value": value, "best": so_far}
            for number, (value, so_far) in enumerate(zip(values, best, strict=True))
        ]
        table(tmp_path / "trials.csv", rows)
        for now in (True, False):
            found = proposals.earlier(tune(warm_start="trials.csv"), tmp_path, now)
            assert found[0]["learning_rate"] == rate


def test_an_interrupted_search_keeps_to_the_configurations_that_it_began_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tune(pruner="none")
    first = [{"learning_rate": 0.03}, {"learning_rate": 0.04}]

    def killed(task: Task) -> Training:
        raise Killed
        yield

    with pytest.raises(Killed):
        run(settings, tmp_path, killed, first=first)
    trials = run(settings, tmp_path, first=[{"learning_rate": 0.09}])
    assert [trial.params["learning_rate"] for trial in trials[:2]] == [0.03, 0.04]
    assert "goes on without what tune.warm_start has now" in caplog.text


def test_an_earlier_search_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is none and has none"):
        proposals.earlier(tune(warm_start="nowhere"), tmp_path, True)
    table(tmp_path / "other.csv", [{"trial": 0, "state": "complete", "value": 1, "trees": 100}])
    with pytest.raises(UsageError, match="none with a value of"):
        proposals.earlier(tune(warm_start="other.csv"), tmp_path, True)
    (tmp_path / "study.db").write_bytes(b"SQLite format 3\0\xff\xfe")
    with pytest.raises(UsageError, match=r"study\.db is no table"):
        proposals.earlier(tune(warm_start="study.db"), tmp_path, True)
    assert "copy the earlier trials.csv" in " ".join(mistakes(warm_start="artifacts/tune/trials.csv").values())


# Interruptions.


def test_a_trial_with_which_the_process_dies_again_and_again_has_failed(tmp_path: Path) -> None:
    settings = tune(pruner="none")

    def deadly(task: Task) -> Training:
        if task.number != 1:
            return (yield from learn(task))
        yield Report(1, 0.5)
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            run(settings, tmp_path, deadly)
    trials = run(settings, tmp_path, deadly)
    assert [trial.state.name for trial in trials].count("COMPLETE") == 7
    assert trials[1].state.name == "FAIL"
    assert "the process was killed in this epoch 3 times" in trials[1].user_attrs["error"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MachineError("a rule", "the disk is full", "")])
def test_a_trial_during_which_the_search_was_ended_again_and_again_is_not_to_blame(
    tmp_path: Path, error: BaseException
) -> None:
    settings = tune(pruner="none")

    def ended(task: Task) -> Training:
        yield Report(1, 0.5)
        raise error

    for _ in range(4):
        with pytest.raises((KeyboardInterrupt, SystemExit, MachineError)):
            run(settings, tmp_path, ended)
    assert [trial.state.name for trial in run(settings, tmp_path)] == ["COMPLETE"] * 8


def test_a_trial_that_comes_further_each_time_is_run_to_its_end(tmp_path: Path) -> None:
    settings, begun = tune(pruner="none"), list[int]()

    def slow(task: Task) -> Training:
        begun.append(task.number)
        for epoch in range(1, EPOCHS + 1):
            if task.number == 0 and epoch == len(begun):
                raise Killed
            yield Report(epoch, 0.5)
        return Outcome("complete", 0.5)

    for _ in range(EPOCHS):
        with pytest.raises(Killed):
            run(settings, tmp_path, slow)
    assert [trial.state.name for trial in run(settings, tmp_path, slow)] == ["COMPLETE"] * 8


@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_what_ran_on_a_machine_that_was_lost_is_tried_again_and_not_for_ever(tmp_path: Path, sampler: str) -> None:
    """The third configuration is lost once, the fifth every time."""
    settings, begun = tune(sampler=sampler, pruner="none"), list[Mapping[str, Any]]()

    def train(task: Task) -> Training:
        is_new = task.values not in begun
        if is_new:
            begun.append(task.values)
        place = begun.index(task.values)
        if place == 4 or (place == 2 and is_new):
            return Outcome("failed", error="its node has died", lost=True)
        yield Report(1, 0.5)
        return Outcome("complete", 0.5 - task.number / 100)

    trials = run(settings, tmp_path, train)
    assert len(begun) == 8, "each is another one"
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4 + ["FAIL"] + ["COMPLETE"] * 3
    assert trials[4].user_attrs["error"] == "its node has died"


# Trade-offs.

FIVE = [Candidate(0, 0.90, {"size_kib": 100}), Candidate(1, 0.89, {"size_kib": 40}),
        Candidate(2, 0.60, {"size_kib": 10}), Candidate(3, 0.85, {"size_kib": 60}),
        Candidate(4, 0.90, {"size_kib": 100})]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({}, [0, 4, 1, 3, 2]),
        ({"limits": {"size_kib": 60}}, [1, 3, 2]),
        ({"pick": "knee"}, [1, 0, 4, 3, 2]),
        ({"pick": "knee", "limits": {"size_kib": 30}}, [2]),
    ],
)
def test_the_rule_takes_the_best_metric_or_the_knee_within_the_limits(values: Any, best: list[int]) -> None:
    settings = tune(**TRADE_OFF, **values)
    assert [one.trial for one in choose.ranked(FIVE, settings, True)] == best


def test_the_front_holds_what_nothing_beats() -> None:
    objectives = ("metric", "size_kib")
    assert [one.trial for one in choose.front(FIVE, objectives, True)] == [0, 1, 2, 4]
    assert [one.trial for one in choose.front(FIVE, objectives, False)] == [2]
    alone = [Candidate(5, 0.5, {"size_kib": 7})]
    assert choose.knee(alone, objectives, True) == alone[0]


def test_limits_that_nothing_keeps_to_are_told_with_the_nearest() -> None:
    with pytest.raises(NotProven, match="trial 2 with size_kib 10; trial 1 with size_kib 40"):
        choose.ranked(FIVE, tune(limits={"size_kib": 5}), True)


def test_trials_from_before_the_limits_are_not_known_to_keep_to_them() -> None:
    old = [Candidate(7, 0.95, {}), Candidate(8, 0.94, {"latency_ms": 1.0})]
    limited = tune(limits={"size_kib": 60})
    assert [one.trial for one in choose.ranked([*old, *FIVE], limited, True)] == [1, 3, 2]
    with pytest.raises(NotProven, match="trial 7 with size_kib not measured"):
        choose.ranked(old, limited, True)


def test_a_trial_that_was_stopped_is_told_by_its_best_epoch(tmp_path: Path) -> None:
    def learn_and_forget(task: Task) -> Training:
        for epoch in range(1, EPOCHS + 1):
            if (yield Report(epoch, 0.9 if task.number < 4 else 1.5 - 0.5 * epoch)):
                return Outcome("stopped")
        return Outcome("complete", 0.9)

    trials = run(tune(pruner="asha"), tmp_path, learn_and_forget)  # which looks after one epoch, and after three
    rows = tables.table(trials, max, tune(), set())
    assert [(row["state"], row["value"], row["epochs"]) for row in rows[4:]] == [("pruned", 1.0, 3)] * 4


def test_what_matters_as_much_stands_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = study.open_study(tune(), tmp_path)
    trials = search(found, tune(), 11, [Local(learn)])
    as_it_comes = {"hidden": 0.0, "dropout": 0.0, "learning_rate": 1.0}
    monkeypatch.setattr(optuna.importance, "get_param_importances", lambda _: as_it_comes)
    assert list(tables.importance(found, trials)) == ["learning_rate", "dropout", "hidden"]


def test_what_is_limited_is_no_parameter_of_the_page(tmp_path: Path) -> None:
    settings = tune(limits={"size_kib": 100.0}, pruner="none")
    found = study.open_study(settings, tmp_path)
    trials = search(found, settings, 11, [Local(learn)])
    tables.write(found, trials, trials[0].number, settings, "auc", tmp_path)
    page = (tmp_path / "report.html").read_text()
    parameters = page[page.index("<h2>Parameters") : page.index("<h2>All trials")]
    assert "dropout" in parameters
    assert "size_kib" not in parameters


def test_a_search_for_trade_offs_shows_its_front(tmp_path: Path) -> None:
    settings = tune(sampler="nsga2", trials=12, **TRADE_OFF)
    found = study.open_study(settings, tmp_path)
    trials = search(found, settings, 11, [Local(learn)])
    tables.write(found, trials, trials[0].number, settings, "auc", tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = [trial.number for trial in found.best_trials]
    assert [int(row["trial"]) for row in rows if row["front"] == "yes"] == best
    assert all(float(row["size_kib"]) > 0 and row["epochs"] == str(EPOCHS) for row in rows)
    page = (tmp_path / "report.html").read_text()
    assert "auc against size_kib" in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is fetched"


def test_a_search_for_trade_offs_that_time_cut_short_goes_on_with_more_of_it(
    tmp_path: Path, slow: Callable[[Task], Training]
) -> None:
    short = tune(sampler="tpe", trials=50, minutes=5.5, **TRADE_OFF)
    trials = run(short, tmp_path, slow)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["FAIL"]
    assert trials[-1].user_attrs["error"] == "tune.minutes was over"
    assert len(run(tune(sampler="tpe", trials=50, minutes=8.5, **TRADE_OFF), tmp_path, slow)) > 7


# The database.


def test_tables_of_another_version_of_optuna_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "old.db"
    study.open_study(tune(storage="sqlite", pruner="none"), tmp_path)
    (tmp_path / "study.db").rename(path)
    with sqlite3.connect(path) as old:
        old.execute("UPDATE version_info SET schema_version = 1")
        old.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    monkeypatch.setenv(database.ADDRESS, f"sqlite:///{path}")
    with pytest.raises(UsageError, match="upgrade"):
        study.open_study(tune(storage="shared"), tmp_path)


def test_a_database_in_which_nothing_may_be_made_is_the_machines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(database.ADDRESS, "postgresql://u:secret@127.0.0.1/x")
    refused = sqlalchemy.exc.ProgrammingError("CREATE TABLE", {}, Exception("permission denied for schema public"))
    with pytest.raises(MachineError, match="permission denied"), database.errors():
        raise refused


def test_a_database_that_says_nothing_is_told_by_the_kind_of_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(database.ADDRESS, "postgresql://u:secret@127.0.0.1/x")
    with pytest.raises(MachineError, match="StorageInternalError"), database.errors():
        raise optuna.exceptions.StorageInternalError("")


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_is_no_whole_database_is_told(tmp_path: Path, whole: bool) -> None:
    settings = tune(storage="sqlite", pruner="none")
    path = tmp_path / "study.db"
    if whole:  # but for two pages of it
        run(settings, tmp_path)
        there = path.read_bytes()
        path.write_bytes(there[:4096] + b"\xff" * 8192 + there[12288:])
    else:
        path.write_text("no database")
    with pytest.raises(MachineError, match="SQLite file must be whole") as caught:
        run(settings, tmp_path)
    assert "study.db" in caught.value.way_out


def test_a_study_that_nothing_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(database.ADDRESS, f"sqlite:///{tmp_path / 'some.db'}")
    study.open_study(tune(storage="shared"), tmp_path / "mine")
    assert "nothing keeps another search from study mine" in caplog.text


def test_a_locked_database_is_the_machines_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3.dbapi2, "connect", lambda *args, **more: connect(*args, **more | {"timeout": 0.1}))
    settings = tune(storage="sqlite", pruner="none")
    study.open_study(settings, tmp_path)
    holder = connect(tmp_path / "study.db")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(MachineError, match="locked"):
            run(settings, tmp_path)
    finally:
        holder.close()


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        (None, UsageError, "it is not set"),
        ("somewhere", UsageError, "what is there is none"),
        ("oracel://u:secret@127.0.0.1/x", UsageError, "what is there is none"),
        ("mysql://u:secret@127.0.0.1/x", UsageError, "mysql, where nothing keeps two searches from one study"),
        ("mssql+pyodbc://u:secret@127.0.0.1/x", UsageError, "mssql, where nothing keeps"),
        ("postgresql://u:secret@127.0.0.1:port/x", UsageError, "what is there is none"),
        ("postgresql://u:secret@127.0.0.1:1/x", MachineError, "refused"),
        ("grpc://127.0.0.1", UsageError, "without host or port"),
        ("grpc://127.0.0.1:port", UsageError, "without host or port"),
        ("grpc://127.0.0.1:1", MachineError, "the proxy at 127.0.0.1:1 does not answer"),
    ],
)
def test_a_database_that_does_not_answer_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None, error: type[Exception], said: str
) -> None:
    monkeypatch.delenv(database.ADDRESS, raising=False)
    monkeypatch.setattr(database, "_CONNECT_SECONDS", 2)
    if address:
        monkeypatch.setenv(database.ADDRESS, address)
    with pytest.raises(error, match=said) as caught:
        study.open_study(tune(storage="shared"), tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "library", "extra"),
    [("grpc://127.0.0.1:1", "GrpcStorageProxy", "grpc"), ("postgresql://u:secret@127.0.0.1:1/x", "", "postgresql")],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, library: str, extra: str
) -> None:
    def absent(*args: Any, **more: Any) -> Any:
        raise ImportError("no such module")

    monkeypatch.setenv(database.ADDRESS, address)
    monkeypatch.setattr(*((optuna.storages, library) if library else (database, "RDBStorage")), absent)
    with pytest.raises(UsageError, match="not installed") as caught:
        study.open_study(tune(storage="shared"), tmp_path)
    assert f".[{extra}]" in str(caught.value)


def test_a_page_of_a_search_draws_every_kind_of_parameter(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings = tune(space=CONDITIONAL, trials=12)
    found = study.open_study(settings, tmp_path)
    trials = search(found, settings, 11, [Local(learn)])
    tables.write(found, trials, 0, settings, "<auc>", tmp_path)
    page = (tmp_path / "report.html").read_text()
    for said in ("History", "What mattered", "Epochs", "Parameters", "All trials", "learning_rate", "&lt;auc&gt;"):
        assert said in page
    assert "<auc>" not in page
    assert page.count("<circle") == sum(bool(trial.intermediate_values) for trial in trials)
    tables.write(found, trials, 0, settings, "<auc>", tmp_path)
    assert (tmp_path / "report.html").read_text() == page
