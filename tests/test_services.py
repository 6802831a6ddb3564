"""`assay up` and `assay down` with a real server: a deployment runs on its worker, and nothing is left."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, LiteralString

import fake_pipeline
import postgresql_world
import psutil
import pytest
import retrain_world
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML

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


def test_up_runs_a_scheduled_retraining_as_a_team_has_it_and_down_leaves_nothing(
    tmp_path: Path, sink: tuple[str, list[Any]], postgresql: str
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
    finally:
        ended = fake_pipeline.run(root, "assay", "down", **more).stdout
    assert ended.count("ended") == 2
    assert ("retrain", "COMPLETED") in asked(kept, STATES)  # the others are on schedule
    left = dict(asked(kept, ARTIFACTS))
    assert left["stages"] == 100
    (line,) = json.loads(left["assay-models"])
    assert (line["model"], line["newest bundle"]) == ("tiny", record["version"])
    assert (line["at prod"], line["last retraining"]) == ("-", "ACCEPTED, today")
    assert not list(root.rglob("prefect.db"))
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
