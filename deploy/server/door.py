"""The way in: token, limits, and the two routes that predict. What is none of them goes on to the pages.

It is plain ASGI, beneath FastAPI, whose layers would cost a small model more time than its answer does.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from deploy.server import refusal, responses
from deploy.server.drift import Drift
from deploy.server.lineup import Lineup
from deploy.server.log import say, shown
from deploy.server.metrics import Metrics
from deploy.server.predictions import PredictionLog
from deploy.server.refusal import Refusal, bad_request
from deploy.server.settings import Settings
from deploy.server.tokens import Tokens
from deploy.server.version import Answer, Version

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: What an orchestrator asks before it has any token.
HEALTH = frozenset({"/v2/health/live", "/v2/health/ready"})
_TYPES = frozenset({b"application/json", b"application/octet-stream"})
_PACKED = frozenset({b"gzip", b"deflate"})
_EITHER_HEADER = 47  # zlib: reads gzip and zlib


class Door:
    """An ASGI application in front of another one."""

    def __init__(
        self,
        pages: App,
        lineup: Lineup,
        settings: Settings,
        tokens: Tokens | None,
        metrics: Metrics,
        drift: Drift,
        predictions: PredictionLog | None = None,
    ) -> None:
        self._pages, self._lineup, self._tokens, self._metrics, self._drift = pages, lineup, tokens, metrics, drift
        self._predictions = predictions
        self._limits, self._access_log = settings.limits, settings.access_log
        self._model = f"/v2/models/{settings.serving.name}/"
        self._pool = ThreadPoolExecutor(settings.workers, "answer")
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        path, headers = scope["path"], dict(scope["headers"])
        started = time.perf_counter()
        version, route = self._route(path)
        name = version.name if version is not None else ""
        allowed = self._tokens is None or path in HEALTH or self._tokens.accept(headers.get(b"authorization"))
        if allowed and version is None:
            await self._pages(scope, receive, send)
            return
        try:
            if not allowed or version is None:
                raise _no_token()
            if scope["method"] != "POST":
                rule, way_out = "predictions are asked for with POST", f"POST {path}"
                raise Refusal(405, rule, scope["method"], way_out, {"Allow": "POST"})
            answer = await self._answer(version, route, headers, receive)
        except Refusal as error:
            await self._refuse(error, name, path, send)
            return
        except Exception as error:  # noqa: BLE001 (it is told and counted; the other requests go on)
            say("request_failed", "error", path=path, version=name, error=shown(error))
            failure = Refusal(500, "the model answers what fits its signature", "an error", "tell who runs the server")
            await self._refuse(failure, name, path, send)
            return
        if answer is None:  # the client is gone
            return
        await _send(send, 200, answer.headers, answer.body)
        seconds = time.perf_counter() - started
        self._metrics.request(name, 200)
        self._metrics.answered(name, seconds, answer.request.rows)
        if self._access_log:
            say("request", path=path, code=200, version=name, seconds=seconds, rows=answer.request.rows,
                id=answer.request.id)  # fmt: skip
        self._drift.add(version, answer.request.tensors, answer.outputs)
        if self._predictions is not None:
            self._predictions.add(version, answer.request, answer.outputs)

    def _route(self, path: str) -> tuple[Version | None, str]:
        """The version that answers a path, and how: None if the path is not for predictions."""
        if not path.startswith(self._model):
            return None, ""
        rest, loaded = path[len(self._model) :], self._lineup.loaded
        if rest in ("infer", "rows"):
            return loaded.current, rest
        parts = rest.split("/")
        if len(parts) == 3 and parts[0] == "versions" and parts[2] in ("infer", "rows"):
            return loaded.named(parts[1]), parts[2]
        return None, ""

    async def _answer(
        self, version: Version, route: str, headers: dict[bytes, bytes], receive: Receive
    ) -> Answer | None:
        if self._under_way >= self._limits.concurrency:
            raise refusal.busy(self._limits.concurrency)
        packed, json_length = self._read_headers(headers)
        answer = version.infer if route == "infer" else version.columns
        self._under_way += 1
        self._metrics.in_flight.set(self._under_way)
        deadline = time.monotonic() + self._limits.seconds
        try:
            body = await self._body(receive)
            if body is None:
                return None
            if not packed and len(body) <= version.inline_bytes:
                return answer(body, json_length, self._limits)
            return await self._in_thread(answer, body, packed, json_length, deadline)
        finally:
            self._under_way -= 1
            self._metrics.in_flight.set(self._under_way)

    def _read_headers(self, headers: dict[bytes, bytes]) -> tuple[bool, int | None]:
        """Whether the body is compressed, and how long its JSON is."""
        kind = headers.get(b"content-type")
        if kind is not None and kind.partition(b";")[0].strip().lower() not in _TYPES:
            rule = "a body is application/json, or application/octet-stream where binary data follows the JSON"
            raise Refusal(415, rule, kind.decode("latin-1"), "set Content-Type")
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding != b"identity" and encoding not in _PACKED:
            rule, found = "a body is plain, gzip or deflate", encoding.decode("latin-1")
            raise Refusal(415, rule, found, "send it plain", {"Accept-Encoding": "gzip, deflate"})
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body:
            raise self._too_long(f"{int(length)} bytes")
        cut = headers.get(b"inference-header-content-length")
        if cut is not None and not (cut.isdigit() and len(cut) < 16):
            raise bad_request("Inference-Header-Content-Length is a number of bytes", cut.decode("latin-1"))
        return encoding in _PACKED, None if cut is None else int(cut)

    async def _body(self, receive: Receive) -> bytes | None:
        """All of the body; None if the client left."""
        parts, size = [], 0
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.body:
                        raise self._too_long(f"{size} bytes and more")
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            rule = f"a body arrives within {self._limits.seconds:g} s"
            raise Refusal(408, rule, f"{size} bytes of it", "send it faster", {"Connection": "close"}) from None

    async def _in_thread(
        self, answer: Callable[..., Answer], body: bytes, packed: bool, json_length: int | None, deadline: float
    ) -> Answer:
        import onnxruntime

        options = onnxruntime.RunOptions()
        work = partial(_unpacked, answer, self._limits, options, body, packed, json_length, self._too_long)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except TimeoutError:
            options.terminate = True
            raise refusal.late(self._limits.seconds) from None

    def _too_long(self, found: str) -> Refusal:
        way_out = "send fewer rows, or binary data"
        return refusal.too_large(f"a body has at most {self._limits.body} bytes", found, way_out)

    async def _refuse(self, error: Refusal, version: str, path: str, send: Send) -> None:
        headers = [responses.JSON, *((name.lower().encode(), text.encode()) for name, text in error.headers.items())]
        self._metrics.request(version, error.status)
        if self._access_log:
            say("request", "warning", path=path, code=error.status, version=version, error=error.body()["error"])
        await _send(send, error.status, headers, responses.dumps(error.body()))


def _unpacked(
    answer: Callable[..., Answer], limits: Any, options: Any, body: bytes, packed: bool, json_length: int | None,
    too_long: Callable[[str], Refusal],
) -> Answer:  # fmt: skip
    return answer(_unpack(body, limits.body, too_long) if packed else body, json_length, limits, options)


def _unpack(body: bytes, most: int, too_long: Callable[[str], Refusal]) -> bytes:
    """What was compressed with gzip or zlib, up to a length."""
    stream = zlib.decompressobj(_EITHER_HEADER)
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise bad_request("a compressed body is one whole gzip or zlib stream", str(error)) from None
    if len(plain) > most:
        raise too_long(f"more, out of {len(body)} compressed ones")
    if not stream.eof or stream.unused_data:
        raise bad_request("a compressed body is one whole gzip or zlib stream", "an end too early, or bytes after it")
    return plain


def _no_token() -> Refusal:
    rule, way_out = "requests carry a token that the server accepts", "send the header Authorization: Bearer TOKEN"
    return Refusal(401, rule, "none, or another one", way_out, {"WWW-Authenticate": "Bearer"})


async def _send(send: Send, status: int, headers: responses.Headers, body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
