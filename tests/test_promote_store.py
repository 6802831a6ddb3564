"""The store of promoted bundles: whole at any moment, one winner at a time, a log that nobody edits unseen."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import promote_world
import pytest
from promote_world import NAME, entry, move, plain_bundle

from deploy.store import current, read_pointer
from tasks.core.errors import IntegrityError, MachineError, PromotionRefused
from tasks.promote import audit, moves
from tasks.promote.s3 import S3Store
from tasks.promote.store import FolderStore, Moved, Store

LOG = f"{NAME}/audit.jsonl"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3-compatible server on loopback, in this process: moto's. It is no real one."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of one's own, and the environment that reaches it."""
    import s3fs

    for name, value in {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "eu-central-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{secrets.token_hex(8)}"
    s3fs.S3FileSystem().call_s3(
        "create_bucket", Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    yield f"s3://{bucket}/models"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    return S3Store(request.getfixturevalue("s3"))


@pytest.fixture
def bundles(tmp_path: Path) -> list[Path]:
    return [plain_bundle(tmp_path / "dist" / f"{number}-abc", f"model {number}") for number in (1, 2, 3)]


# Every store keeps the same promises.


def test_an_object_is_replaced_only_if_it_is_still_what_was_read(store: Store) -> None:
    assert store.read("tiny/x") is None
    store.swap("tiny/x", b"one", None)
    first = store.read("tiny/x")
    assert first is not None
    assert first.data == b"one"
    store.swap("tiny/x", b"two", first)
    for before in (first, None):
        with pytest.raises(Moved):
            store.swap("tiny/x", b"three", before)
    second = store.read("tiny/x")
    assert second is not None
    assert second.data == b"two"


def test_a_line_is_appended_behind_what_is_kept(store: Store) -> None:
    store.append("tiny/log", b"one\n", None, 0)
    store.append("tiny/log", b"tor", store.read("tiny/log"), 4)
    torn = store.read("tiny/log")
    assert torn is not None
    store.append("tiny/log", b"two\n", torn, 4)
    with pytest.raises(Moved):
        store.append("tiny/log", b"three\n", torn, 4)
    found = store.read("tiny/log")
    assert found is not None
    assert found.data == b"one\ntwo\n"


def test_a_bundle_arrives_whole_or_not_at_all(store: Store, bundles: list[Path]) -> None:
    def refuse(copy: Path) -> None:
        assert (copy / "model.onnx").read_text() == "model 1"
        assert copy.with_name(f"{copy.name}.sig").read_text() == "signature of model 1"
        raise IntegrityError("rule", "found", "way out")

    with pytest.raises(IntegrityError):
        store.put(NAME, "1-abc", bundles[0], refuse)
    assert not store.holds(NAME, "1-abc")
    store.put(NAME, "1-abc", bundles[0], lambda _: None)
    assert store.holds(NAME, "1-abc")
    with store.fetched(NAME, "1-abc") as folder:
        assert folder.name == "1-abc"
        assert (folder / "golden" / "one.request.json").read_text() == "{}"
        assert folder.with_name("1-abc.sig").read_text() == "signature of model 1"


def test_stages_move_and_the_log_tells_it(store: Store, bundles: list[Path]) -> None:
    for bundle, stage in ((bundles[0], "staging"), (bundles[0], "prod"), (bundles[1], "staging")):
        move(store, bundle, stage, why="because")
    state = moves.read(store, NAME)
    assert [(one.number, one.stage, one.version, one.revision) for one in state.log.entries] == [
        (1, "staging", "1-abc", 1), (2, "prod", "1-abc", 1), (3, "staging", "2-abc", 2),
    ]  # fmt: skip
    assert state.behind() == []
    pointer = store.read(f"{NAME}/stages/staging.json")
    assert pointer is not None
    assert json.loads(pointer.data) == {"version": "2-abc", "digest": state.log.entries[-1].digest, "revision": 2}


def test_a_stage_that_moved_meanwhile_is_left_alone(store: Store, bundles: list[Path]) -> None:
    move(store, bundles[0])
    with pytest.raises(PromotionRefused, match=r"ann@example.org moved it to 1-abc"):
        moves.move(store, NAME, entry("2-abc", bundles[1]), 0, lambda: pytest.fail("it must not be brought"))
    assert len(moves.read(store, NAME).log.entries) == 1


def test_a_lost_race_for_the_log_changes_nothing(store: Store, bundles: list[Path]) -> None:
    """Without a lock, as in S3, somebody may come between the look and the line."""

    def late() -> None:
        state = moves.read(store, NAME)
        quick = entry("2-abc", bundles[1], number=1, revision=1, who="bob@example.org")
        store.append(LOG, quick.line(), state.log_blob, state.log.length)

    with pytest.raises(PromotionRefused, match=r"bob@example.org moved it to 2-abc"):
        moves.move(store, NAME, entry("1-abc", bundles[0]), 0, late)
    state = moves.read(store, NAME)
    assert [one.version for one in state.log.entries] == ["2-abc"]
    assert [one.version for one in state.behind()] == ["2-abc"]
    move(store, bundles[0])
    assert moves.read(store, NAME).behind() == []


def test_a_server_that_ignores_conditions_is_refused(s3: str, bundles: list[Path], monkeypatch) -> None:
    store = S3Store(s3)
    monkeypatch.setattr(S3Store, "swap", lambda self, key, data, before: self._fs.pipe_file(self._path(key), data))
    with pytest.raises(MachineError, match="must honour If-Match"):
        store.put(NAME, "1-abc", bundles[0], lambda _: None)


def test_a_bucket_that_is_not_there_is_told(s3: str) -> None:
    with pytest.raises(MachineError, match="must answer"):
        S3Store("s3://no-such-bucket-here/x").swap("a", b"b", None)


def test_a_place_that_cannot_be_a_folder_is_told(tmp_path: Path, bundles: list[Path]) -> None:
    (tmp_path / "store").write_text("a file")
    store = FolderStore(tmp_path / "store")
    with pytest.raises(MachineError), store.locked(NAME):
        pytest.fail("there is no lock to be had")


# The log.


@pytest.fixture
def three(tmp_path: Path, bundles: list[Path]) -> Path:
    """A folder store with three moves of staging."""
    root = tmp_path / "store"
    for bundle in bundles:
        move(FolderStore(root), bundle)
    return root


def edited(lines: list[bytes], number: int, **changes) -> list[bytes]:
    raw = json.loads(lines[number]) | changes
    return [*lines[:number], json.dumps(raw).encode() + b"\n", *lines[number + 1 :]]


TAMPERINGS = {
    "a reason in the first line": lambda lines: edited(lines, 0, why="another"),
    "a name in the last line": lambda lines: edited(lines, 2, who="somebody else"),
    "forced hidden in the last line": lambda lines: edited(lines, 2, forced=True),
    "a hash recomputed": lambda lines: edited(
        lines, 1, why="x", hash=audit.Entry(**{k: v for k, v in json.loads(edited(lines, 1, why="x")[1]).items()
                                               if k != "hash"}).hash
    ),
    "a line taken out": lambda lines: [lines[0], lines[2]],
    "two lines swapped": lambda lines: [lines[1], lines[0], lines[2]],
    "a line twice": lambda lines: [*lines, lines[2]],
    "no JSON": lambda lines: [lines[0], b"{}\n", lines[2]],
    "the last two lines cut off": lambda lines: lines[:1],
    "all of it": lambda lines: [],
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
def test_a_log_that_was_edited_is_refused(three: Path, what: str) -> None:
    path = three / LOG
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(TAMPERINGS[what](lines)))
    with pytest.raises(IntegrityError):
        moves.read(FolderStore(three), NAME)


def test_a_pointer_that_was_edited_is_refused(three: Path) -> None:
    path = three / NAME / "stages" / "staging.json"
    for text in (path.read_text().replace("3-abc", "1-abc"), '{"version": "1-abc"}', "not json"):
        path.write_text(text)
        with pytest.raises(IntegrityError, match="points where the log says"):
            moves.read(FolderStore(three), NAME)


@pytest.mark.parametrize("letters", [1, 40, -1])
def test_a_torn_line_is_no_line_and_the_next_one_takes_its_place(three: Path, bundles: list[Path], letters) -> None:
    store, path = FolderStore(three), three / LOG
    whole = path.read_bytes()
    line = entry("1-abc", bundles[0], number=4, revision=4, previous=moves.read(store, NAME).log.head).line()
    path.write_bytes(whole + line[:letters])
    assert len(moves.read(store, NAME).log.entries) == 3
    move(store, bundles[1])
    assert path.read_bytes().startswith(whole)
    assert [one.version for one in moves.read(store, NAME).log.entries] == ["1-abc", "2-abc", "3-abc", "2-abc"]


def test_a_move_that_was_cut_off_before_the_pointer_is_carried_out(three: Path, bundles: list[Path]) -> None:
    store = FolderStore(three)
    state = moves.read(store, NAME)
    store.append(
        LOG, entry("1-abc", bundles[0], number=4, revision=4, previous=state.log.head).line(),
        state.log_blob, state.log.length,
    )  # fmt: skip
    assert current(three, NAME, "staging").name == "3-abc"
    assert [one.version for one in moves.read(store, NAME).behind()] == ["1-abc"]
    with store.locked(NAME):
        moves.recover(store, NAME)
    assert current(three, NAME, "staging").name == "1-abc"


def test_going_back_goes_back_each_time(bundles: list[Path]) -> None:
    def log(*steps: tuple[str, str]) -> audit.Log:
        return audit.Log(tuple(entry(v, bundles[0], action=action) for action, v in steps), 0)

    up = [("promote", "1"), ("promote", "2"), ("promote", "3")]
    assert [one.version for one in log(*up).served("staging")] == ["1", "2", "3"]
    assert [one.version for one in log(*up, ("rollback", "2")).served("staging")] == ["1", "2"]
    assert [one.version for one in log(*up, ("rollback", "2"), ("promote", "4")).served("staging")] == ["1", "2", "4"]
    assert log(*up).served("prod") == []


# Kills and races, in real processes.


def test_a_kill_at_any_moment_leaves_a_whole_store(tmp_path: Path, bundles: list[Path]) -> None:
    root = tmp_path / "store"
    moment = random.Random(7)  # noqa: S311 (no secret)
    for _ in range(5):
        promote_world.killed_while_moving(root, moment, *bundles)
        state = moves.read(FolderStore(root), NAME)  # the chain holds
        pointer = read_pointer(root, NAME, "staging")  # and the pointer is whole
        if pointer is not None:
            assert current(root, NAME, "staging").is_dir()
        assert len(state.behind()) <= 1
    last = move(FolderStore(root), bundles[0])
    assert last.number > 3
    assert moves.read(FolderStore(root), NAME).behind() == []
    assert read_pointer(root, NAME, "staging") == last.pointer
    assert not list((root / NAME).glob(".incoming-*"))


def test_what_a_killed_copy_left_goes_with_the_next_move_though_its_bundle_is_there(
    three: Path, bundles: list[Path]
) -> None:
    leftover = three / NAME / ".incoming-killed"
    (leftover / "1-abc").mkdir(parents=True)
    move(FolderStore(three), bundles[0])
    assert not leftover.exists()


def test_of_two_at_once_one_wins_and_the_other_says_so(tmp_path: Path, bundles: list[Path]) -> None:
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from promote_world import NAME, entry
from tasks.core.errors import PromotionRefused
from tasks.promote import moves
from tasks.promote.store import FolderStore
store, bundle = FolderStore(Path(sys.argv[2])), Path(sys.argv[3])
expected = moves.read(store, NAME).revision("staging")
print("looked", flush=True)
sys.stdin.readline()
try:
    moves.move(store, NAME, entry(bundle.name, bundle), expected, lambda: store.put(NAME, bundle.name, bundle, print))
except PromotionRefused as error:
    print(error)
    sys.exit(error.exit_code)
"""
    root, here = tmp_path / "store", str(Path(__file__).parent)
    both = [
        subprocess.Popen([sys.executable, "-c", code, here, str(root), str(bundle)], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE) for bundle in bundles[:2]
    ]  # fmt: skip
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "looked\n"
    said = []
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=30)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 6]
    lost = said[[process.returncode for process in both].index(6)]
    winner = current(root, NAME, "staging").name
    assert f"moved it to {winner}" in lost
    assert len(moves.read(FolderStore(root), NAME).log.entries) == 1
    loser = next(bundle for bundle in bundles[:2] if bundle.name != winner)
    assert not (root / NAME / loser.name).exists()
