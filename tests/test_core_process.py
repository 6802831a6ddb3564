"""A stage ends cleanly when told to, and does not outlive whoever started it."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tasks.core import process

STAGE = """
import sys, time
from pathlib import Path
from tasks.core import process
process.stop_on_terminate()
process.die_with_driver()
Path(sys.argv[1]).write_text("ready")
try:
    time.sleep(60)
finally:
    Path(sys.argv[1]).write_text("cleaned up")
"""
DRIVER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]]).wait()
"""


def wait_for(mark: Path, text: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not (mark.is_file() and mark.read_text() == text):
        assert time.monotonic() < end, f"{mark} never said {text!r}"
        time.sleep(0.02)


def test_sigterm_lets_a_stage_clean_up(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with subprocess.Popen([sys.executable, "-c", STAGE, mark]) as stage:
        wait_for(mark, "ready")
        stage.terminate()
        assert stage.wait(10) == 128 + signal.SIGTERM
    assert mark.read_text() == "cleaned up"


def test_a_stage_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with subprocess.Popen([sys.executable, "-c", DRIVER, STAGE, mark], stderr=subprocess.DEVNULL) as driver:
        wait_for(mark, "ready")
        driver.kill()
        wait_for(mark, "cleaned up", 5)


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "nobody reads what it says any more"])
def test_a_stage_ends_when_the_driver_that_the_environment_names_is_killed(tmp_path: Path, heard: bool) -> None:
    """DVC's shell lies between the two, and survives. The killed driver stays a zombie here: nobody waits for it."""
    mark = tmp_path / "mark"
    driver = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    environment = os.environ | {process.DRIVER_VARIABLE: str(driver.pid)}
    environment.pop("PYTHONUNBUFFERED", None)  # what is left in a buffer is written once more at the exit
    with subprocess.Popen([sys.executable, "-c", STAGE, mark], env=environment, stderr=subprocess.PIPE) as stage:
        wait_for(mark, "ready")
        assert stage.stderr is not None
        if not heard:
            stage.stderr.close()
        driver.kill()
        assert stage.wait(5) == 128 + signal.SIGTERM
        if heard:
            assert b"is gone: stopping" in stage.stderr.read()
    driver.wait()
    assert mark.read_text() == "cleaned up"


def test_a_stage_does_not_begin_when_its_driver_is_gone_already(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    driver = subprocess.Popen([sys.executable, "-c", ""])
    driver.wait()
    environment = os.environ | {process.DRIVER_VARIABLE: str(driver.pid)}
    done = subprocess.run([sys.executable, "-c", STAGE, mark], env=environment, check=False, timeout=20)
    assert done.returncode == 128 + signal.SIGTERM
    assert not mark.exists()


def test_a_driver_that_ends_between_two_questions_is_gone(tmp_path: Path) -> None:
    vanishing = """
import psutil
def status(self):
    raise psutil.NoSuchProcess(self.pid)
psutil.Process.status = status
"""
    done = subprocess.run([sys.executable, "-c", vanishing + STAGE, tmp_path / "mark"], check=False, timeout=20)
    assert done.returncode == 128 + signal.SIGTERM


def test_the_first_process_of_a_container_has_nobody_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(process.DRIVER_VARIABLE, raising=False)
    monkeypatch.setattr(psutil.Process, "parent", lambda _: None)
    before = threading.active_count()
    process.die_with_driver()
    assert threading.active_count() == before


SHELL_BETWEEN = """
import subprocess, sys
subprocess.run([*sys.argv[3].split(), '"$0" -c "$1" "$2"; true', sys.executable, *sys.argv[1:3]])
"""


@pytest.mark.parametrize("shell", ["sh -c", "bash --noprofile --norc -c", "bash -ec"])
def test_a_stage_ends_with_a_driver_that_started_it_through_a_shell(tmp_path: Path, shell: str) -> None:
    """The shell does not replace itself here (dash never does): it is the parent, and survives its own."""
    mark = tmp_path / "mark"
    with subprocess.Popen(
        [sys.executable, "-c", SHELL_BETWEEN, STAGE, mark, shell], stderr=subprocess.DEVNULL
    ) as driver:
        wait_for(mark, "ready")
        driver.kill()
        wait_for(mark, "cleaned up", 5)


def test_a_stage_that_a_person_typed_outlives_the_shell(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with subprocess.Popen(["sh"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as shell:
        assert shell.stdin is not None
        stage = shlex.join([sys.executable, "-c", STAGE, str(mark)])
        print(f"cd {shlex.quote(str(tmp_path))}; {stage} & echo $! > pid", file=shell.stdin, flush=True)
        wait_for(mark, "ready")
        shell.kill()
    pid = int((tmp_path / "pid").read_text())
    time.sleep(2)  # four times as long as the stage needs to notice
    assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    os.kill(pid, signal.SIGTERM)
    wait_for(mark, "cleaned up", 5)
