"""Runs a suite's checks over a snapshot, and says what became of each.

Checks with ``rows: quarantine`` come first and see every row. All others judge the rows that are left, for it is
those that later stages learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import AssayError, UsageError
from tasks.core.sections import nearest
from tasks.core.splitting import moment
from tasks.validate import describe
from tasks.validate.engine import Engine, Judging, Planned, Result
from tasks.validate.expectations import TYPE_EXPECTATIONS, build, columns_named
from tasks.validate.outcome import Outcome
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.suite import Check, Expectation, NewestRow, Suite, TargetBalance
from tasks.validate.target import Target

_SEVERITY = {"error": "critical", "warning": "warning"}


@dataclass
class Judge:
    """The state of one validation.

    Attributes:
        suite: the checks.
        snapshot: the rows.
        max_share: largest share of rows that may be set aside.
        engine: Great Expectations.
        judging: how rows are put to it.
        now: where ages are counted from, unless the suite says so.
        outcomes: check number -> what became of it, filled by the methods.
        set_aside: check number -> int64 row numbers, ascending.
        originals: Great Expectations' own results, for its Data Docs.
    """

    suite: Suite
    snapshot: Snapshot
    max_share: float
    engine: Engine
    judging: Judging
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    set_aside: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    originals: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._raised: list[tuple[str, Result]] = []
        self._broken = {o.column for o in self.columns() if o.outcome == "failed"}
        self._broken |= {c.arguments["column"] for c in self._expectations("expect_column_to_exist")
                         if c.arguments["column"] not in self.snapshot.columns}  # fmt: skip

    def columns(self) -> list[Outcome]:
        """What became of the suite's list of columns."""
        return [_column(name, kind, self.snapshot.columns) for name, kind in self.suite.columns.items()]

    def quarantine(self) -> Mask:
        """Run the checks that set rows aside; bool [rows], True where the row is set aside."""
        most = int(self.max_share * self.snapshot.rows)
        results = self.judging.validate(self.snapshot, self._planned(_sets_aside), most=most)
        for planned, result in self._told(results):
            self.outcomes[planned.number] = self._set_aside_by(planned, result)
        self.set_aside = dict(sorted(self.set_aside.items()))  # a row's reasons stand in the suite's order
        mask = np.zeros(self.snapshot.rows, dtype=np.bool_)
        for rows in self.set_aside.values():
            mask[rows] = True
        return mask

    def _set_aside_by(self, planned: Planned, result: Result) -> Outcome:
        count = int(result.details.get("unexpected_count") or 0)
        strict = isinstance(planned.check, Expectation) and "mostly" in planned.check.arguments
        too_many = count > self.max_share * self.snapshot.rows
        if result.failing is None or too_many or (strict and not result.success):
            limit = self.max_share if too_many else None
            return describe.check(planned.check, result, count == 0, limit)
        self.set_aside[planned.number] = result.failing
        return describe.quarantined(planned.check, result)

    def rest(self, keep: Mask, target: Target | None) -> None:
        """Run all other checks over the rows that are left.

        Args:
            keep: bool [rows].
            target: the target; None if it is not fit to be judged.
        """
        self._from_schema()
        about_rows = self._planned(lambda c: not (_sets_aside(c) or _about_table(c) or isinstance(c, TargetBalance)))
        self._judge(self.judging.validate(self.snapshot, about_rows, keep))
        about_table = self._planned(_about_table)
        found = self.engine.validate(self.snapshot.empty_frame(), {p.number: p.expectation for p in about_table})
        self._judge((planned, found[planned.number]) for planned in about_table)
        self._balance(keep, target)

    def _balance(self, keep: Mask, target: Target | None) -> None:
        checks = {n: c for n, c in enumerate(self.suite.checks) if isinstance(c, TargetBalance)}
        for number, check in checks.items():
            if target is None:
                self.outcomes[number] = describe.not_run(check, "the target is not fit to be judged")
            else:
                self.outcomes[number] = describe.balance(check, target.task, target.classes, target.counts(keep))

    def complain(self) -> None:
        """Refuse to go on if a check could not be evaluated: it has neither passed nor failed.

        Raises:
            UsageError: if the checks' arguments do not fit their columns.
            AssayError: if something else went wrong (a bug).
        """
        if not self._raised:
            return
        found = "".join(f"\n    - {title}: {result.raised}" for title, result in self._raised)
        rule = "a check must be one that can be evaluated on its column"
        if all(result.by_suite for _, result in self._raised):
            raise UsageError(rule, found, "correct the suite: arguments or row conditions do not fit the column")
        raise AssayError(rule, found, "this is a bug in Great Expectations or in Assay, not in the suite: report it")

    def _from_schema(self) -> None:
        for number, check in enumerate(self.suite.checks):
            if isinstance(check, Expectation) and check.expect in TYPE_EXPECTATIONS and not self._obstacle(check):
                kind = self.snapshot.columns[check.arguments["column"]]
                allowed = check.arguments.get("type_list", [check.arguments.get("type_")])
                self.outcomes[number] = describe.typed(check, kind, kind in allowed)

    def _judge(self, results: Iterable[tuple[Planned, Result]]) -> None:
        for planned, result in self._told(results):
            self.outcomes[planned.number] = describe.check(planned.check, result, result.success)

    def _told(self, results: Iterable[tuple[Planned, Result]]) -> Iterator[tuple[Planned, Result]]:
        """The results of checks that could be evaluated; the others are remembered for :meth:`complain`."""
        for planned, result in results:
            if result.original is not None:
                self.originals.append(result.original)
            if result.raised is None:
                yield planned, result
            else:
                self._raised.append((f"checks.{planned.number} ({describe.title(planned.check)})", result))

    def _planned(self, wanted: Callable[[Check], bool]) -> list[Planned]:
        """The wanted checks that can be run; those that cannot get their outcome here."""
        planned = []
        for number, check in enumerate(self.suite.checks):
            if number in self.outcomes or not wanted(check):
                continue
            if obstacle := self._obstacle(check):
                self.outcomes[number] = describe.not_run(check, obstacle)
            else:
                planned.append(Planned(number, check, self._expectation(number, check)))
        return planned

    def _obstacle(self, check: Check) -> str:
        if _about_table(check) or isinstance(check, TargetBalance):
            return ""
        named = columns_named(check.expect, check.arguments) if isinstance(check, Expectation) else [check.column]
        broken = [name for name in named if name in self._broken]
        return f"column {broken[0]} is absent or of another type" if broken else ""

    def _expectation(self, number: int, check: Check) -> Any:
        common = {"meta": {"number": number}, "severity": _SEVERITY[check.severity]}
        if isinstance(check, NewestRow):
            oldest = (moment(check.as_of) if check.as_of else self.now) - timedelta(days=check.not_older_than_days)
            arguments: dict[str, Any] = {"column": check.column, "min_value": oldest}
            return build("expect_column_max_to_be_between", arguments, self.snapshot.columns, **common)
        assert isinstance(check, Expectation)  # noqa: S101 (the balance is counted, not asked)
        return build(check.expect, check.arguments, self.snapshot.columns, **common)

    def _expectations(self, name: str) -> list[Expectation]:
        return [c for c in self.suite.checks if isinstance(c, Expectation) and c.expect == name]


def _sets_aside(check: Check) -> bool:
    return isinstance(check, Expectation) and check.rows == "quarantine"


def _about_table(check: Check) -> bool:
    """Whether the check is about the columns as such, so that no row has to be read."""
    return isinstance(check, Expectation) and (
        check.expect == "expect_column_to_exist" or check.expect.startswith("expect_table_column")
    )


def _column(name: str, kind: str, columns: Mapping[str, str]) -> Outcome:
    found = columns.get(name)
    if found == kind:
        return Outcome("column", f"is there with type {kind}", "passed", f"found {found}", name)
    if found is None:
        way_out = f"add the column to the source, or correct `columns:` in the suite ({nearest(name, columns)})"
        return Outcome("column", f"is there with type {kind}", "failed", "no such column", name, way_out=way_out)
    way_out = f"correct the source, give the column `{kind}` under ingest.types, or correct `columns:` in the suite"
    return Outcome("column", f"is there with type {kind}", "failed", f"found {found}", name, way_out=way_out)
