"""`assay up` and `assay down` with a real server: a deployment runs on its worker, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString

import fake_pipeline
import postgresql_world
import psutil
import pytest
import retrain_world
from chromium import without_chromium
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.support.ui import WebDriverWait

from flows.services import DEPLOYMENTS, Services
from tasks.core import files

AUTH = "ann:secret"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def asked(database: str, sql: LiteralString) -> list[tuple[Any, ...]]:
    """What a PostgreSQL database answers."""
    import psycopg

    with psycopg.connect(database) as connection:
        return connection.execute(sql).fetchall()


STATES = "select flow.name, flow_run.state_type::text from flow_run join flow on flow.id = flow_run.flow_id"
ARTIFACTS = "select key, data from artifact order by created"
LINKS = "select key, description from artifact where key like '%-page' or key like '%-log'"


def check_what_is_kept(database: str, record: dict[str, Any]) -> None:
    """The run and its artifacts are in the server's database, when the server is gone."""
    assert ("retrain", "COMPLETED") in asked(database, STATES)  # the others are on schedule
    left = dict(asked(database, ARTIFACTS))
    assert left["stages"] == 100
    (line,) = json.loads(left["assay-models"])
    assert (line["model"], line["newest bundle"]) == ("tiny", record["version"])
    assert (line["at prod"], line["last retraining"]) == ("none", "ACCEPTED, today")
    pages = {key: Path(description.strip("`")) for key, description in asked(database, LINKS)}
    assert set(pages) == {"retrain-page", "validate-page", "tune-page"}
    assert all(path.is_file() for path in pages.values())  # the folder that it worked in is gone


def artifact_id(key: str) -> str:
    """The one artifact of a key on the server of the settings that are active."""
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": [key]}}}
        (artifact,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    return str(artifact["id"])


def check_the_ui(browser: Any, address: str, version: str) -> None:
    """A person who is logged in finds the verdict, the next command and the drawings there."""
    browser.get(address)
    browser.execute_script("localStorage.setItem('prefect-password', btoa(arguments[0]))", AUTH)
    promote, texts = f"assay promote tiny {version} --to staging", "return document.body.innerText"
    ui_shows(browser, address, "retrain", texts, lambda text: "tiny: ACCEPTED" in text and promote in text)
    widths = "return [...document.querySelectorAll('img')].map(image => image.naturalWidth)"
    ui_shows(browser, address, "retrain-drawings", widths, lambda found: found == [640, 640])


def ui_shows(browser: Any, address: str, key: str, script: str, wanted: Callable[[Any], bool]) -> None:
    """What a script finds on an artifact's page, in the end: it fetches its data after it was loaded."""
    browser.get(f"{address}/artifacts/artifact/{artifact_id(key)}")
    found: list[Any] = []

    def drawn(driver: Any) -> bool:
        found.append(driver.execute_script(script))
        return wanted(found[-1])

    with contextlib.suppress(TimeoutException):
        WebDriverWait(browser, 60).until(drawn)
    assert wanted(found[-1]), f"{key}: {found[-1]}"


def test_up_runs_a_scheduled_retraining_as_a_team_has_it_and_down_leaves_nothing(
    tmp_path: Path, sink: tuple[str, list[Any]], postgresql: str, request: pytest.FixtureRequest
) -> None:
    """The server's runs are kept in PostgreSQL, and it wants a password."""
    kept = postgresql_world.fresh(postgresql)
    root = retrain_world.make(tmp_path / "project")
    (root / "params.yaml").write_text(f"{retrain_world.PARAMS}retrain: {{notify: [custom-webhook/ops]}}\n")
    fake_pipeline.commit(root)
    port = free_port()
    more = {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": kept.replace("postgresql://", "postgresql+asyncpg://"),
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    family: list[psutil.Process] = []
    try:
        said = fake_pipeline.run(root, "assay", "up", "--port", str(port), **more).stdout
        pids = [one["pid"] for one in Services(root).running()["processes"]]
        family = [one for pid in pids for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))]
        assert f"UI: http://127.0.0.1:{port}\n" in said
        assert "deployment: retrain/tiny" in said
        assert len(pids) == 2
        with pytest.raises(urllib.error.HTTPError, match="401"):  # who does not know the password is told nothing
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/admin/version", timeout=10)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: AUTH}):
            hook = {"subject": "{{subject}}", "body": "{{body}}"}
            CustomWebhookNotificationBlock(name="ops", url=sink[0], json_data=hook).save("ops")
            with get_client(sync_client=True) as client:
                (automation,) = client.request("POST", "/automations/filter", json={}).json()
        assert automation["trigger"]["expect"] == ["assay.drift"]
        assert automation["trigger"]["match"] == {"prefect.resource.id": "assay.model.tiny"}
        command = ["deployment", "run", "retrain/tiny", "--param", "as_of=2020-02-01", "--watch"]
        url = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_API_AUTH_STRING": AUTH}
        watched = fake_pipeline.run(root, "prefect", *command, **url)
        assert "Accepted" in watched.stdout or "Completed" in watched.stdout
        (path,) = (root / "artifacts/runs/retrain").glob("*/record.json")
        record = files.read_json(path)
        assert record["word"] == "ACCEPTED"
        (message,) = sink[1]
        assert message["subject"] == "Assay: tiny: a version waits for its promotion"
        assert f"next:   assay promote tiny {record['version']} --to staging" in message["body"]
        if not without_chromium.args[0]:
            with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api", PREFECT_API_AUTH_STRING: AUTH}):
                check_the_ui(request.getfixturevalue("browser"), f"http://127.0.0.1:{port}", record["version"])
    finally:
        ended = fake_pipeline.run(root, "assay", "down", **more).stdout
    assert ended.count("ended") == 2
    check_what_is_kept(kept, record)
    assert not list(root.rglob("prefect.db"))
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


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
    assert not psutil.pid_exists(ours.pid)


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
