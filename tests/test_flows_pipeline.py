"""Which pipeline belongs to a params file: found, written, refused."""

from pathlib import Path

import brought_world
import fake_pipeline
import onnx
import pytest
from ruamel.yaml import YAML

from flows import pipeline
from flows.template import TEMPLATE
from tasks.core.errors import SettingsError, UsageError
from tasks.core.settings import STAGES
from tasks.core.stage import UPSTREAM

PARAMS = fake_pipeline.PARAMS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that looks like a Git and DVC repository."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def write(path: Path, text: str = PARAMS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def stages(path: Path) -> dict:
    return YAML(typ="safe").load(path.read_text())["stages"]


def test_the_projects_own_dvc_yaml_is_in_step_with_upstream():
    project = stages(TEMPLATE)
    assert tuple(project) == STAGES
    for stage, definition in project.items():
        folder = "${base.artifacts_dir}"
        upstream = [dep.removeprefix(f"{folder}/") for dep in definition["deps"] if dep.startswith(folder)]
        assert tuple(upstream) == UPSTREAM[stage]
        assert definition["cmd"] == f"python -P -m tasks {stage}"
        assert definition["params"] == ["base", stage]
        assert definition["outs"] == [{f"{folder}/{stage}": {"persist": True}}]
        code = [dep for dep in definition["deps"] if not dep.startswith("$")]
        assert {"tasks/core", f"tasks/{stage}"} <= set(code)
        assert all((fake_pipeline.ROOT / dep).is_dir() for dep in code)


def test_dvc_accepts_the_projects_own_params():
    pipeline.inspect(fake_pipeline.ROOT / "params.yaml")


def test_a_params_yaml_is_served_by_the_dvc_yaml_beside_it(root):
    params = write(root / "params.yaml")
    by_hand = TEMPLATE.read_text()
    (root / "dvc.yaml").write_text(by_hand)
    found = pipeline.prepare(params)
    assert (found.dvc_yaml, found.artifacts, found.repo) == (root / "dvc.yaml", root / "artifacts", root)
    assert (root / "dvc.yaml").read_text() == by_hand


def test_another_params_file_gets_a_pipeline_in_a_folder_of_its_own(root):
    params = write(root / "data" / "churn.yaml", PARAMS.replace("artifacts}", "out/churn}"))
    found = pipeline.prepare(params)
    assert found.dvc_yaml == root / "data" / "churn" / "dvc.yaml"
    document = YAML(typ="safe").load(found.dvc_yaml.read_text())
    assert document["vars"] == ["../churn.yaml"]
    tune = document["stages"]["tune"]
    assert (tune["wdir"], tune["cmd"]) == ("..", "python -P -m tasks tune --params churn.yaml")
    assert tune["params"] == [{"churn.yaml": ["base", "tune"]}]
    code = [dep for dep in tune["deps"] if not dep.startswith("$")]
    assert [(params.parent / dep).resolve() for dep in code] == [
        fake_pipeline.ROOT / "tasks" / folder for folder in ("core", "tune")
    ]
    assert list(document["plots"][0]["trials"]["y"]) == ["../${base.artifacts_dir}/tune/trials.csv"]
    assert document["artifacts"]["${base.name}"]["path"] == "../${base.artifacts_dir}/export"


def test_a_written_pipeline_is_kept_in_step_and_untouched_when_it_is(root):
    params = write(root / "churn.yaml")
    written = pipeline.prepare(params).dvc_yaml
    text, time = written.read_text(), written.stat().st_mtime_ns
    pipeline.prepare(params)
    assert written.stat().st_mtime_ns == time
    written.write_text(text.replace("--params churn.yaml", "--params other.yaml"))
    pipeline.prepare(params)
    assert written.read_text() == text


def test_git_ignores_what_lies_beside_the_outputs(root):
    params = write(root / "churn.yaml", PARAMS.replace("artifacts}", "out/churn}"))
    write(root / "out" / "churn" / ".gitignore", "/ingest\n")
    pipeline.prepare(params)
    pipeline.prepare(params)
    lines = (root / "out" / "churn" / ".gitignore").read_text().splitlines()
    assert lines == [
        "/ingest",
        "/logs",
        "/runs",
        "/scratch",
        "/rejected",
        "/promotions",
        "/monitor",
        "/.*",
        "!/.gitignore",
    ]


def test_a_name_with_a_space_is_quoted_in_the_command(root):
    written = pipeline.prepare(write(root / "my churn.yaml")).dvc_yaml
    assert stages(written)["tune"]["cmd"] == "python -P -m tasks tune --params 'my churn.yaml'"


def test_inspect_writes_nothing(root):
    params = write(root / "churn.yaml")
    pipeline.inspect(params)
    assert sorted(path.name for path in root.iterdir()) == [".dvc", ".git", "churn.yaml"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (PARAMS.replace(", artifacts_dir: artifacts", ""), "`artifacts_dir: artifacts/churn`"),
        (PARAMS.replace("compress: {}\n", ""), "`compress: {}`"),
        (PARAMS.replace("artifacts_dir: artifacts", "artifacts_dir: ../elsewhere"), "choose a folder inside"),
        (PARAMS.replace("artifacts_dir: artifacts", "artifacts_dir: /var/elsewhere"), "choose a folder inside"),
    ],
)
def test_what_dvc_needs_is_asked_for_with_the_way_out(root, text, named):
    with pytest.raises(UsageError) as caught:
        pipeline.prepare(write(root / "churn.yaml", text))
    assert named in caught.value.way_out
    assert not (root / "churn").exists()


def test_dates_must_be_quoted_because_dvc_reads_no_others(root):
    split = "{by: time, column: when, validation_from: 2013-09-01, test_from: '2013-10-01'}"
    with pytest.raises(UsageError, match="no bare dates") as caught:
        pipeline.prepare(write(root / "params.yaml", PARAMS.replace("{by: random}", split)))
    assert "2013-09-01" in caught.value.found
    assert "2013-10-01" not in caught.value.found


def test_mistakes_of_the_params_file_come_first(root):
    with pytest.raises(SettingsError):
        pipeline.prepare(write(root / "churn.yaml", "base: {}\n"))


def test_a_file_that_does_not_exist(root):
    with pytest.raises(UsageError, match="must exist"):
        pipeline.prepare(root / "nowhere.yaml")


@pytest.mark.parametrize(("missing", "way_out"), [(".dvc", "dvc init"), (".git", "git init")])
def test_no_repository(root, missing, way_out):
    (root / missing).rmdir()
    with pytest.raises(UsageError) as caught:
        pipeline.prepare(write(root / "params.yaml"))
    assert way_out in caught.value.way_out


@pytest.mark.parametrize("name", ["params.yaml", "churn.yaml"])
def test_a_foreign_pipeline_is_never_overwritten(root, name):
    params = write(root / name)
    foreign = write((root if name == "params.yaml" else root / "churn") / "dvc.yaml", "stages:\n  mine: {cmd: ls}\n")
    with pytest.raises(UsageError, match="another pipeline is there"):
        pipeline.prepare(params)
    assert "mine" in foreign.read_text()


def test_two_params_files_cannot_share_a_folder(root):
    write(root / "churn" / "params.yaml")
    with pytest.raises(UsageError, match="would share it"):
        pipeline.prepare(write(root / "churn.yaml"))


def test_a_broken_pipeline_file(root):
    write(root / "dvc.yaml", "stages: [\n")
    with pytest.raises(UsageError, match="must be YAML"):
        pipeline.prepare(write(root / "params.yaml"))


def test_a_glob_as_source_is_answered_with_the_way_that_dvc_can_watch(root):
    text = PARAMS.replace("source: rows.csv", "source: data/*.csv")
    assert text != PARAMS
    with pytest.raises(UsageError, match="not a glob") as caught:
        pipeline.prepare(write(root / "params.yaml", text))
    assert "ingest.pattern" in caught.value.way_out


BROUGHT = PARAMS.replace("tune: {", "tune: {start_from: models/net.onnx, ").replace(", }", "}")


def brought(root: Path, name: str) -> Path:
    (root / "models").mkdir(exist_ok=True)
    brought_world.save(brought_world.network(), root / "models" / "net.onnx")
    return write(root / name, BROUGHT)


def test_dvc_watches_a_model_that_is_brought(root):
    assert BROUGHT != PARAMS
    written = pipeline.prepare(brought(root, "churn.yaml")).dvc_yaml
    assert stages(written)["tune"]["deps"][-1] == "models/net.onnx"


def test_dvc_watches_the_external_data_of_an_onnx_file(root):
    params = brought(root, "churn.yaml")
    onnx.save(
        brought_world.network(), root / "models" / "net.onnx", save_as_external_data=True, location="net.data",
        size_threshold=64,
    )  # fmt: skip
    written = pipeline.prepare(params).dvc_yaml
    assert stages(written)["tune"]["deps"][-2:] == ["models/net.onnx", "models/net.data"]


def test_a_pipeline_by_hand_must_watch_it_too(root):
    params = brought(root, "params.yaml")
    by_hand = TEMPLATE.read_text()
    (root / "dvc.yaml").write_text(by_hand)
    with pytest.raises(UsageError, match="DVC must watch the model") as caught:
        pipeline.prepare(params)
    assert "add `- models/net.onnx` to the deps of tune there" in caught.value.way_out
    for watched in ("models/net.onnx", "${tune.start_from}"):
        (root / "dvc.yaml").write_text(
            by_hand.replace("      - tasks/tune\n", f"      - tasks/tune\n      - {watched}\n")
        )
        pipeline.prepare(params)


def test_dvc_watches_an_earlier_search(root):
    warm = BROUGHT.replace("start_from: models/net.onnx", "warm_start: earlier/trials.csv")
    assert warm != BROUGHT
    written = pipeline.prepare(write(root / "churn.yaml", warm)).dvc_yaml
    assert stages(written)["tune"]["deps"][-1] == "earlier/trials.csv"


def test_a_model_that_is_not_there_is_missed_before_any_stage_runs(root):
    with pytest.raises(UsageError, match=r"tune\.start_from must name a file"):
        pipeline.prepare(write(root / "churn.yaml", BROUGHT))
