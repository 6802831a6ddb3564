"""What goes wrong at night: each fault ends with a reason and a way out, spoils nothing, and the next run completes."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import fake_pipeline
import pytest
import retrain_world
from fake_pipeline import git
from retrain_world import left_behind, records, wait_for

from deploy import signing
from flows import records as records_of
from flows.pipeline import inspect, prepare
from flows.retraining import Wanted, error_of, plain, told
from flows.workplace import Workplace
from tasks.core.errors import AssayError, MachineError, UsageError
from tasks.core.settings import STAGES

FIRST, SECOND = "2020-02-01", "2020-03-10"


@pytest.fixture(scope="module")
def _once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = retrain_world.make(tmp_path_factory.mktemp("faults") / "project")
    with pytest.MonkeyPatch.context() as monkeypatch:
        plain(Wanted(at_work(root, monkeypatch) / "params.yaml", as_of=FIRST))
    return root


def at_work(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stages this process may start, and commit for; itself."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@example.org")
    return fake_pipeline.run_stages_of(root, monkeypatch)


@pytest.fixture
def once(_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one accepted retraining, and its remote; somebody works on a file of it."""
    shutil.copytree(_once.parent, tmp_path / "place", symlinks=True)
    root = tmp_path / "place" / "project"
    with (root / "suite.yaml").open("a") as file:
        file.write("# somebody works on this\n")
    return at_work(root, monkeypatch)


@pytest.fixture
def again(once: Path) -> Callable[..., dict[str, Any]]:
    """Retrains the project."""

    def call(as_of: str = SECOND, **more: Any) -> dict[str, Any]:
        return plain(Wanted(once / "params.yaml", as_of=as_of, **more))

    return call


def untouched(root: Path) -> bool:
    """Whether the user's files, the branch that is checked out, and what was accepted before are as they were."""
    state, branch = git(root, "status", "--porcelain"), git(root, "branch", "--show-current")
    first = records(root)[0]
    bundle = root / "dist" / "tiny" / first["version"] / "model.onnx"
    return (state, branch) == (" M suite.yaml\n", "master\n") and first["word"] == "ACCEPTED" and bundle.is_file()


def accepted(root: Path) -> list[dict[str, Any]]:
    """The records of accepted retrainings."""
    return [one for one in records(root) if one["word"] == "ACCEPTED"]


def completes(root: Path, record: dict[str, Any]) -> None:
    """A record stands for a second version, whole and registered once; nothing is left beside it."""
    assert record["word"] == "ACCEPTED"
    assert record["version"].startswith("2-")
    assert git(root, "tag").split() == ["tiny@v1.0.0", "tiny@v2.0.0"]
    assert git(root, "rev-parse", f"{record['branch']}") == git(root, "rev-list", "-n1", "tiny@v2.0.0")
    assert [one["version"] for one in accepted(root)[1:]] == [record["version"]]
    assert untouched(root)
    assert not left_behind(root)


def test_killed_in_every_stage_then_a_remote_that_cannot_be_reached(
    once: Path, again: Callable[..., dict[str, Any]]
) -> None:
    for stage in STAGES:
        fake_pipeline.behave(once, {stage: "sleep"})
        (once / "pids.json").unlink(missing_ok=True)
        worker = retrain_world.begun(once, SECOND)
        wait_for(once / "pids.json")
        worker.kill()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        assert untouched(once)
        assert len(records(once)) == 1
    fake_pipeline.behave(once, {})
    config = once / ".dvc" / "config.local"
    config.write_text("['remote \"shared\"']\n    url = http://127.0.0.1:9/nobody\n")
    with pytest.raises(MachineError, match=r"shared: .*\n.*run again: everything that was made is kept") as caught:
        again()
    assert caught.value.exit_code == 2
    assert records(once)[-1]["next"] == ["assay retrain"]
    assert untouched(once)
    assert git(once, "tag").split() == ["tiny@v1.0.0"]
    config.write_text("['remote \"shared\"']\n    url = ../store\n")  # a folder of the repository, not of the worktree
    completes(once, again())
    assert list((once / "store").rglob("*.dir"))


def lines_of(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """A change of the source's lines."""

    def write(path: Path) -> None:
        lines = change(path.read_text().splitlines())
        path.write_text("\n".join([*lines, ""]) if lines else "")

    return write


SOURCES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "missing": (Path.unlink, 2, r"rows.csv does not.*bring it back, and run again"),
    "no byte": (lines_of(lambda _: []), 3, "rows.csv"),
    "no row": (lines_of(lambda lines: lines[:1]), 3, "row"),
    "another schema": (
        lines_of(lambda lines: [lines[0].replace(",a,", ",b,"), *lines[1:]]),
        3,
        "`a` is gone; `b` is new.*mend the source, then `assay retrain`",
    ),
    "truncated": (lines_of(lambda lines: lines[: len(lines) // 4]), 3, r"rows before 2020-02-01T\S+ are gone"),
    "cut off within a row": (lines_of(lambda lines: [*lines[:1500], "2020-02-03T0"]), 3, "rows.csv|usual are 40 a day"),
}


def test_sources_that_are_not_what_they_were_and_a_clock_that_jumps(
    once: Path,
    again: Callable[..., dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (once / "rows.csv").read_bytes()
    fake_pipeline.behave(once, {"ingest": "real"})
    for name, (change, code, said) in SOURCES.items():
        change(once / "rows.csv")
        error = verdict(again)
        assert (error.exit_code, name) == (code, name)
        assert re.search(said, f"{error}\n{capfd.readouterr().err}", re.DOTALL), name
        assert records(once)[-1]["next"] == ["assay retrain"]
        assert untouched(once)
        (once / "rows.csv").write_bytes(before)

    for year, said, way_out in (
        (2024, "usual are 40 a day", "find out why so few came"),
        (2020, "the snapshot is of 2020-01-20T00:00:00+00:00, which is before the last accepted one", "set the clock"),
    ):
        with monkeypatch.context() as clock:
            for module in ("flows.retraining", "flows.records"):
                clock.setattr(f"{module}.datetime", at(year))
            refused = plain(Wanted(once / "params.yaml"))
        assert refused["word"] == "REJECTED"
        assert said in refused["reason"]
        assert way_out in str(refused["findings"])
        assert records(once)[-1]["id"] == refused["id"]  # the latest stays the latest
        assert untouched(once)
    completes(once, again())


def at(year: int) -> type[datetime]:
    """A clock that stands in a January."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return cls(year, 1, 20, 5, tzinfo=tz)

    return Clock


def verdict(again: Callable[..., dict[str, Any]]) -> AssayError:
    """The error with which a retraining ends, as a verdict or otherwise."""
    try:
        error = error_of(again())
    except AssayError as raised:
        return raised
    assert error is not None
    return error


def held(lock: Path) -> subprocess.Popen[bytes]:
    """Another process that holds DVC's lock of a repository."""
    code = "import sys, zc.lockfile, time; held = zc.lockfile.LockFile(sys.argv[1]); print(flush=True); time.sleep(600)"
    lock.parent.mkdir(parents=True, exist_ok=True)
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    return other


def test_a_worktree_whose_removal_was_killed_is_removed(once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pipeline.behave(once, {"ingest": "exit 2"})
    with pytest.raises(UsageError):
        plain(Wanted(once / "params.yaml", as_of=SECOND))
    there = Workplace.of(inspect(once / "params.yaml"))
    before = set(there.folder.iterdir())

    def killed(path: Path, **_: Any) -> None:
        remove(path / ".git" if path == there.folder else path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        remove = shutil.rmtree
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            there.discard()
    assert set(there.folder.iterdir()) < before, "it was killed halfway"
    there.discard()
    assert not there.folder.exists()


def test_locks_of_dvc_and_a_branch_in_the_way(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    there = Workplace.of(inspect(once / "params.yaml"))
    fake_pipeline.behave(once, {"ingest": "exit 2"})
    with pytest.raises(UsageError):
        again()
    fake_pipeline.behave(once, {})
    others = [held(repo / ".dvc" / "tmp" / "lock") for repo in (once, there.folder)]
    try:
        with pytest.raises(UsageError, match="wait for the other DVC or Assay command to end, then run again"):
            again()
        assert untouched(once)
        others[1].kill()
        others[1].wait()
        git(once, "branch", "-m", f"retrain/tiny/{FIRST}", "kept")
        git(once, "branch", "retrain")  # a file where a folder of branches belongs
        with pytest.raises(UsageError, match=r"retrain.*\n.*a retraining that was begun is taken up"):
            again()  # the lock of the user's own folder is in nobody's way
        assert git(once, "tag").split() == ["tiny@v1.0.0"]
        git(once, "branch", "-D", "retrain")
        assert again("2020-03-11")["word"] == "NOTHING"  # after it completed the other one
    finally:
        for other in others:
            other.kill()
            other.communicate()
    completes(once, accepted(once)[1])


def test_models_of_one_name_in_one_git_repository_share_nothing(tmp_path: Path) -> None:
    root = fake_pipeline.make(tmp_path / "project")
    other = fake_pipeline.PARAMS.replace("artifacts_dir: artifacts", "artifacts_dir: others")
    (root / "other.yaml").write_text(other)
    prepare(root / "other.yaml")
    fake_pipeline.commit(root)
    for name in ("north", "south"):
        shutil.copytree(root, root / name, ignore=shutil.ignore_patterns(".git", "north", "other*"))
    fake_pipeline.commit(root)
    files = ("params.yaml", "other.yaml", "north/params.yaml", "south/params.yaml")
    places = [Workplace.of(inspect(root / name)) for name in files]
    assert places[0].key == "tiny"
    for owned in ("folder", "marker", "lock", "key"):
        assert len({getattr(place, owned) for place in places}) == 4, owned


def amid_a_conflict(root: Path) -> str:
    """Leave a merge that somebody has yet to solve, with Git at work; what Git says of the folder."""
    git(root, "checkout", "-q", "-b", "theirs")
    git(root, "commit", "-qam", "theirs")
    git(root, "checkout", "-q", "master")
    (root / "suite.yaml").write_text("checks: []\n# ours\n")
    git(root, "commit", "-qam", "ours")
    with pytest.raises(subprocess.CalledProcessError):
        git(root, "merge", "theirs")
    (root / ".git" / "index.lock").touch()
    return git(root, "status", "--porcelain")


def test_a_merge_that_conflicts_is_in_nobodys_way_and_the_same_bundle_is_found_by_its_content(
    once: Path, again: Callable[..., dict[str, Any]]
) -> None:
    first = records(once)[0]["version"]
    conflict = amid_a_conflict(once)
    same = again(FIRST, force=True)
    assert (same["word"], same["reason"]) == ("NOTHING", f"the same bundle as before came of it: {first}")
    assert git(once, "status", "--porcelain") == conflict == "UU suite.yaml\n"
    assert (once / ".git" / "MERGE_HEAD").is_file()
    assert not left_behind(once)


def test_commands_name_the_params_file(once: Path) -> None:
    pipeline = inspect(once / "params.yaml")
    other = records_of.Records(replace(pipeline, params=once / "some where" / "a.yaml"))
    head = git(once, "rev-parse", "HEAD").strip()
    record = {"id": "1", "name": "tiny", "commit": head, "as_of": None, "by": "data"}
    assert other.write(record, "REJECTED", "no")["next"] == ["assay retrain --params 'some where/a.yaml'"]
    assert other.write(record, "FAILED", "no")["next"] == ["assay retrain --params 'some where/a.yaml'"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def refused(root: Path) -> str:
    """What the machine refused; as where a process ends, nothing keeps its files open (DVC's lock, half written)."""
    with pytest.raises(UsageError) as caught:
        plain(Wanted(root / "params.yaml", as_of=SECOND))
    assert caught.value.exit_code == 2
    found = str(caught.value)
    del caught
    gc.collect()
    return found


def test_a_full_disk(once: Path, disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(once.parent, disk / "place", symlinks=True)
    root = disk / "place" / "project"
    for left in (0, 150, 400):  # KiB: for nothing; for the worktree; for all but the record
        (disk / "filler").write_bytes(b"\0" * (shutil.disk_usage(disk).free - (left << 10)))
        found = refused(root)
        (disk / "filler").unlink()  # Git itself cannot even look without room
        assert re.search("no space left|out of diskspace", f"{found}{capfd.readouterr().err}", re.IGNORECASE), left
        assert untouched(root)
        assert len(accepted(root)) == 1
    plain(Wanted(root / "params.yaml", as_of=SECOND))
    completes(root, accepted(root)[1])


def test_what_the_gates_said_of_staging_is_kept_and_told(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    """The store lies in a folder that neither Git nor the worktree has yet."""
    signing.new_keys(once / "keys")
    params = once / "params.yaml"
    own = "retrain: {to_staging: true}\npromote: {store: serving/store, public_key: keys/assay.pub}\n"
    params.write_text(f"{params.read_text()}{own}")
    git(once, "commit", "-q", "-m", "To staging", "params.yaml")
    record = again(force=True)
    completes(once, record)
    assert record["staging"].startswith("refused: "), record["staging"]
    (kept,) = (once / "artifacts" / "promotions").glob("*.json")
    assert str(kept) in record["staging"]
    assert "FAIL" in [gate["word"] for gate in json.loads(kept.read_text())["gates"]]
    assert "staging: refused: " in told(record)
    assert record["next"][1] == f"assay promote tiny {record['version']} --to staging"


def test_a_commit_that_is_gone_is_in_nobodys_way(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    (path,) = (once / "artifacts" / "runs" / "retrain").glob("*/record.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0" * 40}))
    record = again(force=True)
    completes(once, record)
    assert (
        "000000000000, the commit of the last accepted run, is not in this repository"
        in (Path(record["folder"]) / "report.html").read_text()
    )


def test_people_are_told_though_nothing_can_be_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import flows.retrain as conducted

    said: list[str] = []
    logged: list[str] = []

    class Log:
        @staticmethod
        def exception(text: str, *given: Any) -> None:
            logged.append(f"{text % given}: {sys.exc_info()[1]}")

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(conducted, "notify", lambda _, subject, body: said.append(f"{subject}: {body}"))
    monkeypatch.setattr(conducted, "create_markdown_artifact", refuse)
    monkeypatch.setattr(conducted, "get_run_logger", lambda: Log)
    record = {"name": "tiny", "word": "ACCEPTED", "reason": "age", "next": ["assay promote tiny 2-ab --to staging"]}
    conducted._tell(record, ["custom-webhook/ops"])
    assert said == [f"Assay: tiny: a version waits for its promotion: {told(record)}"]
    assert logged == [f"the artifacts of this run could not be left; it is: {told(record)}: no server"]


def test_people_are_told_of_a_run_that_was_ended_from_outside(once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uuid

    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Crashed

    import flows.retrain as conducted

    said: list[str] = []
    monkeypatch.setattr("flows.notify.notify", lambda _, subject, body: said.append(f"{subject}: {body}"))
    params = str(once / "params.yaml")
    run = FlowRun(flow_id=uuid.uuid4(), parameters={"params": params})
    (hook,) = conducted.retrain.on_crashed_hooks
    hook(conducted.retrain, run, Crashed(message="the lease is gone"))
    again = f"assay retrain --params {params} (it goes on from there)"
    assert said == [f"Assay: tiny: STOPPED: the lease is gone\nnext:   {again}"]
