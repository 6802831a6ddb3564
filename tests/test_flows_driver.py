"""The DVC side of a run, without Prefect: what runs, what fails how, what a kill leaves behind."""

import inspect
import json
import logging
import os
import time
from pathlib import Path

import fake_pipeline
import psutil
import pytest

from flows.dvc_driver import Outcome, StageCrashed, dvc_errors, exit_status, reproduce, stage_error
from flows.dvc_rwlock import forget_dead_owners
from flows.pipeline import Pipeline, prepare
from tasks.core import errors
from tasks.core.settings import STAGES

STILL = dict.fromkeys(STAGES, Outcome.UNCHANGED)


@pytest.fixture
def done(done_project: Path) -> Pipeline:
    """A project in which every stage is up to date."""
    return prepare(done_project / "params.yaml")


def drive(pipeline: Pipeline, **options) -> dict[str, Outcome]:
    outcomes = {}

    def conduct(stage, have_done):
        outcomes[stage] = have_done()

    reproduce(pipeline, conduct, **options)
    return outcomes


def test_what_dvc_stumbles_over_does_not_hide_an_interruption():
    from dvc.exceptions import DvcException

    def work(interruption):
        try:
            raise interruption
        finally:
            raise DvcException("Unlock called on an unlocked lock")

    with pytest.raises(KeyboardInterrupt), dvc_errors():
        work(KeyboardInterrupt())
    with pytest.raises(errors.UsageError, match="Unlock called"), dvc_errors():
        work(ValueError())


def test_dvcs_private_function_is_as_this_code_expects():
    from dvc.repo.reproduce import _reproduce, _reproduce_stage
    from dvc.stage.run import run_stage

    assert list(inspect.signature(_reproduce_stage).parameters) == ["stage", "kwargs"]
    assert "repro_fn" in inspect.signature(_reproduce).parameters
    assert "run_env" in inspect.signature(run_stage).parameters


def test_both_drivers_find_each_others_work_and_write_the_same_lock(done):
    by_dvc = (done.root / "dvc.lock").read_bytes()
    assert drive(done) == STILL
    (done.root / "dvc.lock").unlink()
    assert drive(done, forced=lambda _: True) == dict.fromkeys(STAGES, Outcome.RAN)
    assert (done.root / "dvc.lock").read_bytes() == by_dvc
    assert fake_pipeline.run(done.root, "dvc", "repro").stdout.count("didn't change") == len(STAGES)


def test_a_stages_python_is_this_one_even_with_no_environment_active(done, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    drive(done, forced=lambda stage: stage == "tune")
    assert f"hello from {fake_pipeline.BIN}" in (done.artifacts / "logs" / "tune.log").read_text()


def test_a_change_runs_what_depends_on_it(done):
    done.params.write_text(done.params.read_text().replace("trials: 2", "trials: 3"))
    assert drive(done) == STILL | dict.fromkeys(["tune", "compress", "verify", "export"], Outcome.RAN)


def test_a_forced_stage_runs_alone_if_it_gives_the_same(done):
    assert drive(done, forced=lambda stage: stage == "compress") == STILL | {"compress": Outcome.RAN}


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, errors.UsageError), (3, errors.DataRejected), (4, errors.NotProven), (5, errors.IntegrityError)],
)
def test_a_stages_exit_code_survives_and_the_old_artifacts_stay(done, code, kind):
    before = (done.artifacts / "verify" / "verdict.json").read_bytes()
    fake_pipeline.behave(done.root, {"verify": f"exit {code}"})
    with pytest.raises(kind) as caught:
        drive(done, forced=lambda stage: stage == "verify")
    assert (caught.value.exit_code, type(caught.value)) == (code, kind)
    assert "stage verify" in caught.value.rule
    assert "verify.log" in caught.value.way_out
    assert (done.artifacts / "verify" / "verdict.json").read_bytes() == before
    assert drive(done) == STILL


def test_a_killed_stage_is_a_crash(done):
    fake_pipeline.behave(done.root, {"tune": "kill"})
    with pytest.raises(StageCrashed, match="SIGKILL") as caught:
        drive(done, forced=lambda stage: stage == "tune")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (1, "a bug"),
        (127, "exit code 127"),
        (-9, "SIGKILL"),
        (137, "SIGKILL"),
        (143, "SIGTERM"),
        (None, "not be started"),
    ],
)
def test_other_ends_of_a_stage_are_crashes(status, found):
    error = stage_error("tune", status, Path("tune.log"))
    assert isinstance(error, StageCrashed)
    assert found in error.found


def test_the_status_is_read_from_dvcs_own_message():
    from dvc.stage.exceptions import StageCmdFailedError

    assert exit_status(str(StageCmdFailedError("python -m tasks x, exited with 3 errors", -15))) == -15
    assert exit_status(str(StageCmdFailedError("python -m tasks x"))) is None


def test_a_missing_input_is_a_matter_of_use(done):
    (done.root / "rows.csv").unlink()
    with pytest.raises(errors.UsageError, match=r"rows\.csv"):
        drive(done)


def test_two_pipelines_with_the_same_artifacts_are_refused(done):
    other = prepare(Path(done.params.rename(done.root / "again.yaml")))
    done.params.write_text(fake_pipeline.PARAMS)
    with pytest.raises(errors.UsageError) as caught:
        drive(other)
    assert "base.artifacts_dir" in caught.value.way_out


def test_another_pipeline_runs_alone(done):
    params = done.root / "small.yaml"
    params.write_text(fake_pipeline.PARAMS.replace("dir: artifacts", "dir: out"))
    small = prepare(params)
    assert drive(small) == dict.fromkeys(STAGES, Outcome.RAN)
    assert (done.root / "small" / "dvc.lock").is_file()
    assert (done.root / "out" / "export" / "manifest.json").is_file()
    untracked = fake_pipeline.git(done.root, "status", "--porcelain", "--untracked-files=all").splitlines()
    assert untracked == ["?? out/.gitignore", "?? small.yaml", "?? small/dvc.lock", "?? small/dvc.yaml"]
    assert "didn't change" in fake_pipeline.run(done.root, "dvc", "repro", "small/dvc.yaml").stdout
    assert drive(small) == STILL


def test_a_lock_that_another_command_holds(done):
    from dvc.lock import make_lock

    with make_lock(str(done.repo / ".dvc" / "tmp" / "lock")), pytest.raises(errors.UsageError) as caught:
        drive(done)
    assert "one command at a time" in caught.value.rule


def test_dvcs_own_lines_stay_off_the_terminal(done, capfd):
    drive(done, forced=lambda stage: stage == "tune")
    assert logging.getLogger("dvc").propagate is False
    told = capfd.readouterr()
    assert "Running stage" not in told.out + told.err
    assert told.err.count("tune: done") == 1


class TestRwlock:
    """`.dvc/tmp/rwlock` after a kill."""

    @staticmethod
    def write(repo: Path, pid: int, command: str = "dvc repro") -> Path:
        path = repo / ".dvc" / "tmp" / "rwlock"
        path.parent.mkdir(parents=True, exist_ok=True)
        owner = {"pid": pid, "cmd": command}
        path.write_text(json.dumps({"write": {"/a": owner}, "read": {"/b": [owner]}}))
        return path

    def test_an_owner_whose_id_went_to_a_younger_process_is_dropped(self, tmp_path):
        path = self.write(tmp_path, os.getppid())
        os.utime(path, (0, 0))
        forget_dead_owners(tmp_path)
        assert json.loads(path.read_text()) == {"write": {}, "read": {}}

    @pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["this process", "no process"])
    def test_an_owner_that_cannot_be_is_dropped(self, tmp_path, pid):
        path = self.write(tmp_path, pid)
        forget_dead_owners(tmp_path)
        assert json.loads(path.read_text()) == {"write": {}, "read": {}}

    def test_an_owner_that_may_live_stays(self, tmp_path):
        path = self.write(tmp_path, os.getppid())
        before = path.read_bytes()
        forget_dead_owners(tmp_path)
        assert path.read_bytes() == before

    def test_an_owner_stays_though_the_clock_was_set_forward(self, tmp_path):
        path = self.write(tmp_path, os.getppid(), " ".join(psutil.Process(os.getppid()).cmdline()))
        os.utime(path, (0, 0))
        before = path.read_bytes()
        forget_dead_owners(tmp_path)
        assert path.read_bytes() == before

    def test_a_file_that_was_cut_short_goes(self, done):
        path = done.repo / ".dvc" / "tmp" / "rwlock"
        path.write_text('{"write": {"/a": {"pi')
        os.utime(path, (time.time(), time.time()))
        assert drive(done) == STILL


def test_a_stages_traceback_is_in_its_log(tmp_path, monkeypatch, capfd):
    from tasks import __main__ as stages
    from tasks.core import stage

    def stumble(*_):
        raise ZeroDivisionError("division by zero")

    (tmp_path / "params.yaml").write_text(fake_pipeline.PARAMS)
    monkeypatch.setattr(stage, "run_stage", stumble)
    monkeypatch.setattr(stages.process, "stop_on_terminate", int)
    monkeypatch.setattr(stages.process, "die_with_driver", int)
    assert stages.main(["tune", "--params", str(tmp_path / "params.yaml")]) == 1
    kept = (tmp_path / "artifacts" / "logs" / "tune.log").read_text()
    assert "in stumble" in kept
    assert capfd.readouterr().err.count("in stumble") == 1
