"""A Python process of this one's own, with a pipe to it; it ends with this one, and in silence.

Not ``multiprocessing``: its processes print a traceback when this one ends before it has told them what to do, and
another one when Ctrl-C reaches all processes of a terminal.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Concatenate, ParamSpec

P = ParamSpec("P")

_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[3:]; from tasks.core.child import _main; _main()"


class Child:
    """A process that runs a function.

    Attributes:
        pipe: this process's end of the pipe between the two.
    """

    def __init__(
        self, function: Callable[Concatenate[Connection, P], None], *arguments: P.args, **named: P.kwargs
    ) -> None:
        """Start it.

        Args:
            function: of a module's top level; it is given the other end of the pipe first. What that raises when this
                end is closed may end the function.
            *arguments: what else it is given, picklable.
            **named: likewise.
        """
        self.pipe, there = Pipe()
        end, self._lives = Pipe(duplex=False)  # nothing is sent: it closes when this process ends, however it does
        with there, end:
            ends = there.fileno(), end.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOTSTRAP, *map(str, ends), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=ends,
                start_new_session=True,  # a terminal's Ctrl-C is for this process alone, which ends its children
            )
        with suppress(ConnectionError):  # it has died already, which whoever uses the pipe is told
            self.pipe.send((function, arguments, named))

    @property
    def pid(self) -> int:
        """Its number among the system's processes."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """End it at once, by SIGKILL."""
        self._process.kill()

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end, but no longer than so many seconds; what :attr:`code` is then."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def _main() -> None:
    """The process."""
    there, end = (Connection(int(number)) for number in sys.argv[1:3])
    threading.Thread(target=_end_with_parent, args=(end,), daemon=True).start()
    try:
        told = there.recv_bytes()
    except (EOFError, OSError):  # nothing, or a part of it
        return
    function, arguments, named = pickle.loads(told)  # noqa: S301 (of the parent)
    try:
        function(there, *arguments, **named)
    except (EOFError, ConnectionError):  # nobody asks, or listens, any more
        return


def _end_with_parent(end: Connection) -> None:
    """Leave no work behind that nobody will ask for, and that would spoil the times of what runs next."""
    end.poll(None)
    os._exit(1)
