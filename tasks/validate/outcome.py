"""What became of one check or rule, in words and in numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any, Literal

Verdict = Literal["passed", "failed", "warning", "quarantined", "not run"]


@dataclass(frozen=True)
class Outcome:
    """One line of the report.

    Attributes:
        kind: "rule" (holds for every suite), "column" (the suite's list of columns) or "check".
        name: the rule in words, or the check's standard name.
        column: what it is about; None if it is about the whole table.
        severity: "error" or "warning".
        outcome: what came out; "failed" rejects the run.
        found: one sentence: what was found.
        way_out: what the reader can do; empty if nothing has to be done.
        because: why it has to hold, in the suite's words.
        arguments: the check's own arguments, as the suite has them.
        observed: the observed value, a JSON value.
        unexpected_count: rows or values that fail (checks that judge each row).
        unexpected_share: the same as a share of the rows looked at.
        examples: a few failing values, JSON values.
    """

    kind: Literal["rule", "column", "check"]
    name: str
    outcome: Verdict
    found: str
    column: str | None = None
    severity: Literal["error", "warning"] = "error"
    way_out: str = ""
    because: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    observed: Any = None
    unexpected_count: int | None = None
    unexpected_share: float | None = None
    examples: tuple[Any, ...] = ()

    @property
    def title(self) -> str:
        """The check in words: "distance: values must be between (min_value 1, max_value 6000)"."""
        words = _in_words(self.name, self.column) if self.kind == "check" else self.name
        arguments = {key: plain(value) for key, value in self.arguments.items() if key != "column"}
        given = ", ".join(f"{key} {in_short(value)}" for key, value in arguments.items() if value is not None)
        about = f"{self.column}: " if self.column else ""
        return f"{about}{words}" + (f" ({given})" if given else "")

    def as_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {key: plain(value) for key, value in asdict(self).items()}


def rule(name: str, holds: bool, found: str, way_out: str, column: str | None = None) -> Outcome:
    """The outcome of a rule that holds for every suite."""
    return Outcome("rule", name, "passed" if holds else "failed", found, column, way_out="" if holds else way_out)


def plain(value: Any) -> Any:
    """The JSON value nearest to one of numpy's, pandas' or Python's; what is missing or not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # numpy: a scalar or an array
        return plain(value.tolist())
    return _plain_scalar(value)


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = value.isoformat() if isinstance(value, date) else str(value)
    return None if text in ("<NA>", "NaT") else text


def in_short(value: Any, most: int = 200) -> str:
    """A JSON value as text: six digits of a float, at most so many characters."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def share(value: float) -> str:
    """A share as a percentage: one decimal, or two digits if it is small."""
    percent = 100 * value
    return f"{percent:.2g} %" if 0 < percent < 0.95 else f"{percent:.1f} %"


def _in_words(name: str, column: str | None) -> str:
    words = name.removeprefix("expect_").replace("_", " ")
    words = words.removeprefix("column ") if column else words
    return words.replace(" to not ", " must not ", 1).replace(" to ", " must ", 1)
