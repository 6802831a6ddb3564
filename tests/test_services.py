"""`assay up` and `assay down` with a real server: a deployment runs on its worker, and nothing is left."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import fake_pipeline
import psutil
import pytest
import retrain_world
from chromium import without_chromium
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML
from selenium.webdriver.support.ui import WebDriverWait

from flows.services import DEPLOYMENTS, Services
from tasks.core import files

AUTH = "ann:secret"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def sink() -> Iterator[tuple[str, list[Any]]]:
    """A web hook: its address, and what it was told."""
    heard: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    thread.join()
    server.server_close()


def artifact_id(key: str) -> str:
    """The one artifact of a key on the server of the settings that are active."""
    with get_client(sync_client=True) as client:
        wanted = {"artifacts": {"key": {"any_": [key]}}}
        (artifact,) = client.request("POST", "/artifacts/filter", json=wanted).json()
    return str(artifact["id"])


def ui_shows(browser: Any, address: str, page: str, *words: str) -> None:
    """The UI, logged in, draws a page with these words in the end; it fetches its data after it was loaded."""
    browser.get(address)
    browser.execute_script("localStorage.setItem('prefect-password', btoa(arguments[0]))", AUTH)
    browser.get(address + page)

    def drawn(driver: Any) -> bool:
        return all(word in driver.execute_script("return document.body.innerText") for word in words)

    WebDriverWait(browser, 60).until(drawn, f"not all of {words} on {page}")


def test_up_runs_a_scheduled_retraining_and_down_leaves_nothing(
    tmp_path: Path, sink: tuple[str, list[Any]], request: pytest.FixtureRequest
) -> None:
    root = retrain_world.make(tmp_path / "project")
    (root / "params.yaml").write_text(f"{retrain_world.PARAMS}retrain: {{notify: [custom-webhook/ops]}}\n")
    fake_pipeline.commit(root)
    port = free_port()
    more = {"PREFECT_SERVER_API_AUTH_STRING": AUTH, "PREFECT_WORKER_QUERY_SECONDS": "1"}
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
                page = f"/artifacts/artifact/{artifact_id('retrain')}"
            browser = request.getfixturevalue("browser")
            ui_shows(
                browser, f"http://127.0.0.1:{port}", page, "tiny: ACCEPTED", f"assay promote tiny {record['version']}"
            )
    finally:
        ended = fake_pipeline.run(root, "assay", "down", **more).stdout
    assert ended.count("ended") == 2
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_down_leaves_a_process_that_only_has_a_number_of_ours(tmp_path: Path) -> None:
    services = Services(tmp_path)
    services.folder.mkdir(parents=True)
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        one = {"what": "server", "pid": stranger.pid, "born": psutil.Process(stranger.pid).create_time() - 100}
        files.write_json(services.folder / "up.json", {"url": "", "processes": [one]})
        services.down(lambda _: None)
        time.sleep(0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


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
    json.dumps(document["definitions"])
