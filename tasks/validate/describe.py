"""Puts the result of a check into words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.validate.engine import Result
from tasks.validate.outcome import Outcome, Verdict, in_short, plain, share
from tasks.validate.suite import Check, Expectation, NewestRow, TargetBalance

_SHOWN = 3


def title(check: Check) -> str:
    """The check in words."""
    return _outcome(check, "passed", "").title


def check(check: Check, result: Result, success: bool, limit: float | None = None) -> Outcome:
    """Outcome of a check that passed or failed.

    Args:
        check: the check.
        result: what Great Expectations says.
        success: whether it passed.
        limit: the share of rows that may be set aside, if that is what the check broke.
    """
    verdict: Verdict = "passed" if success else "failed" if check.severity == "error" else "warning"
    found = _found(check, result)
    way_out = ""
    if limit is not None:
        found += f"; validate.max_quarantine_share allows {share(limit)}"
        way_out = "correct the source, or raise validate.max_quarantine_share if so many rows may go"
    elif not success:
        way_out = _way_out(check, result)
    return _outcome(check, verdict, found, way_out, result)


def quarantined(check: Check, result: Result) -> Outcome:
    """Outcome of a check whose failing rows were set aside."""
    return _outcome(check, "quarantined", _found(check, result), "", result)


def typed(check: Expectation, kind: str, success: bool) -> Outcome:
    """Outcome of a check about a column's type."""
    verdict: Verdict = "passed" if success else "failed" if check.severity == "error" else "warning"
    way_out = "" if success else "correct the source, the check, or the column's type under ingest.types"
    return _outcome(check, verdict, f"found {kind}", way_out)


def not_run(check: Check, obstacle: str) -> Outcome:
    """Outcome of a check that could not be asked because something before it had failed."""
    return _outcome(check, "not run", obstacle)


def balance(check: TargetBalance, task: str, classes: Sequence[Any], counts: NDArray[np.int64]) -> Outcome:
    """Outcome of a check of the classes' shares; without classes it fails, for nothing was checked.

    Args:
        check: the check.
        task: kind of problem.
        classes: the target's values.
        counts: rows of each class, int64 [classes].
    """
    failed: Verdict = "failed" if check.severity == "error" else "warning"
    if not classes:
        found = f"not run: the target of {task} has no classes"
        return _outcome(check, failed, found, "remove the check from the suite")
    shares = counts / max(1, counts.sum())
    if task == "binary":
        return _positive(check, float(shares[1]) if counts.sum() else None)
    least, most = int(shares.argmin()), int(shares.argmax())
    holds = bool(check.min_share <= shares[least] and shares[most] <= check.max_share)
    found = f"from {share(shares[least])} ({classes[least]}) to {share(shares[most])} ({classes[most]}) of the rows"
    observed = {"observed_value": {"least": float(shares[least]), "most": float(shares[most])}}
    way_out = "" if holds else "correct the source, or change the check in the suite"
    return _outcome(check, "passed" if holds else failed, found, way_out, Result(holds, observed, None, False, None))


def _positive(check: TargetBalance, found: float | None) -> Outcome:
    """Outcome of a check of the positive class's share; None, which fails, where no row has a target."""
    holds = found is not None and check.min_share <= found <= check.max_share
    result = Result(holds, {"observed_value": found}, None, False, None)
    verdict: Verdict = "passed" if holds else "failed" if check.severity == "error" else "warning"
    return _outcome(check, verdict, _found(check, result), "" if holds else _way_out(check, result), result)


def _outcome(check: Check, verdict: Verdict, found: str, way_out: str = "", result: Result | None = None) -> Outcome:
    details: Any = result.details if result else {}
    count, of = details.get("unexpected_count"), details.get("element_count")
    own = {"severity", "because", "expect", "rows", "column"}
    return Outcome(
        kind="check",
        name=check.expect,
        outcome=verdict,
        found=found,
        column=_column(check),
        severity=check.severity,
        way_out=way_out,
        because=check.because,
        arguments=check.arguments if isinstance(check, Expectation) else check.model_dump(mode="json", exclude=own),
        observed=plain(details.get("observed_value")),
        unexpected_count=count,
        unexpected_share=count / of if count is not None and of else None,
        examples=tuple(plain(details.get("partial_unexpected_list", []))),
    )


def _column(check: Check) -> str | None:
    if isinstance(check, Expectation):
        column = check.arguments.get("column")
        return str(column) if column is not None else None
    return check.column if isinstance(check, NewestRow) else None


def _found(check: Check, result: Result) -> str:
    details = result.details
    if "element_count" in details:
        return _rows_found(details)
    observed = plain(details.get("observed_value"))
    if isinstance(check, NewestRow):
        return f"the newest row is of {observed}" if observed else "no row has a time"
    if check.expect == "target_balance":
        return f"{share(observed)} of the rows are of the positive class" if observed is not None else "no row"
    if check.expect == "expect_column_to_exist":
        return "it is there" if result.success else "no such column"
    parts = [f"observed {in_short(observed)}"] if observed is not None else []
    if details.get("partial_unexpected_list"):
        parts.append(f"unexpected: {_listed(plain(details['partial_unexpected_list']))}")
    if details.get("details"):
        parts.append(in_short(plain(details["details"])))
    return "; ".join(parts) or ("it holds" if result.success else "it does not hold")


def _rows_found(details: Any) -> str:
    rows, count = details["element_count"], details["unexpected_count"] or 0
    if count == 0:
        return f"none of {rows:,} rows fails"
    examples = [value for value in plain(details.get("partial_unexpected_list", [])) if value is not None]
    shown = f", for example {_listed(examples)}" if examples else ""
    return f"{count:,} of {rows:,} rows ({share(count / rows)}) fail{'s' if count == 1 else ''}{shown}"


def _way_out(check: Check, result: Result) -> str:
    if "element_count" in result.details and isinstance(check, Expectation) and check.rows == "keep":
        return "correct the source; or set such rows aside with `rows: quarantine`; or change the check in the suite"
    return "correct the source, or change the check in the suite"


def _listed(values: list[Any]) -> str:
    return ", ".join(dict.fromkeys(in_short(value) for value in values[:_SHOWN]))
