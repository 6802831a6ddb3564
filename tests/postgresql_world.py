"""A real PostgreSQL server of its own, in a temporary folder, reachable through a socket in it and no other way."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_USER = "assay"


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _as_somebody(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: the prefix that runs it as another user, who then owns the folder."""
    if os.geteuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            os.chown(folder, user.pw_uid, user.pw_gid)
            return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    pytest.skip("no user to run PostgreSQL as")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The address of a fresh server; it is stopped with the block."""
    programs = _programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path must be short
    prefix, data = _as_somebody(folder), str(folder / "data")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/"}
    try:
        subprocess.run(
            [*prefix, programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "--no-sync"], check=True, **quiet
        )
        process = subprocess.Popen(
            [*prefix, programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"],
            **quiet,
        )
        try:
            ready = [programs / "pg_isready", "-h", folder, "-t", "60", "-q"]
            while subprocess.run(ready, check=False).returncode != 0:
                assert process.poll() is None, "PostgreSQL ended"
            yield f"postgresql://{_USER}@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # with SIGTERM it would wait for its clients to leave
            process.wait()
    finally:
        shutil.rmtree(folder)


def fresh(server: str) -> str:
    """The address of a new, empty database of a :func:`server`."""
    import psycopg

    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")
