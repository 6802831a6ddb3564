"""A process of one's own ends with who started it, and says nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.child import Child

#: A parent that is at a certain point of a child's life when it writes the file it is given.
PARENT = """
import os, signal, sys, time
from multiprocessing.connection import Connection
from pathlib import Path
from tasks.core.child import Child
import test_core_child as functions

mark, point = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, lambda *_: None)

def ready():
    mark.write_text("ready")
    time.sleep(60)

def half(pipe, question):
    os.write(pipe.fileno(), bytes([0, 0, 1, 0, 7]))
    ready()

if point == "nothing told":
    Connection.send_bytes = lambda *_: ready()
elif point == "half told":
    Connection.send_bytes = half
child = Child(getattr(functions, sys.argv[3]))
child.pipe.recv()
ready()
"""


def add(pipe: Connection, *numbers: int, more: int) -> None:
    pipe.send(sum(numbers) + more)


def listen(pipe: Connection) -> None:
    pipe.send("here")
    with suppress(EOFError):
        pipe.recv()


def compute(pipe: Connection) -> None:
    pipe.send("here")
    time.sleep(60)


def stumble(_pipe: Connection) -> None:
    raise ConnectionError("over a stone")


def test_it_is_given_arguments_and_answers_through_the_pipe() -> None:
    child = Child(add, 1, 2, more=3)
    assert child.pipe.recv() == 6
    assert child.wait(60) == child.code == 0


def test_it_hears_when_its_pipe_is_closed() -> None:
    child = Child(listen)
    assert (child.pipe.recv(), child.code) == ("here", None)
    child.pipe.close()
    assert child.wait(60) == 0


def test_it_is_ended() -> None:
    for end, number in ((Child.terminate, signal.SIGTERM), (Child.kill, signal.SIGKILL)):
        child = Child(compute)
        assert (child.pipe.recv(), child.wait(0.01)) == ("here", None)
        end(child)
        assert child.wait(60) == -number


def test_it_ends_with_its_object() -> None:
    child = Child(compute)
    assert child.pipe.recv() == "here"
    pid = child.pid
    del child
    assert not psutil.pid_exists(pid)


def test_what_cannot_be_told_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    with pytest.raises(TypeError, match="lock"):
        Child(add, threading.Lock(), more=0)  # type: ignore[arg-type]


def test_an_interrupt_while_it_starts_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Child(compute)
    assert started[0].wait(20) in (1, -signal.SIGKILL)


def test_a_bug_in_it_is_seen(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(stumble)
    assert child.wait(60) == 1
    assert "ConnectionError: over a stone" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    ("point", "function"),
    [("nothing told", "listen"), ("half told", "listen"), ("told", "listen"), ("told", "compute")],
)
def test_it_ends_in_silence_with_the_process_that_started_it_and_hears_of_no_interrupt_before(
    tmp_path: Path, point: str, function: str, number: signal.Signals
) -> None:
    mark = tmp_path / "mark"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, mark, point, function],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        process_group=0,
    ) as parent:
        try:
            end = time.monotonic() + 60
            while not mark.exists():
                assert time.monotonic() < end
                time.sleep(0.01)
            (child,) = psutil.Process(parent.pid).children()
            os.killpg(parent.pid, signal.SIGINT)  # as a terminal does
            time.sleep(0.2)
            assert child.status() != psutil.STATUS_ZOMBIE
            parent.send_signal(number)
            _, said = parent.communicate(timeout=20)  # what they say is over when both have ended
        finally:
            parent.kill()
    assert said == b""
