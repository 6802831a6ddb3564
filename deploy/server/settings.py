"""What an operator can set, and what holds where nothing is said."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    Attributes:
        body: bytes of a request's body, after decompression.
        rows: of one request.
        concurrency: requests under way at once; one more is refused, not queued.
        seconds: from a request's first byte to its answer.
    """

    body: int = 16 << 20
    rows: int = 1024
    concurrency: int = 128
    seconds: float = 10.0


@dataclass(frozen=True)
class Serving:
    """How bundles are checked and loaded.

    Attributes:
        name: of the model, in the paths.
        key: public key that a bundle's signature is checked with; None only if unsigned bundles were asked for.
        device: see :func:`deploy.runtime.open_session`; ``auto`` is the variant's own where a bundle has several.
        threads: inside an operator. One is the best for throughput: requests run beside each other.
        target: whose variant to take out of a bundle for several; None leaves it to the bundle's rule.
    """

    name: str
    key: Path | None
    device: str = "auto"
    threads: int = 1
    target: str | None = None


@dataclass(frozen=True)
class Predictions:
    """The log of predictions: see :mod:`deploy.server.predictions`.

    Attributes:
        folder: where it lies.
        sample: share of the rows that are logged.
        most_bytes: of all its files together.
    """

    folder: Path
    sample: float = 0.1
    most_bytes: int = 1 << 30


@dataclass(frozen=True)
class Settings:
    """Everything beside the source of the bundles.

    Attributes:
        serving: how bundles are loaded.
        limits: of requests.
        host, port: where to listen; port 0 is any free one.
        token_file: one accepted bearer token a line; None lets everybody in.
        workers: models that run at once.
        poll: seconds between two looks at the source, and at the token file.
        access_log: whether every request leaves a line.
        predictions: what is kept of requests and answers; None keeps nothing.
    """

    serving: Serving
    limits: Limits = Limits()
    host: str = "127.0.0.1"
    port: int = 8080
    token_file: Path | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    poll: float = 2.0
    access_log: bool = False
    predictions: Predictions | None = None
