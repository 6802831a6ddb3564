"""What a search leaves to read: tables of its trials, for people and `dvc plots`, and a page."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from tasks.core import files
from tasks.core.log import log
from tasks.core.settings import Tune
from tasks.tune.choose import Candidate, front
from tasks.tune.curves import as_ended

#: Files of a search and their roles; ``importance.json`` is there only where it can be told.
FILES = {"trials.csv": "trials", "curves.csv": "trials", "importance.json": "trials", "report.html": "report"}
_LEAST_TRIALS = 4


def candidates(trials: Sequence[FrozenTrial]) -> list[Candidate]:
    """The completed trials."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return [Candidate(trial.number, trial.values[0], trial.user_attrs.get("costs", {})) for trial in complete]


def write(
    study: optuna.Study, trials: Sequence[FrozenTrial], chosen: int, settings: Tune, name: str, out: Path
) -> None:
    """Write :data:`FILES`.

    Args:
        study: that the trials are of.
        trials: all that are finished, by number.
        chosen: number of the trial that is the original.
        settings: the stage's section.
        name: of the metric.
        out: folder of the stage.
    """
    from tasks.tune import report

    higher = study.directions[0].name == "MAXIMIZE"
    best = {one.trial for one in front(candidates(trials), settings.objectives, higher)}
    rows = table(trials, max if higher else min, settings, best)
    _write_csv(out / "trials.csv", rows)
    curves = [
        {"trial": trial.number, "epoch": epoch, "value": value}
        for trial in trials
        for epoch, value in sorted(trial.intermediate_values.items())
    ]
    _write_csv(out / "curves.csv", curves or [{"trial": "", "epoch": "", "value": ""}])
    weights = importance(study, trials)
    if weights:
        files.write_json(
            out / "importance.json", [{"parameter": key, "importance": value} for key, value in weights.items()]
        )
    files.write_text(out / "report.html", report.render(rows, curves, weights, chosen, settings, name, higher))


def table(trials: Sequence[FrozenTrial], better: Any, settings: Tune, best_of: set[int]) -> list[dict[str, Any]]:
    """A line for each trial: number, state, value, best so far, epochs run, costs, each searched parameter.

    The value is the metric of a complete trial, and that of its best epoch of another one.

    Args:
        trials: by number.
        better: ``max`` or ``min``.
        settings: the stage's section.
        best_of: numbers of the trials on the Pareto front; told where there are several objectives.
    """
    names = sorted({name for trial in trials for name in trial.params})
    costs = sorted({name for trial in trials for name in trial.user_attrs.get("costs", {})})
    rows, best = [], None
    for trial in trials:
        value = _value(trial, better)
        if trial.state == TrialState.COMPLETE and value is not None:
            best = value if best is None else better(best, value)
        state, epochs = trial.state.name.lower(), len(trial.intermediate_values)
        row = {"trial": trial.number, "state": state, "value": value, "best": best, "epochs": epochs}
        row |= {name: trial.user_attrs.get("costs", {}).get(name, "") for name in costs}
        if len(settings.objectives) > 1:
            row["front"] = "yes" if trial.number in best_of else ""
        rows.append(row | {name: trial.params.get(name, "") for name in names})
    return rows


def _value(trial: FrozenTrial, better: Any) -> float | None:
    """The metric of a complete trial; of another one that of its best epoch, where Optuna notes the last."""
    noted = trial.values[:1] if trial.state == TrialState.COMPLETE else trial.intermediate_values.values()
    best: float | None = better(noted, default=None)
    return best


def importance(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much each parameter has to do with a trial's being among the best, by PED-ANOVA; they sum to 1.

    With one objective a stopped trial counts with what its curve promised. Nothing where there are too few trials to
    tell, or all are as good.
    """
    several = len(study.directions) > 1
    ended = study if several else as_ended(trials, study.direction)
    scores = [trial.values[0] for trial in ended.trials if trial.state == TrialState.COMPLETE]
    if len(scores) < _LEAST_TRIALS or len(set(scores)) == 1 or not any(trial.params for trial in trials):
        log.info("tune: %d trials are too few, or too alike, to tell which parameters matter", len(scores))
        return {}
    weights = optuna.importance.get_param_importances(ended)
    rounded = {name: round(weight, 6) for name, weight in weights.items()}
    return dict(sorted(rounded.items(), key=lambda item: (-item[1], item[0])))  # Optuna leaves equal ones in any order


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
