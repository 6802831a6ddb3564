"""Files and folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core import files
from tasks.core.errors import IntegrityError, MachineError


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A finished folder."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_is_replaced_whole(final: Path) -> None:
    with files.replaced_folder(final) as partial:
        assert not names(partial)
        (partial / "new").write_text("new")
        assert names(final) == {"old"}
    assert names(final) == {"new"}
    assert names(final.parent) == {"stage"}


def test_a_first_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    with files.replaced_folder(tmp_path / "a" / "b") as partial:
        (partial / "new").touch()
    assert names(tmp_path / "a") == {"b"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_previous_folder_and_nothing_else(final: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), files.replaced_folder(final) as partial:
        (partial / "new").touch()
        raise error
    assert names(final) == {"old"}
    assert names(final.parent) == {"stage"}


def test_an_exception_between_the_renames_puts_the_previous_folder_back(
    final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> Path:
        if path.name == ".stage.partial":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), files.replaced_folder(final) as partial:
        (partial / "new").touch()
    assert names(final) == {"old"}
    assert names(final.parent) == {"stage"}


_KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.core import files
at, final = sys.argv[1], Path(sys.argv[2])
rename, rmtree = Path.rename, files.shutil.rmtree
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if at == "between":
    Path.rename = lambda path, target: kill() if path.name == ".stage.partial" else rename(path, target)
if at == "after":
    def last_step(path, **more):
        return kill() if path.name == ".stage.previous" and path.exists() else rmtree(path, **more)
    files.shutil.rmtree = last_step
with files.replaced_folder(final) as partial:
    (partial / "new").write_text("new")
    if at == "inside":
        kill()
"""


@pytest.mark.parametrize(("at", "left"), [("inside", "old"), ("between", "old"), ("after", "new")])
def test_kill_9_at_any_moment_leaves_one_whole_folder(final: Path, at: str, left: str) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, at, str(final)], check=False, timeout=30)
    assert done.returncode == -signal.SIGKILL
    files.recover_folder(final)
    assert names(final) == {left}
    with files.replaced_folder(final) as partial:
        (partial / "newer").touch()
    assert names(final) == {"newer"}
    assert names(final.parent) == {"stage"}


def test_a_text_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert names(tmp_path) == {"a.txt"}


def test_equal_values_have_equal_json(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": "é"})
    files.write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert "é".encode() in (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/full/rows.parquet"), "no space left .*rows.parquet"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked/x"), "/locked/x: .*Permission denied"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (FileExistsError(errno.EEXIST, "File exists", "/a/file"), "/a/file"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/file"), "/a/file"),
    ],
)
def test_what_the_machine_refuses_is_a_machine_error(tmp_path: Path, error: Exception, said: str) -> None:
    with pytest.raises(MachineError, match=said) as caught, files.machine_errors(tmp_path):
        raise error
    assert caught.value.exit_code == 2


def test_the_reason_is_found_behind_a_librarys_own_exception(tmp_path: Path) -> None:
    class LibraryError(Exception):
        pass

    with pytest.raises(MachineError, match="no space left"), files.machine_errors(tmp_path / "not" / "there"):
        try:
            raise ValueError("(sqlite3.OperationalError) database or disk is full")
        except ValueError as error:
            raise LibraryError("An exception is raised during the commit.") from error


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "No such file"), KeyError("x")])
def test_a_bug_stays_a_bug(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), files.machine_errors(tmp_path):
        raise error


def test_an_error_of_the_tree_passes_though_a_full_disk_caused_it(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError), files.machine_errors(tmp_path):
        raise IntegrityError("rule", "found", "way out") from OSError(errno.ENOSPC, "No space left on device")
