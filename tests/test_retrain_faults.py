"""What goes wrong at night: each fault ends with a reason and a way out, spoils nothing, and the next run completes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fake_pipeline
import pytest
import retrain_world
from fake_pipeline import git
from retrain_world import left_behind, records, wait_for

from flows import records as records_of
from flows.pipeline import inspect
from flows.retraining import Wanted, error_of, plain
from flows.workplace import Workplace
from tasks.core.errors import AssayError, MachineError, UsageError
from tasks.core.settings import STAGES

FIRST, SECOND = "2020-02-01", "2020-03-10"


@pytest.fixture(scope="module")
def _once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = retrain_world.make(tmp_path_factory.mktemp("faults") / "project")
    fake_pipeline.run(root, "assay", "retrain", "--as-of", FIRST)
    return root


@pytest.fixture
def once(_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one accepted retraining, and its remote; somebody works on a file of it."""
    shutil.copytree(_once.parent, tmp_path / "place", symlinks=True)
    root = tmp_path / "place" / "project"
    with (root / "suite.yaml").open("a") as file:
        file.write("# somebody works on this\n")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@example.org")
    return fake_pipeline.run_stages_of(root, monkeypatch)


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


def completes(root: Path, record: dict[str, Any]) -> None:
    """A record stands for a second version, whole and registered once; nothing is left beside it."""
    assert record["word"] == "ACCEPTED"
    assert record["version"].startswith("2-")
    assert git(root, "tag").split() == ["tiny@v1.0.0", "tiny@v2.0.0"]
    assert git(root, "rev-parse", f"{record['branch']}") == git(root, "rev-list", "-n1", "tiny@v2.0.0")
    assert [one["version"] for one in records(root) if one["word"] == "ACCEPTED"][1:] == [record["version"]]
    assert untouched(root)
    assert not left_behind(root)


def test_a_worker_killed_in_every_stage(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    command = [str(fake_pipeline.BIN / "assay"), "retrain", "--as-of", SECOND]
    for stage in STAGES:
        fake_pipeline.behave(once, {stage: "sleep"})
        (once / "pids.json").unlink(missing_ok=True)
        worker = subprocess.Popen(command, cwd=once, env=fake_pipeline.environment(once), stderr=subprocess.DEVNULL)
        wait_for(once / "pids.json")
        worker.kill()
        worker.wait()
        assert untouched(once)
        assert len(records(once)) == 1
    fake_pipeline.behave(once, {})
    completes(once, again())


def test_a_remote_that_cannot_be_reached(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    with (once / ".dvc" / "config.local").open("w") as file:
        file.write("['remote \"shared\"']\n    url = http://127.0.0.1:9/nobody\n")
    with pytest.raises(MachineError, match=r"shared: .*\n.*run again: everything that was made is kept") as caught:
        again()
    assert caught.value.exit_code == 2
    assert records(once)[-1]["next"] == ["assay retrain"]
    assert untouched(once)
    assert git(once, "tag").split() == ["tiny@v1.0.0"]
    (once / ".dvc" / "config.local").unlink()
    completes(once, again())


def test_a_remote_with_a_relative_path_is_the_repositorys_own(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    (once / ".dvc" / "config.local").write_text("['remote \"shared\"']\n    url = ../store\n")
    completes(once, again())
    assert list((once / "store").rglob("*.dir"))


def source(once: Path, change: Callable[[list[str]], list[str] | None]) -> None:
    """Change the lines of the source; None removes it."""
    lines = change((once / "rows.csv").read_text().splitlines())
    if lines is None:
        (once / "rows.csv").unlink()
    else:
        (once / "rows.csv").write_text("\n".join([*lines, ""]) if lines else "")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda _: None, 2, r"rows.csv does not.*bring it back, and run again"),
        (lambda _: [], 3, r"rows.csv|empty"),
        (lambda lines: lines[:1], 3, r"row"),
        (lambda lines: [line.replace("when,a", "when,b") for line in lines], 3, "`a` is gone; `b` is new"),
        (lambda lines: lines[: len(lines) // 4], 3, r"rows before 2020-02-01T00:00:00\+00:00 are gone"),
        (lambda lines: [*lines[:1500], "2020-02-03T0"], 3, r"rows.csv|usual are 40 a day"),
    ],
    ids=["missing", "no byte", "no row", "another schema", "truncated", "cut off within a row"],
)
def test_a_source_that_is_not_what_it_was(
    once: Path, again: Callable[..., dict[str, Any]], capfd: pytest.CaptureFixture[str], change: Any, code: int,
    said: str,
) -> None:  # fmt: skip
    before = (once / "rows.csv").read_bytes()
    source(once, change)
    fake_pipeline.behave(once, {"ingest": "real"})
    try:
        error = error_of(again())
    except AssayError as raised:
        error = raised
    assert error is not None
    assert error.exit_code == code
    assert re.search(said, f"{error}\n{capfd.readouterr().err}", re.DOTALL)
    assert records(once)[-1]["next"] == ["assay retrain"]
    assert untouched(once)
    (once / "rows.csv").write_bytes(before)
    fake_pipeline.behave(once, {})
    completes(once, again())


def test_a_clock_that_was_set_back(
    once: Path, again: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Early(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2020, 1, 20, 5, tzinfo=UTC)

    with monkeypatch.context() as clock:
        for module in ("flows.retraining", "flows.records"):
            clock.setattr(f"{module}.datetime", Early)
        refused = plain(Wanted(once / "params.yaml"))
    assert refused["word"] == "REJECTED"
    assert "the snapshot is of 2020-01-20T00:00:00+00:00, which is before the last accepted one" in refused["reason"]
    assert "set the clock right" in str(refused["findings"])
    assert [one["id"] for one in records(once)] == sorted(one["id"] for one in records(once))
    assert refused["id"] > records(once)[0]["id"]  # the latest stays the latest
    completes(once, again())


def test_a_branch_in_the_way(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    git(once, "branch", "-m", f"retrain/tiny/{FIRST}", "kept")
    git(once, "branch", "retrain")  # a file where a folder of branches belongs
    with pytest.raises(UsageError, match=r"retrain.*\n.*a retraining that was begun is taken up"):
        again()
    assert git(once, "tag").split() == ["tiny@v1.0.0"]
    git(once, "branch", "-D", "retrain")
    assert again("2020-03-11")["word"] == "NOTHING"  # after it completed the other one
    completes(once, records(once)[1])


def held(lock: Path) -> subprocess.Popen[bytes]:
    """Another process that holds DVC's lock of a repository."""
    code = "import sys, zc.lockfile, time; held = zc.lockfile.LockFile(sys.argv[1]); print(flush=True); time.sleep(600)"
    lock.parent.mkdir(parents=True, exist_ok=True)
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    return other


def test_locks_of_dvc(once: Path, again: Callable[..., dict[str, Any]]) -> None:
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
        completes(once, again())  # the lock of the user's own folder is in nobody's way
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_two_dvc_repositories_of_one_git_repository_share_nothing(tmp_path: Path) -> None:
    root = fake_pipeline.make(tmp_path / "project")
    places = []
    for name in ("north", "south"):
        shutil.copytree(root, root / name, ignore=shutil.ignore_patterns(".git", "north"))
        fake_pipeline.commit(root)
        places.append(Workplace.of(inspect(root / name / "params.yaml")))
    own = Workplace.of(inspect(root / "params.yaml"))
    assert own.key == "tiny"
    assert len({place.folder for place in (*places, own)}) == 3
    assert len({place.marker for place in (*places, own)}) == 3


def test_the_same_bundle_is_found_by_its_content(once: Path, again: Callable[..., dict[str, Any]]) -> None:
    first = records(once)[0]["version"]
    same = again(FIRST, force=True)
    assert (same["word"], same["reason"]) == ("NOTHING", f"the same bundle as before came of it: {first}")
    assert untouched(once)
    assert not left_behind(once)


def test_commands_name_the_params_file(once: Path) -> None:
    pipeline = inspect(once / "params.yaml")
    other = records_of.Records(replace(pipeline, params=once / "some where" / "a.yaml"))
    record = {"id": "1", "name": "tiny", "commit": git(once, "rev-parse", "HEAD").strip(), "by": "data"}
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


@pytest.mark.parametrize("left", [0, 150, 400], ids=["nothing", "for the worktree", "for some stages"])
def test_a_full_disk(once: Path, disk: Path, left: int) -> None:
    shutil.copytree(once.parent, disk / "place", symlinks=True)
    root = disk / "place" / "project"
    room = shutil.disk_usage(disk).free - (left << 10)
    (disk / "filler").write_bytes(b"\0" * room)
    with pytest.raises(UsageError, match=r"(?i)no space left") as caught:
        plain(Wanted(root / "params.yaml", as_of=SECOND))
    assert caught.value.exit_code == 2
    assert untouched(root)
    assert git(root, "tag").split() == ["tiny@v1.0.0"]
    (disk / "filler").unlink()
    completes(root, plain(Wanted(root / "params.yaml", as_of=SECOND)))
