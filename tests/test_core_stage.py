"""One stage runs whole or changes nothing; what it needs is checked first."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import worlds
from filelock import FileLock

from tasks.core import files, manifest, record
from tasks.core.errors import DataRejected, IntegrityError, MachineError, NotProven, UsageError
from tasks.core.settings import Params, load
from tasks.core.stage import StageSettings, exit_code, run_stage

Room = Callable[[StageSettings, Mapping[str, Path], Path], manifest.Manifest]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A world of which ingest and validate are done."""
    worlds.write(tmp_path)
    return tmp_path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Room], None]:
    """Put a small room in the place of `tune`."""

    def put(room: Room) -> None:
        module = ModuleType("tasks.tune")
        module.run = room  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tasks.tune", module)

    return put


def small_room(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> manifest.Manifest:
    (out / "model").write_text(str(settings.own.trials))
    settings.measured["seconds"] = 1.5
    return manifest.build("tune", settings.hash, inputs, out, {"model": "model"})


def params(root: Path) -> Params:
    return load(root / "params.yaml")


def test_what_was_made_with_other_settings_is_not_built_on(root: Path, install: Any) -> None:
    """Without DVC nothing else would notice: an old verdict must not cover a new margin."""
    install(small_room)
    changed = worlds.write_params(root, {"base": {"seed": 6}})
    with pytest.raises(IntegrityError, match="other values of base or validate"):
        run_stage("tune", changed, root)
    moved = worlds.write_params(root, {"base": {"dist_dir": "elsewhere"}})
    assert run_stage("tune", moved, root).stage == "tune", "where folders lie changes nothing in them"


def test_a_room_leaves_its_files_a_manifest_with_its_settings_and_a_record(root: Path, install: Any) -> None:
    install(small_room)
    result = run_stage("tune", params(root), root)
    artifacts = root / "artifacts"
    assert manifest.read(artifacts / "tune", {"validate": artifacts / "validate"}) == result
    assert result.params["base"]["name"] == "tiny"
    assert result.params["tune"]["trials"] == 3
    kept = record.read(artifacts, "tune")
    assert kept is not None
    assert kept["measured"] == {"seconds": 1.5}
    assert '"seconds"' not in (artifacts / "tune" / "manifest.json").read_text()


def test_equal_runs_have_equal_manifests(root: Path, install: Any) -> None:
    install(small_room)
    run_stage("tune", params(root), root)
    first = (root / "artifacts" / "tune" / "manifest.json").read_bytes()
    run_stage("tune", params(root), root)
    assert (root / "artifacts" / "tune" / "manifest.json").read_bytes() == first


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MachineError),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), MachineError),
        (DataRejected("rule", "found", "way out"), DataRejected),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(143), SystemExit),
        (ValueError("a bug"), ValueError),
    ],
)
def test_whatever_ends_a_room_leaves_the_previous_output(
    root: Path, install: Any, error: BaseException, becomes: type[BaseException]
) -> None:
    install(small_room)
    run_stage("tune", params(root), root)
    before = manifest.identity(root / "artifacts" / "tune")

    def failing(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> manifest.Manifest:
        (out / "half").write_text("half")
        raise error

    install(failing)
    with pytest.raises(becomes):
        run_stage("tune", params(root), root)
    assert manifest.identity(root / "artifacts" / "tune") == before
    assert manifest.read(root / "artifacts" / "tune")
    assert not list((root / "artifacts").glob(".tune.p*"))


def test_a_record_that_cannot_be_written_leaves_the_previous_output(
    root: Path, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(small_room)
    run_stage("tune", params(root), root)
    before = manifest.identity(root / "artifacts" / "tune")
    worlds.write_params(root, {"tune": {"trials": 4}})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "write", full)
    with pytest.raises(MachineError, match="previous artifacts are untouched"):
        run_stage("tune", params(root), root)
    assert manifest.identity(root / "artifacts" / "tune") == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"late"', '"lat"'))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda artifacts: truncate(artifacts / "validate" / "train.parquet"), IntegrityError, r"train\.parquet has"),
        (lambda artifacts: (artifacts / "validate" / "test.parquet").unlink(), IntegrityError, "missing"),
        (lambda artifacts: edit(artifacts / "ingest" / "manifest.json"), IntegrityError, "validate was made from"),
        (lambda artifacts: shutil.rmtree(artifacts / "ingest"), UsageError, "dvc repro ingest"),
        (lambda artifacts: shutil.rmtree(artifacts / "validate"), UsageError, "dvc repro validate"),
    ],
)
def test_inputs_that_are_not_whole_stop_a_stage_before_it_begins(
    root: Path, install: Any, damage: Callable[[Path], object], error: type[Exception], said: str
) -> None:
    def never(*_: object) -> manifest.Manifest:
        raise AssertionError("the room was entered")

    install(never)
    damage(root / "artifacts")
    with pytest.raises(error, match=said):
        run_stage("tune", params(root), root)


def test_an_input_that_was_killed_between_its_renames_is_put_back(root: Path, install: Any) -> None:
    install(small_room)
    (root / "artifacts" / "validate").rename(root / "artifacts" / ".validate.previous")
    run_stage("tune", params(root), root)
    assert manifest.read(root / "artifacts" / "validate")


def test_only_one_run_of_a_stage_at_a_time(root: Path, install: Any) -> None:
    install(small_room)
    with FileLock(root / "artifacts" / ".tune.lock"), pytest.raises(UsageError, match="another one is running"):
        run_stage("tune", params(root), root)


@pytest.mark.parametrize("make", [lambda path: (path.mkdir(), (path / "mine").touch()), lambda path: path.touch()])
def test_what_no_stage_has_written_is_not_replaced(root: Path, install: Any, make: Callable[[Path], object]) -> None:
    install(small_room)
    out = root / "artifacts" / "tune"
    make(out)
    before = sorted(root.rglob("*"))
    with pytest.raises(UsageError, match=r"base\.artifacts_dir"):
        run_stage("tune", params(root), root)
    assert {path for path in root.rglob("*") if not path.name.endswith(".lock")} == set(before)


def test_an_empty_folder_is_taken(root: Path, install: Any) -> None:
    install(small_room)
    (root / "artifacts" / "tune").mkdir()
    run_stage("tune", params(root), root)
    assert manifest.read(root / "artifacts" / "tune")


@pytest.mark.parametrize("artifacts_dir", ["params.yaml", "params.yaml/sub"])
def test_a_file_where_the_artifacts_should_be_is_a_machine_error(tmp_path: Path, artifacts_dir: str) -> None:
    settings = worlds.write_params(tmp_path, {"base": {"artifacts_dir": artifacts_dir}})
    with pytest.raises(MachineError, match=r"params\.yaml"):
        run_stage("tune", settings, tmp_path)


def test_a_record_of_another_output_is_ignored(root: Path, install: Any) -> None:
    install(small_room)
    run_stage("tune", params(root), root)
    path = record.record_file(root / "artifacts", "tune")
    files.write_json(path, files.read_json(path) | {"manifest": "0" * 64})
    assert record.read(root / "artifacts", "tune") is None
    assert record.read(root / "artifacts", "compress") is None


def test_a_record_names_the_hardware_and_no_host(root: Path, install: Any) -> None:
    install(small_room)
    run_stage("tune", params(root), root)
    found = json.loads(record.record_file(root / "artifacts", "tune").read_text())
    assert found["seconds"] >= 0
    assert found["peak_rss_mib"] > 10
    assert set(found["hardware"]) == {"machine", "processor", "cores", "memory_mib", "system", "python"}
    assert str(root) not in json.dumps(found)


def test_exit_codes() -> None:
    message = ("rule", "found", "way out")
    errors = [DataRejected(*message), NotProven(*message), IntegrityError(*message), MachineError(*message)]
    assert [exit_code(error) for error in errors] == [3, 4, 5, 2]
    assert exit_code(KeyboardInterrupt()) == 130
    assert exit_code(ValueError()) == 1
