"""The life of the server: load, listen, be ready, watch for new versions, drain, stop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal
import socket
import time
from typing import Any

import uvicorn

from deploy.errors import AssayError, MachineError
from deploy.server.door import Door
from deploy.server.drift import Drift
from deploy.server.lineup import Lineup
from deploy.server.log import Lines, say, shown
from deploy.server.metrics import Metrics
from deploy.server.pages import pages
from deploy.server.predictions import PredictionLog
from deploy.server.settings import Settings
from deploy.server.sources import Source
from deploy.server.tokens import Tokens

#: Seconds that requests under way have beyond their own limit when the server stops.
_GRACE = 5.0


def serve(source: Source, settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then answer what is under way, and return.

    Nothing listens before the current version is verified, loaded and proven on its golden cases.

    Raises:
        UsageError: if there is no bundle, no token, or nothing was promoted.
        IntegrityError: if the bundle is not what its signature, manifest or golden cases say.
        MachineError: if the port is taken, or a device was asked for and is not used.
    """
    logging.basicConfig(handlers=[Lines()], level=logging.WARNING, force=True)
    started = time.perf_counter()
    tokens = None if settings.token_file is None else Tokens(settings.token_file)
    metrics = Metrics(settings.serving.name)
    with _listen(settings.host, settings.port) as listening:
        lineup = Lineup(source, settings.serving, metrics)
        _run(listening, lineup, settings, tokens, metrics, started)
    say("stopped")


def _run(
    listening: socket.socket,
    lineup: Lineup,
    settings: Settings,
    tokens: Tokens | None,
    metrics: Metrics,
    started: float,
) -> None:
    drift = Drift(metrics)
    kept = settings.predictions
    predictions = None if kept is None else PredictionLog(kept, settings.serving.name, metrics)
    release = _release()
    app = pages(settings.serving.name, release, lineup, metrics, drift, lambda: server.should_exit)
    door = Door(app, lineup, settings, tokens, metrics, drift, predictions)
    config = uvicorn.Config(
        door, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        proxy_headers=False, timeout_graceful_shutdown=int(settings.limits.seconds + _GRACE),
    )  # fmt: skip
    server = _Server(config, lambda: _say_ready(listening, lineup, settings, started))

    async def both() -> None:
        watch = asyncio.create_task(_watch(lineup, tokens, settings.poll))
        try:
            await server.serve(sockets=[listening])
        finally:
            watch.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn gives the signal back when it has drained: we are done
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(both())
    if predictions is not None:
        predictions.close()


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Any) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


async def _watch(lineup: Lineup, tokens: Tokens | None, seconds: float) -> None:
    """Look for a new version and new tokens, again and again, beside the requests."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(seconds)
        for look in (lineup.refresh, *([] if tokens is None else [tokens.refresh])):
            try:
                await loop.run_in_executor(None, look)
            except AssayError as error:
                say("token_file_refused", "error", error=str(error))
            except Exception as error:  # noqa: BLE001 (it is told; the loaded version goes on, and so does the watch)
                say("watch_failed", "error", error=shown(error))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        rule, found = "the server needs a free address", f"{host}:{port}: {error.strerror}"
        raise MachineError(rule, found, "choose another --host or --port; 0 is any free port") from error


def _say_ready(listening: socket.socket, lineup: Lineup, settings: Settings, started: float) -> None:
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    current, before = lineup.loaded.current, lineup.loaded.before
    if settings.serving.key is None:
        say("unsigned", "warning", message="signatures are not checked: anybody could have made these bundles")
    if settings.token_file is None:
        say("open", "warning", message="no token file: whoever reaches the address is answered")
    say("ready", url=url, model=settings.serving.name, version=current.name, before=before and before.name,
        provider=current.provider, target=current.target, seconds=round(time.perf_counter() - started, 3))  # fmt: skip


def _release() -> str:
    try:
        return importlib.metadata.version("assay")
    except importlib.metadata.PackageNotFoundError:  # the serving image has the package `deploy` alone
        return "unknown"
