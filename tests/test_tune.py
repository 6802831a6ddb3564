"""The search proposes the same trials however often it is interrupted, and keeps the best of what it trained."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import postgresql_world
import pyarrow.parquet as pq
import pytest
import worlds
from optuna.storages import JournalStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial

from tasks.core import files, manifest
from tasks.core.errors import DataRejected, NotProven, UsageError
from tasks.core.original import load
from tasks.core.settings import Params, Tune, parse
from tasks.core.stage import run_stage
from tasks.core.workloads.tabular.space import Space
from tasks.tune import objective, proposals, study
from tasks.tune.database import ADDRESS
from tasks.tune.search import search as search_with
from tasks.tune.trial import Local, Outcome, Report, Task, Training

EPOCHS = 9
SPACE = {
    "learning_rate": {"low": 0.001, "high": 0.1, "log": True},
    "weight_decay": 0.0,
    "hidden": {"choices": [16, 32]},
    "layers": 1,
    "dropout": {"low": 0.0, "high": 0.5},
    "feature_dropout": 0.0,
    "number_dim": 2,
    "category_dim": 2,
}


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the search may handle it."""


def tune(**values: Any) -> Tune:
    raw = worlds.params({"tune": {"trials": 8, "epochs": EPOCHS, "space": SPACE} | values})
    return parse(raw).tune


def learn(task: Task) -> Training:
    """A training without a network: a curve that the hyperparameters decide, and one corner that diverges."""
    values = task.values
    if values["dropout"] > 0.45:
        raise FloatingPointError("diverged")
    quality = 0.9 - abs(values["dropout"] - 0.2) - values["learning_rate"] - 1 / values["hidden"]
    score = 0.0
    for epoch in range(1, EPOCHS + 1):
        score = quality * (1 - 0.5**epoch)
        if (yield Report(epoch, score)):
            return Outcome("stopped")
    return Outcome("complete", score, {"size_kib": float(values["hidden"] * values["layers"])})


def trials_with(
    settings: Tune, folder: Path, train: Callable[[Task], Training] = learn, seed: int = 11
) -> list[FrozenTrial]:
    return search_with(study.open_study(settings, folder), settings, seed, [Local(train)])


def search(settings: Tune, folder: Path) -> list[tuple[Any, ...]]:
    return [plain(trial) for trial in trials_with(settings, folder)]


def plain(trial: FrozenTrial) -> tuple[Any, ...]:
    """All of a trial that later ones and the outputs depend on."""
    marks = {key: value for key, value in trial.system_attrs.items() if key.startswith("completed_rung")}
    return (trial.number, trial.state.name, trial.params, trial.values, trial.intermediate_values, marks)


@pytest.mark.parametrize("pruner", ["asha", "none"])
@pytest.mark.parametrize("sampler", ["gp", "tpe", "random", "grid"])
def test_every_sampler_and_pruner_gives_its_number_of_trials_and_the_same_ones_again(
    tmp_path: Path, sampler: str, pruner: str
) -> None:
    settings = tune(sampler=sampler, pruner=pruner)
    trials = search(settings, tmp_path / "a")
    assert [trial[0] for trial in trials] == list(range(8))
    assert search(settings, tmp_path / "b") == trials
    assert search(settings, tmp_path / "a") == trials, "a finished study runs nothing again"
    states = {trial[1] for trial in trials}
    assert "COMPLETE" in states
    assert "PRUNED" not in states or pruner == "asha"


def test_hopeless_trials_are_stopped_early_by_default(tmp_path: Path) -> None:
    pruned = [trial for trial in search(tune(sampler="random"), tmp_path) if trial[1] == "PRUNED"]
    assert pruned
    assert all(len(trial[4]) < EPOCHS for trial in pruned)


def test_the_storage_makes_no_difference(tmp_path: Path) -> None:
    journal, sqlite = (search(tune(storage=storage), tmp_path / storage) for storage in ("journal", "sqlite"))
    assert journal == sqlite


def test_samplers_and_seeds_differ(tmp_path: Path) -> None:
    proposed = {}
    for sampler in ("tpe", "random", "grid"):
        proposed[sampler] = [trial[2] for trial in search(tune(sampler=sampler, pruner="none"), tmp_path / sampler)]
    assert proposed["tpe"] != proposed["random"]
    other = trials_with(tune(pruner="none"), tmp_path / "seed", seed=12)
    assert [trial.params for trial in other] != proposed["tpe"]
    assert len({json.dumps(point) for point in proposed["random"]}) == 8


def test_the_grid_visits_every_point_once_and_ends_with_it(tmp_path: Path) -> None:
    settings = tune(sampler="grid", trials=1000, pruner="none")
    points = [tuple(sorted(trial[2].items())) for trial in search(settings, tmp_path)]
    assert len(points) == len(set(points)) == 3 * 2 * 3
    rates = {dict(point)["learning_rate"] for point in points}
    assert sorted(rates) == pytest.approx([0.001, 0.01, 0.1])
    assert all(0.0 <= dict(point)["dropout"] <= 0.5 for point in points)


def test_the_grid_of_a_range_stays_inside_it() -> None:
    """0.7 + (3.1 - 0.7) is a little more than 3.1 in floating point."""
    for low, high in ((0.7, 3.1), (0.1, 0.7), (1e-3, 6e-3)):
        option = parse(worlds.params({"tune": {"space": SPACE | {"weight_decay": {"low": low, "high": high}}}}))
        values = {point["weight_decay"] for point in proposals.grid(option.tune.space, 0)}
        assert min(values) == low
        assert max(values) == high


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_range_of_a_size_is_searched_in_whole_numbers(tmp_path: Path, sampler: str) -> None:
    space = SPACE | {"hidden": {"low": 8, "high": 64, "log": True}, "layers": {"low": 1, "high": 3}}
    trials = search(tune(sampler=sampler, pruner="none", trials=12, space=space), tmp_path)
    sizes = [(trial[2]["hidden"], trial[2]["layers"]) for trial in trials]
    assert all(isinstance(size, int) for pair in sizes for size in pair)
    assert {layers for _, layers in sizes} == {1, 2, 3}
    assert all(8 <= hidden <= 64 for hidden, _ in sizes)


WRITES = (
    "create_new_trial", "set_trial_param", "set_trial_intermediate_value", "set_trial_system_attr",
    "set_trial_state_values", "set_trial_user_attr",
)  # fmt: skip


def kill_after(monkeypatch: pytest.MonkeyPatch, storage: str, last: int | None) -> list[str]:
    """Let the process "die" right after the given write to the storage; return the names of the writes so far."""
    kind = JournalStorage if storage == "journal" else _CachedStorage
    written: list[str] = []

    def watched(name: str) -> Any:
        write = getattr(kind, name)

        def wrapper(*args: Any, **more: Any) -> Any:
            result = write(*args, **more)
            written.append(name)
            if len(written) == last:
                raise Killed
            return result

        return wrapper

    for name in WRITES:
        monkeypatch.setattr(kind, name, watched(name))
    return written


@pytest.mark.parametrize(
    ("sampler", "storage"),
    [("gp", "journal"), ("grid", "journal"), ("tpe", "sqlite"), ("gp", "shared"), ("random", "shared")],
)
def test_a_study_killed_after_a_write_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, sampler: str, storage: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_anew() -> None:
        if storage == "shared":
            monkeypatch.setenv(ADDRESS, postgresql_world.fresh(request.getfixturevalue("postgresql")))

    same = {"study": "same"} if storage == "shared" else {}
    settings = tune(sampler=sampler, storage=storage, trials=6, **same)
    begin_anew()
    with pytest.MonkeyPatch.context() as patch:
        writes = kill_after(patch, storage, None)
        expected = search(settings, tmp_path / "undisturbed")
    assert {"create_new_trial", "set_trial_param", "set_trial_system_attr"} <= set(writes)
    # After a mark of the pruner is the one place where the trial's own past could change its course.
    marks = [last for last, name in enumerate(writes, 1) if name == "set_trial_system_attr"]
    params = [last for last, name in enumerate(writes, 1) if name == "set_trial_param"]
    some = {"sqlite": {marks[-1]}, "shared": {1, params[1], params[-1], marks[-1], len(writes) - 1}}
    kills = some.get(storage) or {*range(1, len(writes) + 1, 9), *marks[::3]}
    for last in sorted(kills):
        folder = tmp_path / str(last)
        begin_anew()
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, storage, last)
            search(settings, folder)
        assert search(settings, folder) == expected, f"killed after write {last}, {writes[last - 1]}"


def test_a_resumed_study_runs_only_what_is_left(tmp_path: Path) -> None:
    settings = tune(trials=6)
    ran: list[int] = []

    def counted(task: Task) -> Training:
        if task.number == 3 and len(ran) == 3:
            raise Killed
        ran.append(task.number)
        return (yield from learn(task))

    with pytest.raises(Killed):
        trials_with(settings, tmp_path, counted)
    ran.append(-1)
    trials_with(settings, tmp_path, counted)
    assert ran == [0, 1, 2, -1, 3, 4, 5]


def test_the_lock_and_the_half_line_that_a_kill_leaves_do_not_stop_the_next_run(tmp_path: Path) -> None:
    settings = tune(trials=3)
    expected = search(settings, tmp_path / "undisturbed")
    search(tune(trials=2), tmp_path / "killed")
    journal = tmp_path / "killed" / "study.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code":4,"worker_')
    journal.with_name("study.log.lock").symlink_to("nowhere")
    assert search(settings, tmp_path / "killed") == expected


def test_a_search_without_a_completed_trial_proves_nothing(tmp_path: Path) -> None:
    def diverge(task: Task) -> Training:
        raise FloatingPointError("the scores are not finite")
        yield

    with pytest.raises(NotProven, match="all 8 failed or were pruned; the first: the scores are not finite") as caught:
        trials_with(tune(), tmp_path, diverge)
    assert caught.value.exit_code == 4


def test_a_bug_in_a_training_is_not_taken_for_a_failed_trial(tmp_path: Path) -> None:
    def broken(task: Task) -> Training:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        trials_with(tune(), tmp_path, broken)


def test_a_fixed_hyperparameter_is_not_searched(tmp_path: Path) -> None:
    fixed = dict.fromkeys(Space.model_fields, 1) | {"dropout": 0.1, "feature_dropout": 0}
    settings = tune(space=fixed, trials=2)
    given: list[Mapping[str, float]] = []

    def keep(task: Task) -> Training:
        given.append(task.values)
        yield Report(1, 0.5)
        return Outcome("complete", 0.5)

    trials = trials_with(settings, tmp_path, keep)
    assert given == [fixed, fixed]
    assert [trial.params for trial in trials] == [{}, {}]


# The room itself, with real trainings.


def run(root: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> manifest.Manifest:
    return run_stage("tune", worlds.write_params(root, changes), root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A world of which ingest and validate are done."""
    worlds.write(tmp_path)
    return tmp_path


def trials_of(root: Path) -> list[dict[str, str]]:
    with (root / "artifacts" / "tune" / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_room_keeps_the_best_checkpoints_best_first(tiny: Path) -> None:
    tuned = tiny / "artifacts" / "tune"
    found = manifest.read(tuned)
    models = files.read_json(tuned / "models.json")
    assert len(models) == worlds.PARAMS["tune"]["top_k"]
    assert [model["score"] for model in models] == sorted((model["score"] for model in models), reverse=True)
    assert files.read_json(tuned / "original.json")["checkpoint"] == models[0]["file"]
    assert found.metrics["tune.validation_auc"] == models[0]["score"]
    assert models[0]["score"] > 0.7, "the tiny world can be learnt"
    assert {path.name for path in tuned.glob("*.safetensors")} == {model["file"] for model in models}
    rows = trials_of(tiny)
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert {"learning_rate", "hidden", "dropout"} <= set(rows[0])
    complete = [row for row in rows if row["state"] == "complete"]
    assert max(float(row["value"]) for row in complete) == models[0]["score"]
    assert float(rows[-1]["best"]) == models[0]["score"]
    best = files.read_json(tuned / "best.json")
    assert best["trial"] == models[0]["trial"]
    assert best["params"]["hidden"] == models[0]["values"]["hidden"]


def test_the_original_has_the_quality_that_the_room_reports(tiny: Path) -> None:
    from tasks.core.metrics import auc

    validation = pq.read_table(tiny / "artifacts" / "validate" / "validation.parquet")
    model = load(tiny / "artifacts" / "tune")
    labels = model.encoder.labels(validation)
    reported = files.read_json(tiny / "artifacts" / "tune" / "models.json")[0]["score"]
    assert auc(labels, model.predict(validation)[:, 0]) == pytest.approx(reported, abs=1e-6)


def test_no_pickle_no_time_and_no_scratch_are_left(tiny: Path) -> None:
    tuned = tiny / "artifacts" / "tune"
    assert {path.suffix for path in tuned.iterdir()} == {".json", ".csv", ".html", ".safetensors"}
    written = [path for path in tuned.glob("*.json") if path.name != "manifest.json"]  # which names every setting
    assert "seconds" not in "".join(path.read_text() for path in written)
    assert not (tiny / "artifacts" / "scratch" / "tune").exists()
    measured = files.read_json(tiny / "artifacts" / "runs" / "tune.json")["measured"]
    assert measured["training_seconds"] > 0
    assert measured["search_seconds"] >= measured["training_seconds"]


def test_the_same_seed_gives_the_same_manifest_and_another_seed_does_not(tiny: Path, root: Path) -> None:
    first = manifest.read(tiny / "artifacts" / "tune")
    run(root)
    assert manifest.identity(root / "artifacts" / "tune") == manifest.identity(tiny / "artifacts" / "tune")
    worlds.write(root / "other", {"base": {"seed": 6}})
    other = run(root / "other", {"base": {"seed": 6}})
    assert other.files["trials.csv"] != first.files["trials.csv"]


def test_an_interrupted_room_goes_on_where_it_stopped(tiny: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    epochs = objective.epochs

    def counted(*args: Any) -> Any:
        trained.append(len(trained))
        if len(trained) == 2:
            yield 1, 0.99  # a report that the study stores, and that a resumed study must forget
            raise KeyboardInterrupt
        return (yield from epochs(*args))

    monkeypatch.setattr(objective, "epochs", counted)
    with pytest.raises(KeyboardInterrupt):
        run(root)
    assert not (root / "artifacts" / "tune").exists()
    run(root)
    assert len(trained) == 1 + 1 + 2
    assert manifest.identity(root / "artifacts" / "tune") == manifest.identity(tiny / "artifacts" / "tune")


def test_another_budget_goes_on_with_the_trials_that_there_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    epochs = objective.epochs

    def counted(*args: Any) -> Any:
        trained.append(len(trained))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return (yield from epochs(*args))

    monkeypatch.setattr(objective, "epochs", counted)
    with pytest.raises(KeyboardInterrupt):
        run(root)
    run(root, {"tune": {"trials": 4, "minutes": 60, "top_k": 4}})
    rows = trials_of(root)
    assert len(rows) == 4
    kept = files.read_json(root / "artifacts" / "tune" / "models.json")
    assert len(kept) == sum(row["state"] == "complete" for row in rows), "each of them can be chosen"
    assert len(trained) == 3 + 2, "the two that were finished are not trained again"


def test_changed_settings_begin_another_study(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objective, "epochs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(root)
    run(root, {"tune": {"trials": 1, "epochs": 1}})
    assert len(trials_of(root)) == 1
    assert "what an interrupted run of other settings, data or code has kept is removed" in caplog.text


def test_an_absurd_learning_rate_is_a_failed_trial_and_no_crash(root: Path) -> None:
    rates = {"choices": [0.01, 1e30]}
    space = worlds.PARAMS["tune"]["space"] | {"learning_rate": rates, "hidden": 48, "dropout": 0.0}
    found = run(root, {"tune": {"sampler": "grid", "epochs": 1, "space": space}})
    assert sorted(row["state"] for row in trials_of(root)) == ["complete", "fail"]
    assert found.metrics["tune.completed"] == 1


def test_when_every_trial_fails_nothing_is_proven_and_the_previous_output_stays(world: Path) -> None:
    before = manifest.identity(world / "artifacts" / "tune")
    space = worlds.PARAMS["tune"]["space"] | {"learning_rate": 1e30}
    with pytest.raises(NotProven, match="not finite"):
        run(world, {"tune": {"epochs": 1, "trials": 1, "space": space}})
    assert manifest.identity(world / "artifacts" / "tune") == before
    assert not list((world / "artifacts").glob(".tune.p*"))


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"drop": ["carier"]}, "no such column: carier"),
        ({"categorical": ["rout"]}, "no such column: rout"),
        ({"categorical": ["distance"]}, "distance is float64"),
        ({"drop": [name for name in worlds.COLUMNS if name not in ("late", "when")]}, "none is left"),
    ],
)
def test_features_that_cannot_be_are_usage_errors(root: Path, features: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(root, {"tune": {"features": features}})


def test_a_target_outside_its_classes_is_rejected(tmp_path: Path) -> None:
    table = worlds.rows()
    index = table.schema.get_field_index("late")
    values = table["late"].to_pylist()
    values[17] = 2
    worlds.write(tmp_path, table=table.set_column(index, "late", [values]))
    with pytest.raises(DataRejected, match="first 2"):
        run(tmp_path)


def test_the_target_the_time_and_dropped_columns_are_no_features(root: Path) -> None:
    features = {"drop": ["pressure", "carrier"], "categorical": ["route"], "min_count": 5, "bins": 6}
    found = run(root, {"tune": {"trials": 1, "epochs": 1, "features": features}})
    assert set(found.facts["features"]) == {"distance", "seats", "route", "holiday"}


def test_neither_tune_nor_compress_reads_a_row_of_test_or_fresh(root: Path) -> None:
    """Both files are no Parquet here, and nothing complains."""
    validate = root / "artifacts" / "validate"
    before = manifest.read(validate)
    for name in ("test", "fresh"):
        (validate / f"{name}.parquet").write_text("not for you")
    roles = {name: entry.role for name, entry in before.files.items()}
    (validate / "manifest.json").unlink()
    ingest = {"ingest": root / "artifacts" / "ingest"}
    manifest.write(manifest.build("validate", before.settings, ingest, validate, roles, {}, before.facts), validate)
    run(root, {"tune": {"trials": 1, "epochs": 1}})
    settings: Params = worlds.write_params(root, {"tune": {"trials": 1, "epochs": 1}, "compress": {"rounds": 20}})
    run_stage("compress", settings, root)
