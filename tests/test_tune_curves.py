"""What a stopped trial promises, and proposals that learn from it; no network is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import worlds
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tasks.core.settings import Tune, parse
from tasks.tune import curves, methods, study, tables
from tasks.tune.search import search
from tasks.tune.trial import INTERRUPTED, Local, Outcome, Report, Task, Training

EPOCHS = 9
RATE = {"rate": FloatDistribution(0.0, 1.0)}
SPACE = {
    "weight_decay": 0.0, "layers": 2, "feature_dropout": 0.0, "number_dim": 2, "category_dim": 2, "hidden": 32,
    "learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
    "dropout": {"low": 0.0, "high": 0.5},
}  # fmt: skip


def trials(*told: tuple[TrialState, list[float]], error: str = "diverged") -> list[FrozenTrial]:
    """Trials of these scores after each epoch, the last one of a complete trial its value."""
    found = optuna.create_study(direction="maximize")
    for number, (state, scores) in enumerate(told):
        found.add_trial(
            create_trial(
                state=state,
                params={"rate": number / 1000},
                distributions=dict(RATE),
                value=scores[-1] if state == TrialState.COMPLETE else None,
                intermediate_values=dict(enumerate(scores, 1)),
                user_attrs={"error": error} if state == TrialState.FAIL else {},
            )
        )
    return found.trials


COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def promised(*told: tuple[TrialState, list[float]]) -> float:
    """Of the last one, for a metric of which more is better."""
    return curves.promises(trials(*told), StudyDirection.MAXIMIZE)[len(told) - 1]


def test_a_stopped_trial_promises_what_became_of_such_scores() -> None:
    alike = [(COMPLETE, [score, score + 0.2, score + 0.4]) for score in (0.1, 0.2, 0.3, 0.5)]
    assert promised(*alike, (PRUNED, [0.15])) == pytest.approx(0.55)
    assert promised(*alike, (PRUNED, [0.15, 0.45])) == pytest.approx(0.65)


def test_a_score_that_said_nothing_of_the_end_promises_the_mean() -> None:
    noise = [(COMPLETE, [score, value]) for score in (0.1, 0.3, 0.5) for value in (0.7, 0.75, 0.8)] * 20
    assert promised(*noise, (PRUNED, [0.1])) == pytest.approx(0.75, abs=0.01)
    assert promised(*noise, (PRUNED, [0.5])) == pytest.approx(0.75, abs=0.01)


def test_of_one_complete_trial_only_its_gain_is_known() -> None:
    assert promised((COMPLETE, [0.5, 0.9]), (PRUNED, [0.1])) == pytest.approx(0.5)


def test_it_promises_no_more_than_the_best_has_reached() -> None:
    up = trials((COMPLETE, [0.1, 0.8]), (PRUNED, [0.6]))
    assert curves.promises(up, StudyDirection.MAXIMIZE)[1] == 0.8
    down = trials((COMPLETE, [0.9, 0.2]), (PRUNED, [0.5]))
    assert curves.promises(down, StudyDirection.MINIMIZE)[1] == 0.2


def test_a_training_that_ended_early_says_nothing_of_later_epochs() -> None:
    early, late = (COMPLETE, [0.5, 0.6]), (COMPLETE, [0.5, 0.6, 0.7, 0.8])
    assert promised(early, late, (PRUNED, [0.3, 0.3, 0.3])) == pytest.approx(0.3 + 0.1)


def test_before_a_trial_is_complete_the_last_score_is_the_promise() -> None:
    assert curves.promises(trials((PRUNED, [0.3, 0.4])), StudyDirection.MAXIMIZE) == {0: 0.4}


@pytest.mark.parametrize(("direction", "worst"), [(StudyDirection.MAXIMIZE, 0.2), (StudyDirection.MINIMIZE, 0.7)])
def test_a_failed_trial_is_the_worst_and_one_left_behind_says_nothing(direction: StudyDirection, worst: float) -> None:
    told = ((COMPLETE, [0.1, 0.7]), (COMPLETE, [0.1, 0.2]), (FAIL, [0.1]))
    assert curves.promises(trials(*told), direction) == {0: 0.7, 1: 0.2, 2: worst}
    assert curves.promises(trials(*told, error=INTERRUPTED), direction) == {0: 0.7, 1: 0.2}
    assert curves.promises(trials((FAIL, [])), direction) == {}


def test_what_is_running_stays_so() -> None:
    ended = curves.as_ended(trials((COMPLETE, [0.7]), (RUNNING, [0.6]), (FAIL, [])), StudyDirection.MAXIMIZE).trials
    assert [(trial.state, trial.params["rate"]) for trial in ended] == [
        (COMPLETE, 0),
        (RUNNING, 0.001),
        (COMPLETE, 0.002),
    ]


@pytest.mark.parametrize(("direction", "sign"), [(StudyDirection.MAXIMIZE, 1), (StudyDirection.MINIMIZE, -1)])
def test_no_score_is_so_bad_that_the_others_look_alike_beside_it(direction: StudyDirection, sign: int) -> None:
    told = trials(*((COMPLETE, [sign * score]) for score in (0.9, 0.8, 0.7, -1e5)))
    found = curves.promises(told, direction)
    assert [sign * found[number] for number in range(3)] == pytest.approx([0.9, 0.8, 0.7])
    assert sign * found[3] == pytest.approx(0.9 - 10 * 0.2)
    assert curves.promises(trials((COMPLETE, [0.5]), (COMPLETE, [0.5])), direction) == {0: 0.5, 1: 0.5}


def tune(**values: Any) -> Tune:
    return parse(worlds.params({"tune": {"epochs": EPOCHS, "space": SPACE} | values})).tune


def trained(task: Task, quality: Callable[[float], float]) -> Training:
    """The best dropout is .2; above a learning rate of .03 training diverges."""
    rate, dropout = task.values["learning_rate"], task.values["dropout"]
    if rate > 0.03:
        raise FloatingPointError("diverged")
    reached = quality(rate) - abs(dropout - 0.2)
    for epoch in range(1, EPOCHS + 1):
        if (yield Report(epoch, reached * (1 - 0.5**epoch))):
            return Outcome("stopped")
    return Outcome("complete", reached)


def peak(task: Task) -> Training:
    """The best learning rate is .005."""
    return trained(task, lambda rate: 0.9 - 0.3 * abs(math.log10(rate / 0.005)))


def cliff(task: Task) -> Training:
    """The best learning rate is the last that does not diverge."""
    return trained(task, lambda rate: 0.6 + 10 * rate)


def run(settings: Tune, folder: Path, seed: int, learn: Any = peak, workers: int = 1) -> list[FrozenTrial]:
    opened = study.open_study(settings, folder)
    return search(opened, settings, seed, [Local(learn) for _ in range(workers)])


def best(found: list[FrozenTrial]) -> float:
    return max(trial.values[0] for trial in found if trial.state == COMPLETE)


def failed(found: list[FrozenTrial]) -> int:
    return sum(trial.state == FAIL for trial in found)


SEEDS = (0, 100)


def test_a_search_learns_from_trials_that_were_stopped(tmp_path: Path) -> None:
    ours = [run(tune(trials=15), tmp_path / f"auto-{seed}", seed) for seed in SEEDS]
    chance = [run(tune(trials=15, sampler="random"), tmp_path / f"random-{seed}", seed) for seed in SEEDS]
    assert all(best(mine) > max(best(theirs), 0.85) for mine, theirs in zip(ours, chance, strict=True))
    assert sum(trial.state == PRUNED for found in ours for trial in found) > 10


def test_what_diverges_is_not_tried_again_and_again(tmp_path: Path) -> None:
    ours = [failed(run(tune(trials=15), tmp_path / f"auto-{seed}", seed, cliff)) for seed in SEEDS]
    tpe = [failed(run(tune(trials=15, sampler="tpe"), tmp_path / f"tpe-{seed}", seed, cliff)) for seed in SEEDS]
    assert sum(ours) < sum(tpe) / 2, "TPE leaves failed trials out"


def test_several_at_a_time_do_not_propose_the_same(tmp_path: Path) -> None:
    found = run(tune(trials=12), tmp_path, 3, workers=2)
    assert len(found) == 12
    assert len({str(trial.params) for trial in found}) == 12


def test_tpe_takes_over_when_there_are_many_trials_and_for_trade_offs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run(tune(trials=12), tmp_path / "few", 3)
    monkeypatch.setattr(methods, "_MOST_FOR_GP", 8)
    many = run(tune(trials=12), tmp_path / "many", 3)
    alike = [ours.params == theirs.params for ours, theirs in zip(few, many, strict=True)]
    assert alike == [True] * 8 + [False] * 4
    trade_off = tune(objectives=["metric", "size_kib"], pruner="none")
    assert isinstance(methods.sampler(trade_off, 0, 5), optuna.samplers.TPESampler)


def test_what_matters_is_told_from_stopped_trials_too() -> None:
    known = trials((COMPLETE, [0.3, 0.9]), *((PRUNED, [score]) for score in (0.1, 0.2, 0.05, 0.15)))
    weights = tables.importance(curves.as_ended(known, StudyDirection.MAXIMIZE), known)
    assert weights == {"rate": 1.0}
