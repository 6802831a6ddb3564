"""`assay monitor` and `assay models`: what rows are held against, exit codes, event, artifacts, and the page of all."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import promote_world
import pyarrow.parquet as pq
import pytest
import worlds
from monitor_world import drifted, steady
from prefect.settings import PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML
from serving_world import publish
from typer.testing import CliRunner

from deploy import signing
from flows.cli import app
from flows.models import models, table
from flows.server import TemporaryServer
from flows.session import monitor
from tasks.core.errors import DataRejected, UsageError
from tasks.promote.store import FolderStore


@pytest.fixture
def served(tiny: Path, tmp_path: Path) -> Path:
    """A project whose store has a bundle in production, and a table of recent rows to watch."""
    key, _ = signing.new_keys(tmp_path / "keys")
    folder = publish(tiny, tmp_path / "dist" / "tiny", 1, key)
    root = tmp_path / "project"
    root.mkdir()
    own = {"rows": "recent.parquet", "min_rows": 300, "in_a_row": 2}
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(worlds.params() | {"monitor": own}, file)
    promote_world.move(FolderStore(root / "store"), folder, "prod")
    pq.write_table(steady(0), root / "recent.parquet")
    return root


def test_the_command(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(served)
    runner = CliRunner()

    def assay(*arguments: str) -> Any:
        return runner.invoke(app, ["monitor", *arguments])

    done = assay("--fail-on-drift")
    assert done.exit_code == 0, done.exception
    assert "STEADY: nothing drifted in recent.parquet, 400 rows" in done.output
    assert "artifacts/monitor/report.html" in done.output
    for day in (1, 2):
        pq.write_table(drifted(day), served / "recent.parquet")
        done = assay()
    assert done.exit_code == 0
    assert "DRIFT: distance, probability drifted in 2 windows in a row" in done.output
    assert "`assay retrain`" in done.output
    done = assay("--fail-on-drift")
    assert isinstance(done.exception, DataRejected)
    assert "`assay retrain`" not in done.output, "it was asked for already"


def test_without_a_champion_the_way_out_is_told(served: Path) -> None:
    (served / "store").rename(served / "elsewhere")
    with pytest.raises(UsageError, match="--bundle"):
        monitor(served / "params.yaml")
    (bundle,) = (path for path in (served / "elsewhere" / "tiny").iterdir() if (path / "model.onnx").is_file())
    assert monitor(served / "params.yaml", bundle).word == "STEADY"


def test_every_model_is_a_line_of_one_page(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is watched, one of which nothing is there yet, one whose settings are wrong, one whose log is."""
    for name in ("", "other", "wrong", "broken", ".hidden"):
        (served / name).mkdir(exist_ok=True)
        (served / name / "dvc.yaml").write_text("stages: {}\n")
    for name in ("other", "broken"):
        raw = worlds.params({"base": {"name": name, "artifacts_dir": f"artifacts/{name}"}})
        with (served / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(raw, file)
    (served / "wrong.yaml").write_text("base: {name: wrong}\n")
    (served / "store" / "broken").mkdir()
    (served / "store" / "broken" / "audit.jsonl").write_text("{}\n")
    for day in (1, 2):
        pq.write_table(drifted(day), served / "recent.parquet")
        monitor(served / "params.yaml")
    (served / "artifacts" / "verify").mkdir()
    (served / "artifacts" / "verify" / "verdict.json").write_text('{"verdict": "ACCEPT", "reason": "<as good>"}')
    for when in ("2020-01-01", "2020-01-02"):
        kept = served / "artifacts" / "runs" / "retrain" / when / "record.json"
        kept.parent.mkdir(parents=True)
        kept.write_text(json.dumps({"word": "NOTHING", "when": f"{when}T00:00:00+00:00", "reason": f"as on {when}"}))
    found = {one.name: one for one in models(served)}
    assert list(found) == ["broken", "other", "tiny", "wrong.yaml"]
    heads, rows = table(list(found.values()), datetime(2020, 1, 3, tzinfo=UTC))
    lines = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    (bundle,) = (path.name for path in (served / "store" / "tiny").iterdir() if (path / "model.onnx").is_file())
    assert lines["tiny"] == {
        "model": "tiny", "params": "params.yaml", "newest bundle": "-", "at staging": "-",
        "at prod": f"{bundle}, 2 days ago", "last verdict": "ACCEPT", "last retraining": "NOTHING, 1 day ago",
        "last monitor": "DRIFT, today",
    }  # fmt: skip
    assert {*lines["other"].values()} == {"other", "other.yaml", "-"}
    assert "wrong.yaml must follow its schema" in found["wrong.yaml"].problem
    assert "line 1" in found["broken"].problem
    monkeypatch.chdir(served)
    done = CliRunner().invoke(app, ["models", "--out", "models.html"])
    assert done.exit_code == 0, done.exception
    page = (served / "models.html").read_text()
    for text in ("4 models, 1 with drift", "&lt;as good&gt;", "drifted in 2 windows in a row", "as on 2020-01-02"):
        assert text in page
    with pytest.raises(UsageError, match="there is none"):
        models(served / "store")


@pytest.fixture
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Prefect server's API."""
    with TemporaryServer(tmp_path_factory.mktemp("prefect"), start_seconds=300) as running:
        url = running.ready()
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def test_the_flow_asks_for_a_retraining_by_an_event(served: Path, prefect: str) -> None:
    from prefect.client.orchestration import get_client

    (served / "dvc.yaml").write_text("stages: {}\n")
    (served / "store").rename(served / "elsewhere")
    with pytest.raises(UsageError, match="nothing was promoted to prod"):
        monitor(served / "params.yaml")
    (served / "elsewhere").rename(served / "store")
    words = []
    for day in (1, 2):
        pq.write_table(drifted(day), served / "recent.parquet")
        words.append(monitor(served / "params.yaml").word)
    assert words == ["WATCH", "DRIFT"]
    (served / "recent.parquet").unlink()
    with pytest.raises(UsageError, match=r"recent\.parquet does not exist"):
        monitor(served / "params.yaml")
    (served / "store").rename(served / "elsewhere")
    with pytest.raises(UsageError, match="nothing was promoted to prod"):  # a store is lost: no state NOTHING
        monitor(served / "params.yaml")
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        artifacts = client.read_artifacts()
        event = _event(client)
    assert sorted(run.state.name for run in runs) == ["DRIFT", "NOTHING", "UsageError", "UsageError", "WATCH"]
    assert {one.key for one in artifacts} == {"monitor", "monitor-page", "monitor-columns", "assay-models"}
    (line,) = json.loads(max((one for one in artifacts if one.key == "assay-models"), key=lambda one: one.created).data)
    assert (line["model"], line["last monitor"].partition(",")[0]) == ("tiny", "DRIFT")
    assert any("## DRIFT" in str(one.data) for one in artifacts)
    assert event["resource"]["prefect.resource.id"] == "assay.model.tiny"
    payload = event["payload"]
    assert (payload["params"], payload["drifted"]) == (str(served / "params.yaml"), ["distance", "probability"])
    assert payload["page"] == (served / "artifacts" / "monitor" / "report.html").as_uri()
    told = json.loads((served / "artifacts" / "monitor" / "monitor.json").read_text())
    assert told["asked_for"] == payload["drifted"]


def test_people_are_told_of_a_monitor_that_fails(served: Path, prefect: str, sink: tuple[str, list[Any]]) -> None:
    from prefect.blocks.notifications import MattermostWebhook

    address, heard = urlsplit(sink[0]), sink[1]
    MattermostWebhook(hostname=address.hostname, port=address.port, secure=False, token="abc123").save("ops")  # noqa: S106
    own = YAML(typ="safe").load((served / "params.yaml").read_text()) | {"retrain": promote_world.NOTIFY}
    with (served / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(own, file)
    assert monitor(served / "params.yaml").word == "STEADY"
    assert heard == []
    (served / "recent.parquet").unlink()
    with pytest.raises(UsageError, match=r"recent\.parquet does not exist"):
        monitor(served / "params.yaml")
    (told,) = heard
    for text in ("tiny: monitor FAILED", "recent.parquet does not exist", "next:", "assay monitor --params"):
        assert text in told["text"]


def test_people_are_told_of_a_monitor_that_was_ended_from_outside(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uuid

    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Crashed

    import flows.monitor as conducted

    said: list[str] = []
    monkeypatch.setattr("flows.notify.notify", lambda _, subject, body: said.append(f"{subject}: {body}"))
    params = str(served / "params.yaml")
    run = FlowRun(flow_id=uuid.uuid4(), parameters={"params": params, "bundle": "dist/tiny/1 a"})
    (hook,) = conducted.monitor.on_crashed_hooks
    hook(conducted.monitor, run, Crashed(message="out of memory"))
    again = f"assay monitor --params {params} --bundle 'dist/tiny/1 a'"
    assert said == [f"Assay: tiny: monitor STOPPED: out of memory\nnext:   {again}"]


def _event(client: Any) -> dict[str, Any]:
    """The one event that asks for a retraining, as soon as the server has it."""
    from prefect.types._datetime import now

    wanted = {"filter": {"event": {"name": ["assay.drift"]},
                         "occurred": {"since": (now("UTC") - timedelta(hours=1)).isoformat(),
                                      "until": (now("UTC") + timedelta(hours=1)).isoformat()}}}  # fmt: skip
    deadline = time.monotonic() + 60
    while True:
        found = client.request("POST", "/events/filter", json=wanted).json()["events"]
        if found:
            (event,) = found
            return dict(event)
        assert time.monotonic() < deadline, "no event came"
        time.sleep(0.3)
