"""What a person who knows DVC expects of the project's `dvc.yaml` and `.dvc/config`."""

import json
from pathlib import Path

import fake_pipeline
from fake_pipeline import run


def test_metrics_plots_and_their_differences(done_project):
    shown = json.loads(run(done_project, "dvc", "metrics", "show", "--json").stdout)
    assert shown[""]["data"]["artifacts/metrics.json"]["data"] == {"verify.trials": 2}

    run(done_project, "dvc", "exp", "run", "-S", "tune.trials=4")
    assert "trials: 4" in (done_project / "params.yaml").read_text()
    changed = json.loads(run(done_project, "dvc", "metrics", "diff", "--json").stdout)
    assert changed["artifacts/metrics.json"]["verify.trials"] == {"old": 2, "new": 4, "diff": 2}

    plots = json.loads(run(done_project, "dvc", "plots", "show", "--json").stdout)["data"]
    trials, candidates = (plots[name][0]["content"]["data"]["values"] for name in ("trials", "size_against_quality"))
    assert {(point["trial"], point["field"]) for point in trials} == {
        (str(trial), column) for trial in range(4) for column in ("value", "best")
    }
    assert {(point["name"], point["size_kib"]) for point in candidates} == {("fp32", 9.0), ("int8", 3.0)}


def test_the_damage_of_layers_that_int8_hurts_is_drawn(done_project):
    table = done_project / "artifacts/compress/sensitivity.json"
    table.write_text(json.dumps([{"name": "stem", "damage": 0.4}, {"name": "linear", "damage": 0.1}]))
    plots = json.loads(run(done_project, "dvc", "plots", "show", "--json", "damage_by_layer").stdout)["data"]
    (drawn,) = plots["damage_by_layer"]
    points = drawn["content"]["data"]["values"]
    assert {(point["name"], float(point["damage"])) for point in points} == {("stem", 0.4), ("linear", 0.1)}


def test_push_to_a_folder_and_pull_into_a_fresh_clone(done_project, tmp_path):
    run(done_project, "dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    run(done_project, "dvc", "push")
    fake_pipeline.commit(done_project)
    clone = tmp_path / "clone"
    fake_pipeline.git(tmp_path, "clone", "-q", str(done_project), str(clone))
    fake_pipeline.behave(clone, {})
    run(clone, "dvc", "pull")
    assert "up to date" in run(clone, "dvc", "status").stdout
    assert "didn't change" in run(clone, "dvc", "repro").stdout
    assert _files(clone / "artifacts" / "verify") == _files(done_project / "artifacts" / "verify")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_model_is_an_artifact_of_the_registry(done_project, tmp_path):
    run(done_project, "gto", "register", "tiny")
    run(done_project, "dvc", "artifacts", "get", str(done_project), "tiny", "-o", str(tmp_path / "got"))
    assert (tmp_path / "got" / "manifest.json").is_file()


def test_byte_code_beside_the_code_changes_nothing(done_project):
    cache = done_project / "tasks" / "core" / "__pycache__"
    cache.mkdir()
    (cache / "code.pyc").write_bytes(b"0")
    assert "up to date" in run(done_project, "dvc", "status").stdout


def test_a_section_of_the_params_concerns_its_stage_alone(done_project):
    params = done_project / "params.yaml"
    params.write_text(params.read_text().replace("compress: {}", "compress: {rounds: 30}"))
    assert set(json.loads(run(done_project, "dvc", "status", "--json").stdout)) == {"compress"}


def test_telemetry_is_off():
    settings = (fake_pipeline.ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in settings
    assert "check_update = false" in settings
