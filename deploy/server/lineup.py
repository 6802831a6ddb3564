"""Which versions are loaded, and the change to a new one while requests go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import AssayError
from deploy.server.log import say
from deploy.server.metrics import Metrics
from deploy.server.settings import Serving
from deploy.server.sources import Source
from deploy.server.version import Version
from deploy.signing import signature_path

#: Seconds after which a version that failed is tried again, if it did not change meanwhile.
_AGAIN = 30.0


@dataclass(frozen=True)
class Loaded:
    """The versions that answer. A request takes this whole, once; a change makes another."""

    current: Version
    before: Version | None = None

    def named(self, version: str) -> Version | None:
        """The loaded version of a name."""
        return next((one for one in self.both if one.name == version), None)

    @property
    def both(self) -> tuple[Version, ...]:
        """The current one first."""
        return (self.current,) if self.before is None else (self.current, self.before)


class Lineup:
    """Keeps the versions that a source wants. ``loaded`` is replaced whole, so readers need no lock."""

    loaded: Loaded

    def __init__(self, source: Source, serving: Serving, metrics: Metrics) -> None:
        """Load what the source wants; the version before the current one is left out, with a word, if it fails.

        Raises:
            AssayError: if the current version cannot serve.
        """
        self._source, self._serving, self._metrics = source, serving, metrics
        self._failed: tuple[tuple[object, ...], float] | None = None
        current, *before = source.wanted()
        self._set(Loaded(Version.load(current, serving)))
        for folder in before:
            try:
                self._set(Loaded(self.loaded.current, Version.load(folder, serving)))
            except AssayError as error:
                say("version_left_out", "warning", version=folder.name, error=str(error))

    def refresh(self) -> None:
        """Look at the source; load and prove a new version beside the old one, then let it serve.

        A version that fails changes nothing but a metric and the log, and is tried again later.
        """
        mark: tuple[object, ...] = ()
        started = time.perf_counter()
        try:
            folder = self._source.wanted()[0]
            if folder.name == self.loaded.current.name:
                self._failed = None
                return
            mark = _mark(folder)
            if self._waits(mark):
                return
            version = self.loaded.named(folder.name) or Version.load(folder, self._serving)
        except (AssayError, OSError) as error:
            if not self._waits(mark):
                self._failed = mark, time.monotonic() + _AGAIN
                self._metrics.reloaded(done=False)
                say("reload_failed", "error", serving=self.loaded.current.name, error=str(error))
            return
        before = self.loaded.current
        self._failed = None
        self._set(Loaded(version, before))
        self._metrics.reloaded(done=True)
        say("reloaded", version=version.name, before=before.name, seconds=round(time.perf_counter() - started, 3))

    def _waits(self, mark: tuple[object, ...]) -> bool:
        """Whether this very thing failed a short while ago."""
        return self._failed is not None and self._failed[0] == mark and time.monotonic() < self._failed[1]

    def _set(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._metrics.serving({one.name: (one.provider, one is loaded.current) for one in loaded.both})


def _mark(folder: Path) -> tuple[object, ...]:
    """What changes when a bundle is put in place anew, or signed."""
    signature = signature_path(folder)
    return folder, folder.stat().st_mtime_ns, signature.stat().st_mtime_ns if signature.exists() else None
