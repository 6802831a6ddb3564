"""`assay run` as a person has it: whole processes, a real Prefect server, real signals."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import fake_pipeline
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.dvc_driver import StageCrashed
from flows.pipeline import prepare
from flows.server import TemporaryServer
from flows.session import conduct
from tasks.core.errors import MachineError, NotProven
from tasks.core.settings import STAGES


def query(database: Path, sql: str) -> list[tuple]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql).fetchall()


def living(root: Path) -> list[psutil.Process]:
    """Processes that work in a project: its run, its stages, its server."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(root):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def works(pid: int) -> bool:
    """A zombie does not: whether and when it is reaped is up to the machine's first process."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this took too long"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def twice(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[subprocess.CompletedProcess[str]]]:
    """A project after two runs, each with a server of its own, and what the runs said."""
    root = shutil.copytree(_made, tmp_path_factory.mktemp("twice") / "project")
    return root, [fake_pipeline.run(root, "assay", "run") for _ in range(2)]


class TestTwoRuns:
    def test_the_terminal_shows_the_stages_lines_once_and_the_result(self, twice):
        root, (first, second) = twice
        for stage in STAGES:
            assert first.stderr.count(f"{stage}: done") == 1
            assert second.stderr.count(f"{stage}: unchanged") == 1
        assert not any(word in first.stderr for word in ("Task run", "Flow run", "Running stage", "Traceback"))
        assert "0.8000 [0.7900, 0.8100]" in first.stdout
        assert "verdict: ACCEPT: as good" in first.stdout
        (bundle,) = (root / "dist" / "tiny").iterdir()
        assert f"bundle:  dist/tiny/{bundle.name}" in first.stdout
        assert "dvc.lock" in first.stdout
        assert "All stages are up to date." in second.stdout

    def test_the_server_has_every_stage_as_a_task_with_its_state(self, twice):
        database = twice[0] / "artifacts" / "scratch" / "prefect.db"
        assert query(database, "select state_name from flow_run order by start_time") == [("Completed",)] * 2
        rows = query(database, "select name, state_type, state_name from task_run order by start_time")
        assert rows[:6] == [(stage, "COMPLETED", "Completed") for stage in STAGES]
        assert rows[6:] == [(stage, "COMPLETED", "Cached") for stage in STAGES]

    def test_a_stages_log_lines_belong_to_its_task(self, twice):
        database = twice[0] / "artifacts" / "scratch" / "prefect.db"
        sql = "select task_run.name, log.message from log join task_run on task_run.id = log.task_run_id"
        rows = query(database, sql)
        assert all(rows.count((stage, f"{stage}: done")) == 1 for stage in STAGES)

    def test_metrics_page_verdict_and_logs_are_artifacts(self, twice):
        database = twice[0] / "artifacts" / "scratch" / "prefect.db"
        rows = query(database, "select key, data, description from artifact where task_run_id is not null")
        data, descriptions = {key: own for key, own, _ in rows}, {key: own for key, _, own in rows}
        assert {f"{stage}-{what}" for stage in STAGES for what in ("metrics", "log")} < set(data)
        assert "tune.rows" in data["tune-metrics"]
        for stage in ("validate", "tune"):
            page = (twice[0] / "artifacts" / stage / "report.html").resolve()
            assert page.as_uri() in data[f"{stage}-page"]
            assert descriptions[f"{stage}-page"] == f"`{page}`"  # to be copied: no browser follows the link
        assert json.loads(json.loads(data["compress-candidates"]))[1] == {
            "name": "int8", "value": 0.8, "size_kib": 3.0, "chosen": True,
        }  # fmt: skip
        assert "ACCEPT" in data["verify-verdict"]

    def test_how_far_a_run_is_is_an_artifact_of_it(self, twice):
        database = twice[0] / "artifacts" / "scratch" / "prefect.db"
        sql = "select data, description, task_run_id from artifact where key = 'stages' order by created"
        assert query(database, sql) == [(100, f"6 of 6 stages; export: {how}", None) for how in ("ran", "unchanged")]

    def test_nothing_is_left_running_and_dvc_agrees(self, twice):
        root, _ = twice
        assert living(root) == []
        assert "up to date" in fake_pipeline.run(root, "dvc", "status").stdout


@pytest.fixture(scope="module")
def server(twice, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running Prefect server: the URL of its API, and its database."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copytree(twice[0] / "artifacts" / "scratch", folder / "scratch")  # its tables are there already
    with TemporaryServer(folder) as running:
        yield running.ready(), folder / "scratch" / "prefect.db"


@pytest.fixture
def database(server: tuple[str, Path]) -> Iterator[Path]:
    """The database of the server that runs of this process report to."""
    with temporary_settings({PREFECT_API_URL: server[0]}):
        yield server[1]


LAST_TASK = "select state_name, run_count from task_run where name = '{}' order by start_time desc limit 1"
LAST_FLOW = "select state_name from flow_run order by start_time desc limit 1"


class TestConfiguredServer:
    def test_a_verdict_is_not_retried_and_its_report_is_published(self, done_project, database, capfd):
        fake_pipeline.behave(done_project, {"verify": "exit 4"})
        with pytest.raises(NotProven, match="stage verify must end well"):
            conduct(prepare(done_project / "params.yaml"), force="verify", retries=2)
        told = capfd.readouterr().err
        assert told.count("verify: hello") == 1
        assert "Traceback" not in told
        assert query(database, LAST_TASK.format("verify")) == [("NotProven", 1)]
        assert query(database, LAST_FLOW) == [("NotProven",)]
        data = dict(query(database, "select key, data from artifact order by created"))
        assert "REGRESSION" in data["verify-verdict"]
        assert not (done_project / "artifacts" / "scratch" / "prefect.db").exists()

    def test_what_cannot_be_shown_changes_nothing_and_is_told(self, done_project, database, monkeypatch, capfd):
        def refuse(*_, **__):
            raise ConnectionError("no room")

        for kind in ("table", "link", "progress"):
            monkeypatch.setattr(f"prefect.artifacts.create_{kind}_artifact", refuse)
        assert conduct(prepare(done_project / "params.yaml"))["export"] == "unchanged"
        assert query(database, LAST_FLOW) == [("Completed",)]
        assert query(database, LAST_TASK.format("tune")) == [("Cached", 1)]
        told = "what tune left cannot be shown in Prefect"
        assert f"{told}: ConnectionError: no room" in capfd.readouterr().err
        (logged,) = (text for (text,) in query(database, "select message from log") if text.startswith(told))
        assert "Traceback" in logged

    def test_a_crash_is_retried_if_so_told(self, done_project, database):
        fake_pipeline.behave(done_project, {"tune": "crash once"})
        pipeline = prepare(done_project / "params.yaml")
        with pytest.raises(StageCrashed, match="exit code 1"):
            conduct(pipeline, force="tune")
        assert query(database, LAST_TASK.format("tune")) == [("StageCrashed", 1)]
        (done_project / "crashed").unlink()
        assert conduct(pipeline, force="tune", retries=1)["tune"] == "ran"
        assert query(database, LAST_TASK.format("tune")) == [("Completed", 2)]

    def test_a_bundle_that_is_gone_is_made_again(self, done_project, database):
        (bundle,) = (done_project / "dist" / "tiny").iterdir()
        shutil.rmtree(done_project / "dist")
        conduct(prepare(done_project / "params.yaml"))
        assert bundle.is_dir()
        assert "up to date" in fake_pipeline.run(done_project, "dvc", "status").stdout

    def test_one_that_does_not_answer(self, project):
        address = {PREFECT_API_URL: "http://127.0.0.1:1/api"}
        with temporary_settings(address), pytest.raises(MachineError, match="must answer"):
            conduct(prepare(project / "params.yaml"))


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(twice, tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, tuple[Path, int, str]]:
    """Three runs at once, each with its own server, each killed in another way while `tune` sleeps.

    Signal -> project, exit code, standard error.
    """
    roots = {number: tmp_path_factory.mktemp(number.name) / "project" for number in SIGNALS}
    runs = {}
    for number, root in roots.items():
        shutil.copytree(twice[0], root)
        fake_pipeline.behave(root, {"tune": "sleep"})
        fake_pipeline.change_rows(root)
        command = [str(fake_pipeline.BIN / "assay"), "run"]
        runs[number] = subprocess.Popen(
            command, cwd=root, env=fake_pipeline.environment(root), stderr=subprocess.PIPE, text=True
        )
    for root in roots.values():
        wait_until((root / "pids.json").exists)
        assert len(living(root)) >= 4  # the run, its server, the stage and the stage's child
    for number, run in runs.items():
        run.send_signal(number)
    return {number: (roots[number], run.wait(60), run.communicate()[1]) for number, run in runs.items()}


@pytest.mark.parametrize("number", SIGNALS)
class TestKilled:
    def test_nothing_stays_alive(self, killed, number):
        root, _, _ = killed[number]
        wait_until(lambda: living(root) == [], seconds=60)
        assert not any(works(pid) for pid in json.loads((root / "pids.json").read_text()))

    def test_the_exit_code_says_how(self, killed, number):
        _, code, told = killed[number]
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
        assert "Traceback" not in told

    def test_the_old_artifacts_stay_and_the_next_run_completes(self, killed, number, database, monkeypatch):
        root = fake_pipeline.run_stages_of(killed[number][0], monkeypatch)
        wait_until(lambda: living(root) == [], seconds=60)
        assert (root / "artifacts" / "tune" / "manifest.json").is_file()
        fake_pipeline.behave(root, {})
        assert conduct(prepare(root / "params.yaml"))["export"] == "ran"


def test_prefect_knows_of_a_run_that_was_terminated(killed):
    root, _, _ = killed[signal.SIGTERM]
    database = root / "artifacts" / "scratch" / "prefect.db"
    ((flow_state,),) = query(database, "select state_type from flow_run order by start_time desc limit 1")
    ((task_state,),) = query(
        database, "select state_type from task_run where name = 'tune' order by start_time desc limit 1"
    )
    assert (flow_state, task_state) == ("CRASHED", "CRASHED")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_ends_with_a_dvc_repro_that_is_killed(done_project, shell):
    """DVC starts stages through $SHELL; one shell replaces itself by its last command, another stays between."""
    fake_pipeline.behave(done_project, {"tune": "sleep"})
    fake_pipeline.change_rows(done_project)
    command = [str(fake_pipeline.BIN / "dvc"), "repro", "-q"]
    repro = subprocess.Popen(
        command,
        cwd=done_project,
        env=fake_pipeline.environment(done_project) | {"SHELL": shell},
        stderr=subprocess.DEVNULL,
    )
    wait_until((done_project / "pids.json").exists)
    repro.kill()
    repro.wait()
    wait_until(lambda: living(done_project) == [], seconds=60)
    fake_pipeline.behave(done_project, {})
    fake_pipeline.run(done_project, "dvc", "repro")
