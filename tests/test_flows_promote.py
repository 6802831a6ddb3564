"""`assay promote`, `rollback`, `history`: as a flow that asks a person in Prefect, as commands; the tags in Git."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fake_pipeline
import promote_world
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from promote_world import APPROVER, NAME, bundle_of

from deploy.store import current
from flows import registry
from flows.pipeline import inspect
from flows.promotion import Wanted, carry_out, rollback
from flows.server import TemporaryServer
from flows.session import promote
from tasks.core import files
from tasks.core.errors import MachineError, PromotionRefused, UsageError
from tasks.promote import Gate, Said


def tags(root: Path) -> list[str]:
    return fake_pipeline.git(root, "tag").split()


# The registry.


def test_dvc_fetches_what_serves_at_a_stage(done_project: Path) -> None:
    root = done_project
    fake_pipeline.git(root, "config", "user.email", "tester@example.org")
    fake_pipeline.git(root, "config", "user.name", "Tester")
    pipeline = inspect(root / "params.yaml")
    name = registry.artifact(pipeline)
    assert name == NAME
    for stage in ("staging", "prod", "prod"):
        assert registry.tag(pipeline, name, "1-abc", stage, "HEAD") == "v1.0.0"
    assert tags(root) == ["tiny#prod#2", "tiny#staging#1", "tiny@v1.0.0"]
    fake_pipeline.run(root, "dvc", "artifacts", "get", ".", NAME, "--stage", "prod", "--out", "got")
    assert (root / "got" / "content.txt").read_text() == (root / "artifacts" / "export" / "content.txt").read_text()
    fake_pipeline.commit(root)
    registry.tag(pipeline, name, "2-abd", "prod", "HEAD")
    assert registry.is_registered(pipeline, name, "2-abd")
    assert not registry.is_registered(pipeline, name, "3-abd")
    registry.tag(pipeline, name, "1-abc", "prod", "HEAD")  # a rollback
    assert tags(root)[:3] == ["tiny#prod#2", "tiny#prod#3", "tiny#prod#4"]
    first, last = (fake_pipeline.git(root, "rev-list", "-n1", tag) for tag in ("tiny@v1.0.0", "tiny#prod#4"))
    assert first == last


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ("artifacts:", "artifacts: [", "must be YAML"),
        ("/export\n    type", "/verify\n    type", "its path is artifacts/verify"),
        ("  ${base.name}:\n    path", "  another:\n    path", "it is not there"),
    ],
)
def test_nothing_is_tagged_where_dvc_could_not_fetch_it(project: Path, before: str, after: str, found: str) -> None:
    path = project / "dvc.yaml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UsageError, match=found):
        registry.artifact(inspect(project / "params.yaml"))


def test_the_artifact_of_a_pipeline_in_a_folder_has_its_name(project: Path) -> None:
    """As those of `assay run --params FILE` have theirs."""
    from flows.pipeline import prepare

    (project / "params.yaml").rename(project / "other.yaml")
    (project / "dvc.yaml").unlink()
    pipeline = prepare(project / "other.yaml")
    assert registry.artifact(pipeline) == "other:tiny"


@pytest.fixture
def reported(promotable: Path) -> Path:
    """The project, with an audit report beside it."""
    promote_world.report(promotable, bundle_of(promotable), promotable / "report.json")
    return promotable


def test_a_commit_that_stands_for_a_version_refuses_another_one_before_anything_moves(reported: Path) -> None:
    root, second = reported, promote_world.another(reported)
    promote_world.export_of(root, second)
    pipeline = inspect(root / "params.yaml")
    registry.register(pipeline, NAME, bundle_of(root).name, "HEAD")
    wanted = Wanted(NAME, second.name, "staging", root / "params.yaml", audit_report=root / "report.json")

    def of_origin_alone(gate: Gate, answer: Callable[[Gate], Said]) -> Said:
        return answer(gate) if gate.name in ("bundle", "origin") else Said("PASS", "")

    with pytest.raises(PromotionRefused, match=r"is tiny@v1.0.0 already.*`git commit --allow-empty`") as caught:
        carry_out(wanted, of_origin_alone, lambda _, __: None)
    assert "gate origin: FAIL" in caught.value.found
    assert not (root / "store").exists()
    assert tags(root) == ["tiny@v1.0.0"]
    fake_pipeline.commit(root)
    assert carry_out(wanted, of_origin_alone, lambda _, __: None).endswith("tagged tiny@v2.0.0")
    assert current(root / "store", NAME, "staging").name == second.name
    assert tags(root) == ["tiny#staging#1", "tiny@v1.0.0", "tiny@v2.0.0"]


def test_a_registry_that_cannot_be_asked_is_no_yes(reported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: Any) -> None:
        raise UsageError("GTO reads the tags", "they cannot be read", "mend the repository")

    monkeypatch.setattr(registry, "other_at_commit", unreadable)
    wanted = Wanted(NAME, bundle_of(reported).name, "staging", reported / "params.yaml")

    def of_origin_alone(gate: Gate, answer: Callable[[Gate], Said]) -> Said:
        return answer(gate) if gate.name in ("bundle", "origin") else Said("PASS", "")

    with pytest.raises(PromotionRefused) as caught:
        carry_out(wanted, of_origin_alone, lambda _, __: None)
    assert "gate origin: INCONCLUSIVE: GTO reads the tags: they cannot be read" in caught.value.found


# The commands, with the real server.


def test_the_commands(reported: Path) -> None:
    root, version = reported, bundle_of(reported).name

    def assay(*arguments: str, code: int = 0) -> str:
        done = fake_pipeline.run(root, "assay", *arguments, code=code)
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    told = assay("promote", NAME, version, "--to", "staging", "--audit-report", "report.json", "--reason", "a release")
    assert f"tiny: staging now serves {version} (revision 1); tagged tiny@v1.0.0" in told
    assert "server: PASS: 3 golden requests answered" in told
    assert "champion: PASS: the first release" in told
    told = assay("approve", NAME, version, "--key", "keys/ann.key", "--out", "yes.json")
    assert f"{APPROVER} approves {NAME} {version} for prod" in told
    prod = ("promote", NAME, version, "--to", "prod", "--audit-report", "report.json", "--approval", "yes.json")
    assert "prod now serves" in assay(*prod)
    told = assay("history", NAME)
    assert f"staging  promote  {version} (revision 1); by tester@example.org; why: a release; all gates PASS" in told
    assert f"approved by {APPROVER} (by key)" in told
    assert "2 moves; the chain holds" in told
    with pytest.raises(UsageError, match="must have served another version before"):
        rollback(NAME, "prod", None, root / "params.yaml", "")
    log = root / "store" / NAME / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"a release", b"a  lease"))
    assert "line 1: its content has the hash" in assay("history", NAME, code=5)


# The flow.


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Prefect server's API."""
    with TemporaryServer(tmp_path_factory.mktemp("prefect"), start_seconds=300) as running:
        url = running.ready()
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def answer(client: Any, **said: Any) -> None:
    """Wait until a flow run asks for an approval, and answer."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
    from prefect.client.schemas.responses import SetStateStatus

    paused = FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Paused"])))
    deadline = time.monotonic() + 120
    # A run is paused a moment before its form is there, and till then Prefect takes no answer.
    while not any(
        client.resume_flow_run(run.id, run_input=said).status is SetStateStatus.ACCEPT
        for run in client.read_flow_runs(flow_run_filter=paused)
    ):
        assert time.monotonic() < deadline, "no flow run asks"
        time.sleep(0.2)


def test_an_approver_is_asked_in_prefect(reported: Path, prefect: str, sink: tuple[str, list[Any]]) -> None:
    from prefect.blocks.notifications import MattermostWebhook
    from prefect.client.orchestration import get_client

    address = urlsplit(sink[0])
    MattermostWebhook(hostname=address.hostname, port=address.port, secure=False, token="abc123").save("ops")  # noqa: S106
    version = bundle_of(reported).name
    wanted = {"params": reported / "params.yaml", "audit_report": reported / "report.json"}
    said = promote(Wanted(NAME, version, "staging", **wanted))
    assert "tiny: staging now serves" in said
    with get_client(sync_client=True) as client:
        for given in ({"approver": promote_world.AUTHOR, "yes": True}, {"approver": APPROVER, "yes": True}):
            person = threading.Thread(target=answer, args=(client,), kwargs=given)
            person.start()
            if given["approver"] == APPROVER:
                promote(Wanted(NAME, version, "prod", **wanted))
            else:
                with pytest.raises(PromotionRefused, match="somebody else must approve"):
                    promote(Wanted(NAME, version, "prod", **wanted))
            person.join()
        runs = client.read_flow_runs()
        tasks = client.read_task_runs()
        artifacts = client.read_artifacts()
    assert sorted(run.state.name for run in runs) == ["Completed", "Completed", "PromotionRefused"]
    assert {task.name for task in tasks} == {
        "bundle", "origin", "graph", "server", "quality", "champion", "supply", "stage", "approval",
    }  # fmt: skip
    assert {task.state.name for task in tasks} == {"PASS", "FAIL"}
    assert any("bundle" in str(one.data) for one in artifacts)
    (line,) = json.loads(max((one for one in artifacts if one.key == "assay-models"), key=lambda one: one.created).data)
    assert (line["model"], line["at prod"]) == (NAME, f"{version}, today")
    waits, refused, again = (one["text"] for one in sink[1])
    promotion = f"Assay: tiny: the promotion of {version} to prod"
    assert f"{promotion} waits for an approval" in waits
    assert "champion: PASS: " in waits
    assert f"one of {APPROVER}, bob@example.org, {promote_world.AUTHOR}" in waits
    (run,) = (run for run in runs if run.state.name == "PromotionRefused")
    assert f"next:   press Resume at {prefect.removesuffix('/api')}/runs/flow-run/{run.id}, and answer" in waits
    assert f"assay approve tiny {version} --to prod --params {reported / 'params.yaml'} --key KEY" in waits
    assert f"{promotion} was refused" in refused
    assert "somebody else must approve" in refused
    assert f"next:   assay promote tiny {version} --to prod" in refused
    assert "waits for an approval" in again
    assert current(reported / "store", NAME, "prod").name == version
    told = files.read_json(max((reported / "artifacts" / "promotions").glob("*.json")))
    assert told["approver"] == f"{APPROVER} (in Prefect)"


def test_a_machine_that_refuses_is_told_and_a_slip_is_not(promotable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.promote as conducted

    said: list[tuple[Any, ...]] = []
    monkeypatch.setattr(conducted, "notify", lambda *told: said.append(told))
    wanted = Wanted(NAME, "1-ab", "prod", promotable / "params.yaml")
    for error in (UsageError("a rule", "a slip", "another word"), MachineError("a rule", "a full disk", "make room")):
        conducted._tell_of(["mattermost-webhook/ops"], error, wanted)
    ((blocks, subject, body),) = said
    assert (list(blocks), subject) == (["mattermost-webhook/ops"], "Assay: tiny: the promotion of 1-ab to prod FAILED")
    assert "a full disk" in body
    assert body.endswith(f"next:   assay promote tiny 1-ab --to prod --params {wanted.params} (when that is mended)")
