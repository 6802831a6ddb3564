"""One page for a person: the verdict in words, what failed and the way out, then everything else.

The page needs no network and no script. All values are escaped: a column may be called anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.core import pages
from tasks.validate.outcome import in_short, share

_ORDER = {"failed": 0, "warning": 1, "not run": 2, "quarantined": 3, "passed": 4}
_KINDS = {"check": 0, "rule": 1, "column": 2}


def render(results: Mapping[str, Any]) -> str:
    """The page (HTML) of what :func:`~tasks.validate.results.gather` gave."""
    environment = pages.environment("tasks.validate")
    environment.filters |= {"share": share, "count": _count, "rows": _rows, "value": _value}
    outcomes = sorted(results["outcomes"], key=lambda o: (_ORDER[o["outcome"]], _KINDS[o["kind"]]))
    page = environment.get_template("report.html.j2").render(
        results=results, outcomes=outcomes, verdict=_verdict(results)
    )
    return page + "\n"


def _verdict(results: Mapping[str, Any]) -> str:
    counts, aside = results["counts"], results["quarantine"]["rows"]
    if results["verdict"] == "rejected":
        return f"Rejected: {counts['failed']} of {len(results['outcomes'])} rules and checks failed. No row goes on."
    warnings = counts.get("warning", 0)
    words = f"Accepted: {sum(split['rows'] for split in results['splits']):,} of {results['rows']:,} rows go on"
    words += f", {aside:,} are set aside" if aside else ""
    return words + (f"; {warnings} warning{'s' if warnings > 1 else ''}." if warnings else ".")


def _count(value: int) -> str:
    return f"{value:,}"


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _value(value: Any) -> str:
    return "-" if value is None else in_short(value, 60)
