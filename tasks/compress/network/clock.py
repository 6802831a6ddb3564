"""A budget of time that a killed search does not get back."""

from __future__ import annotations

import time
from pathlib import Path

from tasks.core import files


class Clock:
    """Counts seconds against a budget, over the lives of several processes."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self.seconds = path, seconds
        self._before: float = files.read_json(path)["spent"] if path.is_file() else 0.0
        self._began = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds used."""
        return self._before + time.monotonic() - self._began

    @property
    def left(self) -> float:
        """Seconds to go; negative if the budget is overdrawn."""
        return self.seconds - self.spent

    def save(self) -> None:
        """Write down what was used, beside the work that it paid for."""
        files.write_json(self._path, {"spent": round(self.spent, 1)})
