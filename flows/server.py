"""A Prefect server for the length of one run, for whoever has none: ``python -m flows.server`` is its process.

Prefect's own temporary server outlives a run that is killed, and gives up after 20 seconds on a busy machine. This one
watches its driver and ends with it, has time, and says what went wrong. It keeps the runs of one artifacts folder in
that folder's ``scratch/prefect.db``: runs of different folders never wait for one another's SQLite locks, and
only the first run of a folder pays for creating the tables. To look at past runs afterwards, start ``prefect server
start`` with ``PREFECT_SERVER_DATABASE_CONNECTION_URL=sqlite+aiosqlite:///<artifacts>/scratch/prefect.db``.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.core.errors import MachineError
from tasks.core.process import DRIVER_VARIABLE, die_with_driver

_HOST = "127.0.0.1"
_START_SECONDS = 60.0
_STOP_SECONDS = 5.0
_TAIL_LINES = 15


class TemporaryServer:
    """Starts at once, is ready a few seconds later (see :meth:`ready`), and ends with the ``with`` block.

    Args:
        artifacts: folder of all stages' outputs; the database and the log lie in it.
        start_seconds: how long to wait for the server.
    """

    def __init__(self, artifacts: Path, start_seconds: float = _START_SECONDS) -> None:
        self._database = artifacts / "scratch" / "prefect.db"
        self._log = artifacts / "logs" / "prefect-server.log"
        self._start_seconds = start_seconds

    def __enter__(self) -> Self:
        for path in (self._database, self._log):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._deadline = time.monotonic() + self._start_seconds
        with self._log.open("w", encoding="utf-8") as log:
            # -P: a flows.py in the current folder is the user's, not ours.
            # Its own session: Ctrl-C in a terminal is for the run, which still needs the server to say so.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | _environment(self._database),
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        return self._process.pid

    def ready(self) -> str:
        """Wait until the server answers; return its API's URL.

        Raises:
            MachineError: if it ends, or has not answered in time; with the last lines of its log.
        """
        assert self._process.stdout is not None  # noqa: S101 (a pipe was asked for)
        port = self._process.stdout.readline().strip()
        url = f"http://{_HOST}:{port}/api"
        while self._process.poll() is None and time.monotonic() < self._deadline:
            if port and _answers(url):
                return url
            time.sleep(0.05)
        ended = self._process.poll()
        what = "it does not answer" if ended is None else f"it ended with exit code {ended}"
        raise MachineError(
            f"Prefect's temporary server must start within {self._start_seconds:.0f} s",
            f"{what}; the end of {self._log}:\n{self._tail()}",
            "run again, or set PREFECT_API_URL to a running server; `dvc repro` needs no server at all",
        )

    def _tail(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (empty)"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._process.stdout:
                self._process.stdout.close()


def _environment(database: Path) -> dict[str, str]:
    chosen = os.environ.get("PREFECT_SERVER_DATABASE_CONNECTION_URL") or os.environ.get(
        "PREFECT_API_DATABASE_CONNECTION_URL"
    )
    return {
        DRIVER_VARIABLE: str(os.getpid()),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": chosen or f"sqlite+aiosqlite:///{database.resolve().as_posix()}",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT__SERVER_EPHEMERAL": "1",  # only the services that one run needs
        "PREFECT__SERVER_FINAL": "1",  # the only server of its process, which may therefore trim its routes
    }


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 (our own loopback address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def main() -> None:
    """Serve on a free port of the loopback address, printed first, until terminated or the driver is gone."""
    die_with_driver()
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        print(listener.getsockname()[1], flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads that pipe any more

        import uvicorn
        from prefect.server.api.server import create_app

        config = uvicorn.Config(create_app(), log_level="error", lifespan="on", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
