"""A load client that costs little itself: raw HTTP over kept connections, one request after the other on each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass
class Outcome:
    """What a run measured: seconds of each answered request, and how many answers were of another status than 200."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0
    wall: float = 0.0

    def summary(self) -> dict[str, float]:
        """p50 and p99 in milliseconds, requests a second, failures."""
        p50, p99 = np.percentile(self.seconds, [50, 99]) * 1e3 if self.seconds else (float("nan"),) * 2
        return {
            "p50_ms": round(float(p50), 3),
            "p99_ms": round(float(p99), 3),
            "per_second": round(len(self.seconds) / self.wall, 1),
            "failed": self.failed,
        }


class _Connection(asyncio.Protocol):
    """Sends its request, waits for the whole response, sends it again."""

    def __init__(self, request: bytes, outcome: Outcome, again: Callable[[bytes], bool]) -> None:
        self._request, self._outcome, self._again = request, outcome, again
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._received, self._expected = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def _send(self) -> None:
        self._received, self._expected = b"", 0
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._expected:
            end = self._received.find(_END)
            if end < 0:
                return
            head = self._received[:end].lower()
            start = head.find(_LENGTH) + len(_LENGTH)
            assert start >= len(_LENGTH), "the response must have a Content-Length"
            self._expected = end + len(_END) + int(head[start : head.find(b"\r\n", start) if b"\r\n" in head[start:] else None])
        if len(self._received) < self._expected:
            return
        if self._received[9:12] == b"200":
            self._outcome.seconds.append(time.perf_counter() - self._started)
        else:
            self._outcome.failed += 1
        if self._again(self._received):
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._outcome.failed += 1
        if not self.done.done():
            self.done.set_result(None)


def request(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in ({"Content-Type": "application/json"} | (headers or {})).items()]
    return "\r\n".join(lines).encode() + _END + body


def run(
    url: str, sent: bytes, concurrency: int, seconds: float = float("inf"), most: float = float("inf"),
    look: Callable[[bytes], None] | None = None,
) -> Outcome:  # fmt: skip
    """Send a request over and over on ``concurrency`` connections, for some seconds or up to a number of them.

    Args:
        url: of the server; its path is that in ``sent``.
        sent: what :func:`request` made.
        look: called with every response.
    """
    return uvloop.run(run_in_loop(url, sent, concurrency, seconds, most, look))


async def run_in_loop(
    url: str, sent: bytes, concurrency: int, seconds: float, most: float, look: Callable[[bytes], None] | None
) -> Outcome:
    """:func:`run`, inside a loop that does something else besides."""
    outcome = Outcome()
    started = time.perf_counter()

    def again(response: bytes) -> bool:
        if look is not None:
            look(response)
        return time.perf_counter() - started < seconds and len(outcome.seconds) + outcome.failed < most

    parts = urlsplit(url)
    assert parts.hostname in ("127.0.0.1", "localhost"), "load goes to this machine only"
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Connection(sent, outcome, again), parts.hostname, parts.port)
        for _ in range(concurrency)
    ]
    await asyncio.gather(*(connection.done for _, connection in made))
    outcome.wall = time.perf_counter() - started
    return outcome
