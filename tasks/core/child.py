"""A Python process of this one's own, with a pipe to it; it ends with this one, and in silence.

Not ``multiprocessing``: its processes print a traceback when this one ends before it has told them what to do, and
another one when Ctrl-C reaches all processes of a terminal.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Concatenate, ParamSpec

P = ParamSpec("P")

_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[3:]; from tasks.core.child import _main; _main()"


class Child:
    """A process that runs a function, deaf to Ctrl-C.

    It is killed when this object is no more (``Child(function).pipe`` alone keeps none), or the process that made it.

    Attributes:
        pipe: this process's end of the pipe between the two.
    """

    def __init__(
        self, function: Callable[Concatenate[Connection, P], None], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """Start it.

        Args:
            function: of an importable module's top level; it is given the other end of the pipe first.
            *arguments: what else it is given, picklable.
            **named: likewise.
        """
        told = pickle.dumps((function, arguments, named))
        self.pipe, there = Pipe()
        lifeline, self._lifeline = Pipe(duplex=False)  # nothing is sent: it closes when this process ends
        with there, lifeline, _interrupts_blocked():
            ends = there.fileno(), lifeline.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, *map(str, ends), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=ends,
            )
            weakref.finalize(self, _kill, self._process)
        with suppress(OSError):  # it has died already, which whoever uses the pipe is told
            self.pipe.send_bytes(told)

    @property
    def pid(self) -> int:
        """Its number among the system's processes."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to end, by SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, but no longer than so many seconds; what :attr:`code` is then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is started meanwhile never hears of Ctrl-C, which is for this process: it ends its children itself."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _main() -> None:
    """The process."""
    there, lifeline = (_own(int(number)) for number in sys.argv[1:3])
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    try:
        told = there.recv_bytes()
    except (EOFError, OSError):  # nothing, or a part of it
        return
    function, arguments, named = pickle.loads(told)  # noqa: S301 (of the parent)
    del told  # it may be large
    function(there, *arguments, **named)


def _own(descriptor: int) -> Connection:
    os.set_inheritable(descriptor, False)
    return Connection(descriptor)


def _end_with_parent(lifeline: Connection) -> None:
    """Leave no work behind that nobody will ask for, and that would spoil the times of what runs next."""
    lifeline.poll(None)
    os._exit(1)
