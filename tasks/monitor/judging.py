"""Judges windows one after the other, and draws the conclusion."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tasks.core.settings import Params
from tasks.monitor import performance
from tasks.monitor.bundle import Champion
from tasks.monitor.outcome import Outcome, Word
from tasks.monitor.performance import Performance
from tasks.monitor.shift import Shift, compare
from tasks.monitor.state import Judged, Series, State
from tasks.monitor.window import Found, Window

_SERIES: tuple[Series, ...] = ("rows", "performance")
#: Settings that the page names.
_RULES = {"min_rows", "min_shift", "max_drop", "significance", "in_a_row", "cool_down_days", "window_hours"}
#: Windows of the past on the page, and names in a sentence.
_SHOWN, _MOST_NAMES = 60, 5


class Judging:
    """Goes through windows in order, and counts each once."""

    def __init__(self, params: Params, champion: Champion, state: State) -> None:
        self._own, self._seed, self._champion = params.monitor, params.base.seed, champion
        self._name, self._state = params.base.name, state
        self._new: list[Judged] = []
        self._last: Window | None = None
        self._shifts: dict[str, Shift] = {}
        self._labelled: Window | None = None
        self._performance: tuple[Window, Performance] | None = None
        self._notes: list[str] = []

    def judge(self, window: Window) -> None:
        """Judge its rows, and its answers as soon as enough labels are there."""
        enough = window.rows >= self._own.min_rows
        if self._came_late(window):
            if enough:
                self._notes.append(f"{window.name} is left out: its rows came when later windows had been judged")
            return
        self._last, self._shifts = window, self._compare(window) if enough else {}
        if enough:
            self._count("rows", window, window.rows, tuple(self._drifted()))
        if performance.labelled(window) >= self._own.min_rows:
            self._labelled = window
            if not self._state.holds("performance", window.key):
                self._measure(window)

    def _came_late(self, window: Window) -> bool:
        before = self._state.of("rows")
        if self._state.holds("rows", window.key) or not before:
            return False
        return _is_older(window.key, before[-1].key)

    def _measure(self, window: Window) -> None:
        assert self._champion.shown is not None  # noqa: S101 (else there are no labels)
        measured = performance.measure(window, self._champion.shown, self._own.max_drop, self._seed)
        if measured is not None:
            self._performance = window, measured
            what = (measured.metric,) if self._is_worse(measured) else ()
            self._count("performance", window, measured.rows, what)

    def _compare(self, window: Window) -> dict[str, Shift]:
        champion = self._champion
        return {
            name: compare(champion.reference(name), window.counts[name], spread.ordered, champion.hidden)
            for name, spread in champion.spreads.items()
        }

    def _drifted(self) -> list[str]:
        own, tests = self._own, len(self._shifts)
        return [
            name
            for name, shift in self._shifts.items()
            if self._champion.spreads[name].tensor not in own.ignore
            and shift.effect >= own.min_shift
            and shift.p * tests <= own.significance
        ]

    def _is_worse(self, measured: Performance) -> bool:
        return measured.drop >= measured.margin and measured.p <= self._own.significance

    def _count(self, series: Series, window: Window, rows: int, what: tuple[str, ...]) -> None:
        if not self._state.holds(series, window.key):
            judged = Judged(series, window.key, window.name, rows, what)
            self._new.append(judged)
            self._state = self._state.with_more([judged])

    def outcome(self, found: Found, folder: Path, now: datetime) -> tuple[Outcome, State]:
        """The word for all of it and whether to ask for a retraining; and the state that is to be kept."""
        own = self._own
        if self._performance is None and self._labelled is not None:
            self._measure(self._labelled)  # for the page: it was counted before
        lasting = {series: self._state.lasting(series, own.in_a_row) for series in _SERIES}
        fresh = {one.series for one in self._new}
        until = self._resting(now)
        asks = tuple(name for series in _SERIES if series in fresh and until is None for name in lasting[series])
        state = replace(self._state, asked=now.isoformat(timespec="seconds")) if asks else self._state
        word, reason = self._word(found, [name for names in lasting.values() for name in names])
        told = {
            "name": self._name,
            "version": self._champion.version,
            "digest": self._champion.digest,
            "when": now.isoformat(timespec="seconds"),
            "source": found.source,
            "word": word,
            "reason": reason,
            "asked_for": list(asks),
            "resting_until": until,
            "window": None if self._last is None else {"name": self._last.name, "rows": self._last.rows},
            "spreads": [self._line(name, shift) for name, shift in self._shifts.items()],
            "performance": None
            if self._performance is None
            else {"window": self._performance[0].name, "worse": self._is_worse(self._performance[1])}
            | asdict(self._performance[1]),
            "history": [asdict(one) for one in self._state.judged[-_SHOWN:]],
            "notes": [*found.notes, *self._notes, *self._unknown()],
            "rules": own.model_dump(mode="json", include=_RULES),
        }
        key = self._state.judged[-1].key if self._state.judged else ""
        return Outcome(word, reason, asks, key, told, folder), state

    def _resting(self, now: datetime) -> str | None:
        """Until when no retraining is asked for again; None if one may be."""
        if self._state.asked is None:
            return None
        until = datetime.fromisoformat(self._state.asked) + timedelta(days=self._own.cool_down_days)
        return until.isoformat(timespec="seconds") if now < until else None

    def _word(self, found: Found, lasting: list[str]) -> tuple[Word, str]:
        last = {series: self._state.of(series)[-1:] for series in _SERIES}
        now = [name for one in last.values() for name in (one[0].what if one else ())]
        if lasting:
            return "DRIFT", f"{_some(lasting)} drifted in {self._own.in_a_row} windows in a row"
        if self._last is None:
            return "CANNOT TELL", f"no window has ended yet: {found.waiting}"
        if self._last.rows < self._own.min_rows:
            few = f"{self._last.name} has {self._last.rows} rows, and {self._own.min_rows} are needed to tell"
            return "CANNOT TELL", f"{few}: make monitor.window_hours longer, or log a larger share of the rows"
        if now:
            return "WATCH", f"{_some(now)} drifted in the last window; {self._own.in_a_row} in a row are called drift"
        return "STEADY", f"nothing drifted in {self._last.name}, {self._last.rows} rows"

    def _line(self, name: str, shift: Shift) -> dict[str, Any]:
        spread = self._champion.spreads[name]
        return {
            "name": name,
            "is_answer": self._champion.is_answer(name),
            "psi": shift.psi,
            "ks": shift.ks,
            "p": min(1.0, shift.p * len(self._shifts)) if not math.isnan(shift.p) else math.nan,
            "drifted": name in self._drifted(),
            "ignored": spread.tensor in self._own.ignore,
            "bins": list(spread.bins),
            "reference": list(shift.reference),
            "window": list(shift.window),
        }

    def _unknown(self) -> list[str]:
        if self._champion.shown is None:
            return ["answers are rankings: how good they are is not monitored"]
        if self._performance is None:
            few = f"no window has {self._own.min_rows} rows with labels"
            return [f"how good the answers are is not known: {few}, or the metric has no value on them"]
        return []


def _is_older(key: str, last: str) -> bool:
    """Whether a window began before the last one; tables have no order."""
    try:
        return datetime.fromisoformat(key) < datetime.fromisoformat(last)
    except ValueError:
        return False


def _some(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
