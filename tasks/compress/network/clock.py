"""A budget of time, of which a killed search gets back no more than its last training's."""

from __future__ import annotations

import time
from pathlib import Path

from tasks.core import files


class Clock:
    """Counts seconds against a budget, over the lives of several processes."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        kept = files.read_json(path) if path.is_file() else {"budget": seconds, "spent": 0.0}
        self.seconds: float = kept["budget"]
        self._before: float = kept["spent"]
        self._began: float | None = None

    def start(self) -> None:
        """Begin to count."""
        self._began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds used."""
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def left(self) -> float:
        """Seconds to go; negative if the budget is overdrawn."""
        return self.seconds - self.spent

    def save(self) -> None:
        """Write down what was used, beside the work that it paid for."""
        files.write_json(self._path, {"budget": self.seconds, "spent": round(self.spent, 1)})
