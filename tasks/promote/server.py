"""The real server as a process of its own, for the length of a block: started, waited for, stopped by its id.

Between the two stands a guard, which stops the server when its standard input ends: at the end of the block, and also
when whoever promotes is killed.
"""

from __future__ import annotations

import http.client
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import urlsplit

from tasks.core.errors import IntegrityError, MachineError

_STOP_SECONDS = 15
_ANSWER_SECONDS = 30.0
_TAIL = 2000
_GUARD = """
import os, subprocess, sys, threading
server = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL)
def stop():
    while os.read(0, 4096):
        pass
    server.terminate()
    try:
        server.wait(int(sys.argv[1]))
    except subprocess.TimeoutExpired:
        server.kill()
threading.Thread(target=stop, daemon=True).start()
code = server.wait()
os._exit(code if code >= 0 else 128 - code)
"""


@dataclass(frozen=True)
class Answer:
    """What came back: the status, and the body as it came."""

    status: int
    body: bytes


@dataclass
class Server:
    """A server that is ready.

    Attributes:
        model: name of the model in its paths.
        provider: what runs the model.
        target: whose variant it serves, of a bundle for several targets; else None.
        ready_seconds: from the start to ready.
        exit_code: after the block.
    """

    model: str
    provider: str
    target: str | None
    ready_seconds: float
    host: str
    port: int
    exit_code: int | None = None

    def connect(self) -> http.client.HTTPConnection:
        """A connection that is kept open between requests."""
        return http.client.HTTPConnection(self.host, self.port, timeout=_ANSWER_SECONDS)

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """One request on a connection of its own; OSError or HTTPException if there is no answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body, dict(headers or {"Content-Type": "application/json"}))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()


def command(folder: Path, public_key: Path) -> list[str]:
    """How the real server is started for one bundle, on a free port of the loopback address."""
    # -P: a deploy.py in the current folder is the user's, not ours.
    serve = [sys.executable, "-P", "-m", "deploy.server", str(folder)]
    return [*serve, "--host", "127.0.0.1", "--port", "0", "--key", str(public_key)]


@contextmanager
def started(arguments: Sequence[str], seconds: float) -> Iterator[Server]:
    """Start a server, and stop it (SIGTERM, after 15 s SIGKILL) when the block ends.

    Args:
        arguments: its command; it must print one JSON line ``{"event": "ready", "url": ..., ...}``.
        seconds: how long it may take until then.

    Raises:
        IntegrityError: if it ends before it is ready, with what it said.
        MachineError: if it is not ready in time.
    """
    begun = time.monotonic()
    with TemporaryFile() as log:
        guarded = [sys.executable, "-P", "-c", _GUARD, str(_STOP_SECONDS), *arguments]
        process = subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        server = None
        try:
            said = _ready(process, seconds, log)
            address = urlsplit(said["url"])
            server = Server(
                str(said["model"]),
                str(said.get("provider") or "CPUExecutionProvider"),
                said.get("target"),
                round(time.monotonic() - begun, 3),
                str(address.hostname),
                int(address.port or 80),
            )
            yield server
        finally:
            code = _stop(process)
            if server is not None:
                server.exit_code = code


def _ready(process: subprocess.Popen[bytes], seconds: float, log: IO[bytes]) -> dict[str, Any]:
    found: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_follow, args=(process.stdout, found), daemon=True).start()
    try:
        said = found.get(timeout=seconds)
    except queue.Empty:
        rule = f"the server is ready within {seconds:g} s"
        raise MachineError(rule, "it is not", "raise promote.latency.start_seconds on a slow machine") from None
    if said is None:
        code = process.wait()
        log.seek(0)
        tail = log.read()[-_TAIL:].decode(errors="replace").strip()
        broken = code == IntegrityError.exit_code
        error, way_out = (
            (IntegrityError, "see above") if broken else (MachineError, 'see above; pip install ".[serve,sign]"')
        )
        raise error("the server starts with this bundle", f"it ended with exit code {code}: {tail}", way_out)
    return said


def _follow(lines: IO[bytes] | None, found: queue.Queue[dict[str, Any] | None]) -> None:
    """Read a server's lines to the end, so that it never waits for a reader; pass the one that says ready on."""
    for line in lines or ():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("event") == "ready":
            found.put(said)
    found.put(None)


def _stop(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None  # noqa: S101 (a pipe was asked for)
    process.stdin.close()
    return process.wait()
