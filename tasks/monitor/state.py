"""What was judged already, so that a window counts once, however often it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from tasks.core import files
from tasks.core.errors import IntegrityError

NAME = "state.json"
_MOST = 5000

Series = Literal["rows", "performance"]


@dataclass(frozen=True)
class Judged:
    """A window that was judged.

    Attributes:
        series: what of it.
        key: of the window.
        name: in words.
        rows: how many it was judged by.
        what: that drifted; empty for none.
    """

    series: Series
    key: str
    name: str
    rows: int
    what: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """All windows that were judged by one bundle, in order, and when a retraining was last asked for.

    Attributes:
        digest: of the bundle.
        judged: oldest first.
        asked: moment in ISO 8601; None if none was.
    """

    digest: str
    judged: tuple[Judged, ...] = field(default_factory=tuple)
    asked: str | None = None

    @staticmethod
    def read(folder: Path, digest: str) -> State:
        """What was left for this bundle. Of an earlier bundle only that a retraining was asked for is kept.

        Raises:
            IntegrityError: if the file is not what was written.
        """
        path = folder / NAME
        if not path.is_file():
            return State(digest)
        try:
            raw = files.read_json(path)
            judged = tuple(Judged(**one | {"what": tuple(one["what"])}) for one in raw["judged"])
            found = State(raw["digest"], judged, raw["asked"])
        except (ValueError, KeyError, TypeError) as error:
            rule, kept = "monitor's state is what it wrote", f"{path}: {type(error).__name__}: {error}"
            raise IntegrityError(rule, kept, f"remove {path}: windows are then counted anew") from error
        return found if found.digest == digest else State(digest, (), found.asked)

    def write(self, folder: Path) -> None:
        """Leave it for the next time, whole or not at all."""
        files.write_json(folder / NAME, asdict(self))

    def of(self, series: Series) -> list[Judged]:
        """Its windows, oldest first: labels may come in another order. Those of tables are as they were judged."""
        found = [one for one in self.judged if one.series == series]
        try:
            return sorted(found, key=lambda one: datetime.fromisoformat(one.key))
        except ValueError:  # the key of a table is a hash
            return found

    def holds(self, series: Series, key: str) -> bool:
        """Whether a window was judged."""
        return any((one.series, one.key) == (series, key) for one in self.judged)

    def with_more(self, more: Sequence[Judged]) -> State:
        """The same with windows that were judged now."""
        return replace(self, judged=(*self.judged, *more)[-_MOST:])

    def lasting(self, series: Series, in_a_row: int) -> tuple[str, ...]:
        """What drifted in each of the last so many windows."""
        last = self.of(series)[-in_a_row:]
        if len(last) < in_a_row:
            return ()
        return tuple(name for name in last[-1].what if all(name in one.what for one in last))
