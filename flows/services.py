"""`assay up` and `assay down`: a Prefect server and a worker of this project's own, and the deployments of its models.

Both listen on the loopback address alone and report home to nobody. Everything of theirs lies under ``.dvc/tmp/assay``:
the database (SQLite, unless PREFECT_SERVER_DATABASE_CONNECTION_URL names another one), logs, and ``up.json`` with the
ids of the two processes. That a process is ours is written in its environment, which its children inherit: ids are
used again, clocks are set, and a kill of `up` may come before the file is written. `down` ends what bears the mark, and
no others.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
from filelock import FileLock, Timeout

from flows import template
from flows.pipeline import Pipeline, inspect
from tasks.core import files
from tasks.core.errors import MachineError, UsageError

POOL = "assay"
DEPLOYMENTS = template.TEMPLATE.with_name("deploy") / "prefect.yaml"

_HOST = "127.0.0.1"
_START_SECONDS = 180.0
_STOP_SECONDS = 20.0
_TAIL_LINES = 15
_WORKERS: Final = "/work_pools/{work_pool_name}/workers/filter"
_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_MARK = "ASSAY_SERVICES_OF"


@dataclass(frozen=True)
class Services:
    """The server and the worker of one repository."""

    repo: Path

    @property
    def folder(self) -> Path:
        """Where everything of theirs lies."""
        return self.repo / ".dvc" / "tmp" / "assay"

    @property
    def _file(self) -> Path:
        return self.folder / "up.json"

    @property
    def _mark(self) -> str:
        return str(self.folder.resolve())

    def running(self) -> dict[str, Any]:
        """What was started and still runs: ``url`` and ``processes`` (what, pid); no processes if none does."""
        if not self._file.is_file():
            return {"url": "", "processes": []}
        state = files.read_json(self._file)
        ours = {process.pid for process in self.family()}
        return {**state, "processes": [one for one in state["processes"] if one["pid"] in ours]}

    def family(self) -> list[psutil.Process]:
        """Every process that bears the mark of these services: server, worker, and all that they started."""
        return [process for process in psutil.process_iter() if _mark_of(process) == self._mark]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other calls of `assay up` and `assay down` away.

        Raises:
            UsageError: if one works already.
        """
        with files.machine_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "up.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            rule = "one `assay up` or `assay down` at a time works in a repository"
            raise UsageError(rule, f"another one does, in {self.repo}", "wait for it, and run again") from error
        try:
            yield
        finally:
            lock.release()

    def up(self, port: int, tell: Callable[[str], None]) -> str:
        """Start what does not run, wait until both answer; return the API's URL.

        Raises:
            UsageError: if the port is taken.
            MachineError: if one of them ends or does not answer in time; the other is ended as well.
        """
        state = self.running()
        if len(state["processes"]) == 2:
            tell(f"server and worker run already: {state['url']}")
            return str(state["url"])
        self.down(tell)
        _check_free(port)
        url = f"http://{_HOST}:{port}/api"
        try:
            server = self._start("server", url, ["server", "start", "--host", _HOST, "--port", str(port)])
            self._wait("server", server, lambda: self._client_says(url, "health"))
            tell(f"server: {url}")
            worker = self._start("worker", url, ["worker", "start", "--pool", POOL, "--type", "process"])
            self._wait("worker", worker, lambda: self._client_says(url, "worker"))
            tell(f"worker: pool {POOL}")
        except BaseException:
            self.down(tell)
            raise
        return url

    def down(self, tell: Callable[[str], None]) -> None:
        """End what was started here, the worker with its flow runs first."""
        for one in reversed(self.running()["processes"]):
            _end(one["pid"])
            tell(f"{one['what']} (process {one['pid']}): ended")
        for process in self.family():  # of one that was killed, or of an `up` that was
            if _works(process):
                _end(process.pid)
                tell(f"left over (process {process.pid}): ended")
        self._file.unlink(missing_ok=True)

    def register(self, url: str, pipeline: Pipeline) -> list[str]:
        """Register the deployments of one model; return their names.

        Raises:
            MachineError: with what Prefect says.
        """
        from ruamel.yaml import YAML

        name = pipeline.settings.base.name
        document = YAML(typ="safe").load(DEPLOYMENTS.read_text(encoding="utf-8"))
        there = [
            one for one in document["deployments"] if importlib.util.find_spec(one["entrypoint"].rpartition(".")[0])
        ]
        document["deployments"] = there
        path = self.folder / "prefect.yaml"
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(document, file)
        params = os.path.relpath(pipeline.params, self.repo)
        own = {"ASSAY_NAME": name, "ASSAY_PARAMS": params, "ASSAY_ROOT": str(self.repo)}
        command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment(url) | own, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise MachineError(
                "Prefect takes the deployments",
                (done.stdout + done.stderr).strip(),
                "correct that, and `assay up` again",
            )
        return [f"{one['entrypoint'].rpartition('.')[2]}/{name}" for one in there]

    def _environment(self, url: str) -> dict[str, str]:
        auth = os.environ.get(_AUTH)
        database = f"sqlite+aiosqlite:///{(self.folder / 'prefect.db').as_posix()}"
        return {
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            "PREFECT_API_SSL_CERT_FILE": str(self._authority()),
            **os.environ,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # On the disk: what is kept in memory goes with the server, and Prefect ends the runs whose lease is gone.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "DO_NOT_TRACK": "1",
            _MARK: self._mark,
            "PYTHONSAFEPATH": "1",  # a flows.py in the project's folder is the user's, not ours
            **({"PREFECT_API_AUTH_STRING": auth} if auth else {}),
        }

    def _authority(self) -> Path:
        """A file with a single certificate authority.

        For each run, the worker makes clients that read all authorities of the world, to speak with a server without
        TLS on the loopback address; what they leave of its memory in pieces is a third of a MiB a run.
        """
        import certifi

        path = self.folder / "authority.pem"
        if not path.is_file():
            first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")
            files.write_text(path, first + end)
        return path

    def _start(self, what: str, url: str, arguments: Sequence[str]) -> psutil.Process:
        with self._log(what).open("w", encoding="utf-8") as log:
            started = subprocess.Popen(
                [sys.executable, "-P", "-m", "prefect", *arguments],
                cwd=self.repo,
                env=self._environment(url),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in this terminal is not for them
            )
        process = psutil.Process(started.pid)
        state = self.running()
        one = {"what": what, "pid": process.pid}
        files.write_json(self._file, {"url": url, "processes": [*state["processes"], one]})
        return process

    def _log(self, what: str) -> Path:
        return self.folder / f"{what}.log"

    def _wait(self, what: str, process: psutil.Process, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while _works(process) and time.monotonic() < deadline:
            if answers():
                return
            time.sleep(0.5)
        found = f"it does not answer after {_START_SECONDS:.0f} s" if _works(process) else "it ended"
        lines = self._log(what).read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        end = "\n".join(f"    {line}" for line in lines)
        raise MachineError(
            f"Prefect's {what} must start", f"{found}; the end of {self._log(what)}:\n{end}", "run again"
        )

    def _client_says(self, url: str, what: str) -> bool:
        """Whether the server is healthy, or a worker is online."""
        import httpx
        from prefect.client.orchestration import get_client
        from prefect.exceptions import PrefectHTTPStatusError

        with _settings_of(url), get_client(sync_client=True) as client:
            if what == "health":
                return client.api_healthcheck() is None
            try:
                answer = client.request("POST", _WORKERS, path_params={"work_pool_name": POOL}, json={})
            except (httpx.HTTPError, PrefectHTTPStatusError):  # the pool is made by the worker
                return False
            return any(one.get("status") == "ONLINE" for one in answer.json())


@contextmanager
def _settings_of(url: str) -> Iterator[None]:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: os.environ.get(_AUTH)}):
        yield


def up(params: Sequence[Path], port: int, tell: Callable[[str], None]) -> None:
    """Start server and worker, and register the deployments of every params file.

    Raises:
        UsageError: if the params files lie in several repositories, or two of them name one model; if another call of
            `up` or `down` works there.
        MachineError: if something does not start.
    """
    pipelines = [inspect(path) for path in params]
    services = Services(_one_repository(pipelines))
    with services.alone():
        url = services.up(port, tell)
        for pipeline in pipelines:
            for name in services.register(url, pipeline):
                tell(f"deployment: {name}")
    tell(f"UI: {url.removesuffix('/api')}")
    tell(f"next: PREFECT_API_URL={url} prefect deployment run retrain/{pipelines[0].settings.base.name}")


def down(params: Path, tell: Callable[[str], None]) -> None:
    """End what :func:`up` started in the repository of a params file, and nothing else.

    Raises:
        UsageError: if another call of `up` or `down` works there.
    """
    services = Services(inspect(params).repo)
    with services.alone():
        if not services.family():
            tell("nothing that `assay up` started runs here")
        services.down(tell)


def _one_repository(pipelines: Sequence[Pipeline]) -> Path:
    repos = {pipeline.repo for pipeline in pipelines}
    names = [pipeline.settings.base.name for pipeline in pipelines]
    if len(repos) > 1 or len(set(names)) < len(names):
        raise UsageError(
            "`assay up` serves models of one repository, each with a name of its own",
            f"{', '.join(map(str, repos))}: {', '.join(names)}",
            "call it in each repository; change base.name",
        )
    return repos.pop()


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise UsageError(
                "the server needs a free port", f"{port}: {error}", "choose another one: --port"
            ) from error


def _mark_of(process: psutil.Process) -> str | None:
    """Whose process it is, as its environment says; None for one that we may not ask, or that is gone."""
    try:
        return process.environ().get(_MARK) if _works(process) else None
    except (psutil.AccessDenied, psutil.NoSuchProcess, OSError):
        return None


def _works(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(pid: int) -> None:
    """SIGTERM to a process, SIGKILL to whatever is left of its family after a while."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        process.terminate()
    except psutil.NoSuchProcess:
        return
    for one in _still_works(family):
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    _still_works(family)


def _still_works(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """What does not end within a while. One that nobody reaps has ended: a container's first process may not do so."""
    deadline = time.monotonic() + _STOP_SECONDS
    while (left := [one for one in family if _works(one)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left
