"""`assay up` as a team has it: its server keeps the runs in PostgreSQL and wants a password; what people see there."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable
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
from retrain_world import free_port
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.support.ui import WebDriverWait

from flows.services import Services
from tasks.core import files

AUTH = "ann:secret"


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
