"""How a params file says which rows are for training, for choosing, for the test, and for later."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tasks.core.sections import Section


def moment(value: date | datetime) -> datetime:
    """A date or datetime of a settings file as a moment in UTC: a date is its midnight, no zone means UTC."""
    if not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


Days = Annotated[float, Field(gt=0)]
_MOMENTS = ("validation_from", "test_from", "fresh_from")
_WINDOWS = ("validation_days", "test_days", "fresh_days")


class TimeSplit(Section):
    """Rows in order of time: train before validation before test before fresh.

    The limits are moments (`*_from`), or move along with the snapshot: windows of so many days (`*_days`), counted
    back from `ingest.as_of`.
    """

    by: Literal["time"]
    """Names this way to split."""
    column: str
    """Timestamp or date column."""
    validation_from: date | datetime | None = None
    """First moment of the validation rows; earlier rows are for training."""
    test_from: date | datetime | None = None
    """First moment of the test rows."""
    fresh_from: date | datetime | None = None
    """First moment of the rows that no stage reads: they are kept for retraining."""
    validation_days: Days | None = None
    """Instead of validation_from: length of the window before the test rows."""
    test_days: Days | None = None
    """Instead of test_from: length of the window before the fresh rows or, without these, before ingest.as_of."""
    fresh_days: Days | None = None
    """Instead of fresh_from: length of the last window before ingest.as_of."""

    @property
    def moves(self) -> bool:
        """Whether the limits are counted back from the snapshot's moment."""
        return self.test_days is not None

    @property
    def boundaries(self) -> list[datetime]:
        """First moments of validation, test and (if there is one) fresh, in UTC; of fixed limits."""
        given = (self.validation_from, self.test_from, self.fresh_from)
        return [moment(value) for value in given if value is not None]

    def at(self, as_of: datetime | None) -> TimeSplit:
        """The same split with fixed limits, for the snapshot of a moment (which limits that move need)."""
        if as_of is None or self.validation_days is None or self.test_days is None:
            return self
        fresh = as_of - timedelta(days=self.fresh_days or 0)
        test = fresh - timedelta(days=self.test_days)
        validation = test - timedelta(days=self.validation_days)
        return TimeSplit(
            by="time",
            column=self.column,
            validation_from=validation,
            test_from=test,
            fresh_from=None if self.fresh_days is None else fresh,
        )

    @model_validator(mode="after")
    def _one_way(self) -> TimeSplit:
        moments, windows = (
            [name for name in names if getattr(self, name) is not None] for names in (_MOMENTS, _WINDOWS)
        )
        if moments and windows:
            raise ValueError(f"either moments or days: {', '.join(moments)} and {', '.join(windows)} are given")
        first, second = (_MOMENTS if moments or not windows else _WINDOWS)[:2]
        if first not in moments + windows or second not in moments + windows:
            raise ValueError(f"a split by time needs `{first}` and `{second}`")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> TimeSplit:
        moments = self.boundaries
        if moments != sorted(set(moments)):
            raise ValueError("validation_from < test_from < fresh_from must hold")
        return self


class Shares(Section):
    """Shares of rows; what they leave is for training."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of rows for validation."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of rows for the test."""

    @model_validator(mode="after")
    def _leaves_train(self) -> Shares:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave rows for training")
        return self


class RandomSplit(Shares):
    """Rows at random, seeded by base.seed."""

    by: Literal["random"]
    """Names this way to split."""


class StratifiedSplit(Shares):
    """Rows at random within each class of the target."""

    by: Literal["stratified"]
    """Names this way to split."""


class GroupSplit(Shares):
    """Whole groups at random: no group is in two splits."""

    by: Literal["group"]
    """Names this way to split."""
    column: str
    """Column that names the group."""


class PredefinedSplit(Section):
    """A column that says train, validation, test or fresh."""

    by: Literal["predefined"]
    """Names this way to split."""
    column: str
    """Column with the split's name."""
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the train rows that become validation, within each class, where the column names none."""
    group: str | None = None
    """Column that names a group, which must not be in two splits."""


class LeaveLastSplit(Section):
    """Interactions: each user's last one is for the test, the one before it for validation (ties by seed)."""

    by: Literal["leave_last"]
    """Names this way to split."""


def group_column(split: Mapping[str, Any]) -> str | None:
    """The column of what belongs together, if a split (its settings as JSON values) was made by one."""
    name: str | None = split.get("column") if split["by"] == "group" else split.get("group")
    return name


Split = Annotated[
    TimeSplit | RandomSplit | StratifiedSplit | GroupSplit | PredefinedSplit | LeaveLastSplit,
    Field(discriminator="by"),
]
