"""`assay up` and `assay down` with a real server: a deployment runs on its worker, and nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import fake_pipeline
import psutil
import pytest
import retrain_world
import web_hook
from fake_pipeline import git
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from retrain_world import free_port, left_behind, records, wait_for
from ruamel.yaml import YAML

from flows.services import DEPLOYMENTS, Services
from tasks.core import files

AUTH = "ann:secret"


@dataclass(frozen=True)
class Up:
    """A project whose server and worker run, and what a test does to them."""

    root: Path
    port: int
    heard: list[Any]

    @property
    def services(self) -> Services:
        return Services(self.root)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def process(self, what: str) -> psutil.Process:
        """The server or the worker."""
        (found,) = (one for one in self.services.family() if [what, "start"] == one.cmdline()[4:6])
        return found

    def anew(self, what: str) -> None:
        """Kill the server, or the worker with its runs, and start the same again."""
        process = self.process(what)
        command, folder, environment = process.cmdline(), process.cwd(), process.environ()
        kill(process)
        with (self.services.folder / f"{what}.log").open("a") as log:
            subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """As when the lid of a laptop is closed: nothing of these moves, then everything goes on."""
        family = self.services.family()
        for one in family:
            one.suspend()
        try:
            yield
        finally:
            for one in family:
                one.resume()

    def schedule(self, as_of: str, **more: Any) -> UUID:
        """Ask for a retraining whose lease is renewed often."""
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name("retrain/tiny").id
            command = shlex.join([sys.executable, "-P", str(Path(__file__).with_name("short_lease.py"))])
            given = {"as_of": as_of, "because": "a test", **more}
            variables = {"command": command}
            return client.create_flow_run_from_deployment(deployment, parameters=given, job_variables=variables).id

    def state(self, run: UUID) -> State[Any]:
        """Of a run, as the server knows it."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run).state
        assert state is not None
        return state

    def tasks(self, run: UUID) -> set[str]:
        """What a run did, by name."""
        with get_client(sync_client=True) as client:
            return {one.name for one in client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run]}))}

    def wait_for(self, run: UUID, *names: str) -> State[Any]:
        """Wait until a run's state has one of the names."""
        until(lambda: self.state(run).name in names, lambda: f"{self.state(run)!r}")
        return self.state(run)

    def paused(self, stage: str) -> psutil.Process:
        """Wait until a stage pauses; its process."""
        wait_for(self.root / "pids.json")
        (pid,) = json.loads((self.root / "pids.json").read_text())
        assert json.loads((self.root / "behaviour.json").read_text())[stage] == "pause"
        return psutil.Process(pid)

    def behave(self, **stages: str) -> None:
        (self.root / "pids.json").unlink(missing_ok=True)
        fake_pipeline.behave(self.root, stages)

    @property
    def leases(self) -> list[Path]:
        """Those of the concurrency limit, as the server keeps them."""
        return list((self.services.folder / "prefect" / "concurrency_leases").glob("*-*.json"))

    def let_leases_expire(self) -> None:
        """As if their time, five minutes, had passed; a scheduled monitor may hold one of its own limit."""
        leases, past = self.leases, "2020-01-01T00:00:00+00:00"
        assert leases
        for lease in leases:
            lease.write_text(json.dumps(json.loads(lease.read_text()) | {"expiration": past}))
        index = leases[0].with_name("expirations.json")
        index.write_text(json.dumps({lease.stem: past for lease in leases}))


def kill(process: psutil.Process) -> None:
    """With its runs, at once; stages see for themselves that they are alone."""
    for one in (process, *process.children()):
        one.kill()
    process.wait()


def gone(process: psutil.Process) -> bool:
    """Whether it is dead, buried or not."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def until(done: Callable[[], bool], found: Callable[[], str] = str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, found()
        time.sleep(0.2)


SHORT = {
    "PREFECT_SERVER_API_AUTH_STRING": AUTH,
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A project after `assay up`; `assay down` leaves nothing of it."""
    root = retrain_world.make(tmp_path_factory.mktemp("services") / "project")
    (root / "params.yaml").write_text(f"{retrain_world.PARAMS}retrain: {{notify: [custom-webhook/ops]}}\n")
    fake_pipeline.commit(root)
    port = free_port()
    family: list[psutil.Process] = []
    try:
        fake_pipeline.run(root, "assay", "up", "--port", str(port), **SHORT)
        with web_hook.listening() as (address, heard):
            up = Up(root, port, heard)
            with temporary_settings({PREFECT_API_URL: up.url, PREFECT_API_AUTH_STRING: AUTH}):
                hook = {"subject": "{{subject}}", "body": "{{body}}"}
                CustomWebhookNotificationBlock(name="ops", url=address, json_data=hook).save("ops")
                yield up
        family = up.services.family()
    finally:
        ended = fake_pipeline.run(root, "assay", "down", **SHORT).stdout
    assert ended.count("ended") == 2
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def nothing_half_made(up: Up) -> None:
    assert git(up.root, "status", "--porcelain") == ""
    assert not left_behind(up.root)
    versions = [one["version"] for one in records(up.root) if one["word"] == "ACCEPTED"]
    assert len(set(versions)) == len(versions)
    assert sorted(path.name for path in (up.root / "dist" / "tiny").glob("[0-9]*-*")) == sorted(versions)
    assert len(git(up.root, "tag").split()) == len(versions)


def test_the_lease_of_a_killed_worker_is_in_nobodys_way(up: Up) -> None:
    up.behave(compress="pause")
    dead = up.schedule("2020-02-20")
    stage = up.paused("compress")
    up.anew("worker")
    until(lambda: gone(stage))
    up.behave()
    after = up.schedule("2020-02-20")
    up.wait_for(after, "AwaitingConcurrencySlot")  # nobody told the server of the kill
    assert up.state(dead).name == "Running"
    up.let_leases_expire()
    up.wait_for(after, "Accepted")
    assert "take up" in up.tasks(after)  # which is how people see that the other one ended
    assert records(up.root)[-1]["as_of"].startswith("2020-02-20")
    nothing_half_made(up)


def test_a_laptop_asleep_and_a_server_started_anew_whose_database_is_locked(up: Up) -> None:
    up.behave(tune="pause")
    run = up.schedule("2020-03-05")
    stage = up.paused("tune")
    known = len(up.heard)
    with up.asleep():
        up.let_leases_expire()
        up.process("server").resume()  # the first to wake up: else the run renews its lease, and goes on
        until(lambda: not up.leases)
    up.wait_for(run, "Crashed")
    until(lambda: gone(stage))
    until(lambda: "Assay: tiny: STOPPED" in [one["subject"] for one in up.heard[known:]], lambda: str(up.heard))
    assert "next:   assay retrain --params params.yaml (it goes on from there)" in str(up.heard[known:])
    assert git(up.root, "status", "--porcelain") == ""

    up.behave(tune="pause")
    run = up.schedule("2020-03-05")
    up.paused("tune")
    with up.asleep():
        time.sleep(4)  # the worker's heart has to beat every second, and three are missed
    up.behave(compress="pause")
    up.paused("compress")
    up.anew("server")
    up.behave(verify="pause")
    up.paused("verify")
    with closing(sqlite3.connect(up.services.folder / "prefect.db", isolation_level=None)) as locked:
        locked.execute("BEGIN EXCLUSIVE")
        up.behave()  # the stage ends, and its task wants to say so
        time.sleep(5)
        locked.execute("ROLLBACK")
    up.wait_for(run, "Accepted")
    assert "take up" in up.tasks(run)
    nothing_half_made(up)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process that sleeps, with some more variables in its environment."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(**more: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["sleep", "60"], env=os.environ | more))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.wait()


def test_down_leaves_a_process_that_only_has_a_number_of_ours(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    services, strangers = Services(tmp_path), [start(), start(ASSAY_SERVICES_OF=str(tmp_path / "another" / "folder"))]
    services.folder.mkdir(parents=True)
    processes = [{"what": "server", "pid": one.pid} for one in strangers]
    files.write_json(services.folder / "up.json", {"url": "", "processes": processes})
    assert services.running()["processes"] == []
    services.down(lambda _: None)
    time.sleep(0.1)
    assert [one.poll() for one in strangers] == [None, None]


def test_down_finds_what_was_started_by_an_up_that_was_killed_before_it_wrote_so(
    tmp_path: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    services, said = Services(tmp_path), list[str]()
    ours = start(ASSAY_SERVICES_OF=str(services.folder.resolve()))
    services.down(said.append)
    assert said == [f"left over (process {ours.pid}): ended"]
    assert ours.wait(timeout=5) == -signal.SIGTERM


def test_down_does_not_wait_for_a_process_that_nobody_reaps(tmp_path: Path) -> None:
    services, said = Services(tmp_path), list[str]()
    code = (
        "import os, subprocess, sys, time; environment = os.environ | {'ASSAY_SERVICES_OF': sys.argv[1]}; "
        "print(subprocess.Popen(['sleep', '60'], env=environment).pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(services.folder.resolve())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as careless:
        assert careless.stdout is not None
        ours = psutil.Process(int(careless.stdout.readline()))
        began = time.monotonic()
        services.down(said.append)
        assert time.monotonic() - began < 15  # far below what it gives a process to end
        assert ours.status() == psutil.STATUS_ZOMBIE
        careless.kill()
    assert said == [f"left over (process {ours.pid}): ended"]


def test_up_and_down_keep_out_of_each_others_way(tmp_path: Path) -> None:
    root = fake_pipeline.make(tmp_path / "project")
    with Services(root).alone():
        for command in ("up", "down"):
            refused = fake_pipeline.run(root, "assay", command, code=2)
            assert "one `assay up` or `assay down` at a time" in refused.stderr
            assert "wait for it, and run again" in refused.stderr
    assert "nothing that `assay up` started runs here" in fake_pipeline.run(root, "assay", "down").stdout


def test_the_deployments_name_flows_pools_and_the_event_of_drift() -> None:
    document: Any = YAML(typ="safe").load(DEPLOYMENTS.read_text())
    named = {one["entrypoint"]: one for one in document["deployments"]}
    assert set(named) == {"flows.retrain.retrain", "flows.monitor.monitor", "flows.promote.promote"}
    assert all(one["work_pool"]["name"] == "assay" for one in named.values())
    assert [bool(one.get("schedules")) for one in named.values()] == [True, True, False]
    (trigger,) = named["flows.retrain.retrain"]["triggers"]
    assert trigger["expect"] == ["assay.drift"]
    assert trigger["match"] == {"prefect.resource.id": "assay.model.{{ $ASSAY_NAME }}"}
    from prefect.workers.process import ProcessJobConfiguration

    assert set(document["definitions"]["process"]) <= set(ProcessJobConfiguration.model_fields)
    assert all(one["work_pool"]["job_variables"] == document["definitions"]["process"] for one in named.values())
    json.dumps(document["definitions"])


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_every_kind_of_pool_is_one_word_away(kind: str) -> None:
    """Prefect takes it, and in a container the project is where `pull` looks for it, with the folder beside it."""
    from prefect.cli.deploy._models import PrefectYamlModel

    text = DEPLOYMENTS.read_text()
    assert text.count("<<: *process") == 1
    text = text.replace("<<: *process", f"<<: *{kind}")
    for name, value in {"ROOT": "/srv/models/project", "HOME": "/srv/models", "NAME": "tiny"}.items():
        text = text.replace(f"{{{{ $ASSAY_{name} }}}}", value)
    document: Any = YAML(typ="safe").load(text)
    model = PrefectYamlModel.model_validate(document)
    assert model.pull == [{"prefect.deployments.steps.set_working_directory": {"directory": "/srv/models/project"}}]
    pools = [one.work_pool for one in model.deployments]
    assert [one.job_variables for one in pools if one] == [document["definitions"][kind]] * 3
    if kind == "docker":
        assert document["definitions"][kind]["volumes"] == ["/srv/models:/srv/models"]
