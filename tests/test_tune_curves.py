"""What a stopped trial promises, and proposals that learn from it; no network is trained."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import optuna
import pytest
import worlds
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from tasks.core.settings import Tune, parse
from tasks.tune import curves, study
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
                params={"rate": number / 10},
                distributions=dict(RATE),
                value=scores[-1] if state == TrialState.COMPLETE else None,
                intermediate_values=dict(enumerate(scores, 1)),
                user_attrs={"error": error} if state == TrialState.FAIL else {},
            )
        )
    return found.trials


COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def test_a_stopped_trial_promises_what_others_gained_from_its_epoch_on() -> None:
    known = trials(
        (COMPLETE, [0.5, 0.6, 0.9]), (COMPLETE, [0.4, 0.7, 0.8]), (COMPLETE, [0.3, 0.6, 0.8]), (PRUNED, [0.1])
    )
    promised = curves.promises(known, StudyDirection.MAXIMIZE)
    assert promised == pytest.approx({0: 0.9, 1: 0.8, 2: 0.8, 3: 0.1 + 0.4})  # gains .4, .4 and .5: the median


def test_it_promises_no_more_than_the_best_has_reached() -> None:
    up = trials((COMPLETE, [0.1, 0.8]), (PRUNED, [0.6]))
    assert curves.promises(up, StudyDirection.MAXIMIZE)[1] == 0.8
    down = trials((COMPLETE, [0.9, 0.2]), (PRUNED, [0.5]))
    assert curves.promises(down, StudyDirection.MINIMIZE)[1] == 0.2


def test_a_training_that_ended_early_says_nothing_of_later_epochs() -> None:
    known = trials((COMPLETE, [0.5, 0.6]), (COMPLETE, [0.5, 0.6, 0.7, 0.8]), (PRUNED, [0.3, 0.3, 0.3]))
    assert curves.promises(known, StudyDirection.MAXIMIZE)[2] == pytest.approx(0.3 + 0.1)


def test_before_a_trial_is_complete_the_last_score_is_the_promise() -> None:
    assert curves.promises(trials((PRUNED, [0.3, 0.4])), StudyDirection.MAXIMIZE) == {0: 0.4}


@pytest.mark.parametrize(("direction", "worst"), [(StudyDirection.MAXIMIZE, 0.2), (StudyDirection.MINIMIZE, 0.7)])
def test_a_failed_trial_is_the_worst_and_one_left_behind_says_nothing(direction: StudyDirection, worst: float) -> None:
    told = ((COMPLETE, [0.1, 0.7]), (COMPLETE, [0.1, 0.2]), (FAIL, [0.1]))
    assert curves.promises(trials(*told), direction) == {0: 0.7, 1: 0.2, 2: worst}
    assert curves.promises(trials(*told, error=INTERRUPTED), direction) == {0: 0.7, 1: 0.2}
    assert curves.promises(trials((FAIL, [])), direction) == {}


def test_what_is_running_stays_so_and_another_space_is_left_out() -> None:
    known = trials((COMPLETE, [0.7]), (RUNNING, [0.6]), (FAIL, []))
    ended = curves.as_ended(known, StudyDirection.MAXIMIZE, RATE)
    assert [(trial.state, trial.params["rate"]) for trial in ended] == [(COMPLETE, 0), (RUNNING, 0.1), (COMPLETE, 0.2)]
    assert curves.as_ended(known, StudyDirection.MAXIMIZE, {"width": FloatDistribution(0, 1)}) == []


def tune(**values: Any) -> Tune:
    return parse(worlds.params({"tune": {"sampler": "gp", "epochs": EPOCHS, "space": SPACE} | values})).tune


def learn(task: Task) -> Training:
    """The best lies at a learning rate of .01 and a dropout of .2; above .03 training diverges."""
    rate, dropout = task.values["learning_rate"], task.values["dropout"]
    if rate > 0.03:
        raise FloatingPointError("diverged")
    quality = 0.9 - 20 * abs(rate - 0.01) - abs(dropout - 0.2)
    for epoch in range(1, EPOCHS + 1):
        if (yield Report(epoch, quality * (1 - 0.5**epoch))):
            return Outcome("stopped")
    return Outcome("complete", quality)


def run(settings: Tune, folder: Path, seed: int) -> list[FrozenTrial]:
    return search(study.open_study(settings, folder), settings, seed, [Local(learn)])


def best(found: list[FrozenTrial]) -> float:
    return max(trial.values[0] for trial in found if trial.state == COMPLETE)


def test_it_learns_from_trials_that_were_stopped_and_leaves_alone_what_diverges(tmp_path: Path) -> None:
    by_curves = [run(tune(trials=20), tmp_path / f"gp-{seed}", seed) for seed in (0, 100, 200)]
    by_chance = [run(tune(trials=20, sampler="random"), tmp_path / f"random-{seed}", seed) for seed in (0, 100, 200)]
    for ours, theirs in zip(by_curves, by_chance, strict=True):
        assert best(ours) > max(best(theirs), 0.85)
        assert sum(trial.state == FAIL for trial in ours) <= sum(trial.state == FAIL for trial in theirs)
    assert sum(trial.state == PRUNED for found in by_curves for trial in found) > 10


def test_tpe_takes_over_when_there_are_many_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = run(tune(trials=12), tmp_path / "few", 3)
    monkeypatch.setattr(curves, "_MANY", 8)
    many = run(tune(trials=12), tmp_path / "many", 3)
    alike = [ours.params == theirs.params for ours, theirs in zip(few, many, strict=True)]
    assert list(itertools.takewhile(bool, alike)) == [True] * 8
    assert not any(alike[8:])
