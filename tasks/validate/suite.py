"""The suite: a YAML file of checks that a person can read, and a frozen tree of the same shape.

Three kinds of entries stand in its list of checks: any Great Expectations expectation by its standard name with its
own arguments, ``newest_row`` (how fresh the rows are) and ``target_balance`` (how rare a class may be).
``python -m tasks.validate.schema`` prints the JSON Schema that editors complete from (``suite.schema.json``).
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from tasks.core.errors import Mistake
from tasks.core.sections import Section, check, read_yaml, settings_error

SCHEMA = "suite.schema.json"

ColumnType = Literal["bool", "int64", "float64", "string", "timestamp"]
Severity = Literal["error", "warning"]
Share = Annotated[float, Field(ge=0, le=1)]


class Entry(Section):
    """What every check has."""

    severity: Severity = "error"
    """A failed `error` rejects the run, a failed `warning` is only reported."""
    because: str = ""
    """Why this has to hold: shown with the result, and with quarantined rows."""


class Expectation(Entry):
    """A Great Expectations expectation: its name, its own arguments beside it, and what its failure means."""

    model_config = ConfigDict(extra="allow")

    expect: Annotated[str, Field(pattern="^expect_")]
    """Standard name, for example `expect_column_values_to_be_between`."""
    rows: Literal["keep", "quarantine"] = "keep"
    """`quarantine` sets the failing rows aside with the reason, instead of failing the check (row-level checks)."""

    @model_validator(mode="after")
    def _quarantine_is_an_error(self) -> Expectation:
        if self.rows == "quarantine" and self.severity == "warning":
            raise ValueError("`rows: quarantine` goes with `severity: error`; a warning leaves the rows where they are")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the expectation, as the file has them (dates as ISO texts)."""
        return dict(self.model_extra or {})


class NewestRow(Entry):
    """How old the newest row may be."""

    expect: Literal["newest_row"]
    column: str
    """Timestamp column."""
    not_older_than_days: Annotated[float, Field(gt=0, le=36_500)]
    """Largest age of the newest row, in days."""
    as_of: date | datetime | None = None
    """The age is counted from here (UTC if no zone is given); null counts from the moment of the run."""


class TargetBalance(Entry):
    """Share of rows of the positive class (the second of two in sorted order), or of each class; null targets aside."""

    expect: Literal["target_balance"]
    min_share: Share = 0.0
    """Smallest share that is fit for training."""
    max_share: Share = 1.0
    """Largest share that is fit for training."""

    @model_validator(mode="after")
    def _ordered(self) -> TargetBalance:
        if self.min_share > self.max_share:
            raise ValueError("min_share must not be above max_share")
        return self


_OWN = ("newest_row", "target_balance")


def _kind(value: Any) -> str:
    name = value.get("expect") if isinstance(value, dict) else getattr(value, "expect", None)
    return name if name in _OWN else "expectation"


Check = Annotated[
    Annotated[Expectation, Tag("expectation")]
    | Annotated[NewestRow, Tag("newest_row")]
    | Annotated[TargetBalance, Tag("target_balance")],
    Discriminator(_kind),
]


class Suite(Section):
    """What must be true of the rows before anything is learnt from them."""

    columns: dict[str, ColumnType] = {}  # noqa: RUF012 (pydantic copies it)
    """Columns that must be there, each with its type. Others may be there too."""
    checks: tuple[Check, ...] = ()
    """Checks, in the order in which they are reported."""


def load(path: Path, columns: dict[str, str], engine: str = "pandas") -> Suite:
    """Read a suite and check all of it, the expectations' own arguments included.

    Args:
        path: the YAML file.
        columns: name -> type of the snapshot's columns (a check may name these and the suite's own).
        engine: ``validate.engine``, which must be able to judge the checks.

    Raises:
        UsageError: if the file is absent or not YAML.
        SettingsError: listing every mistake: unknown keys, expectations, arguments and columns.
    """
    from tasks.validate import batchable
    from tasks.validate.expectations import mistakes_in

    raw = read_yaml(path, "the suite of checks", "write it, or correct validate.suite in the params file")
    suite, mistakes = check(Suite, raw, SCHEMA)
    mistakes += mistakes_in(raw, columns)
    if engine == "duckdb":
        mistakes += batchable.mistakes_in(raw)
    mistakes = _without_duplicates(mistakes)
    if suite is None or mistakes:
        raise settings_error(str(path), mistakes, SCHEMA)
    return suite


def _without_duplicates(mistakes: list[Mistake]) -> list[Mistake]:
    return list({mistake.key: mistake for mistake in reversed(mistakes)}.values())[::-1]


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a suite."""
    return Suite.model_json_schema(by_alias=True)
