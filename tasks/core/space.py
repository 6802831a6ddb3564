"""What a hyperparameter may be in a params file: a fixed value, a range, or a list of choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tasks.core.sections import Section


class FloatRange(Section):
    """A float to search."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Search on a logarithmic scale."""
    points: Annotated[int, Field(ge=2)] = 3
    """How many values the grid sampler takes from this range, ends included."""

    @model_validator(mode="after")
    def _possible(self) -> FloatRange:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must be above 0")
        return self


class Choice(Section):
    """A value out of a list."""

    choices: Annotated[tuple[int | float | str, ...], Field(min_length=1)]
    """The values to search among, all different."""

    @model_validator(mode="after")
    def _distinct(self) -> Choice:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError("choices must be distinct")
        return self


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(type(value), "model_fields", None)
    if keys is None:
        return "value"
    return "choice" if "choices" in keys else "range"


Searched = Annotated[
    Annotated[int | float | str, Tag("value")] | Annotated[FloatRange, Tag("range")] | Annotated[Choice, Tag("choice")],
    Discriminator(_kind),
]


class Whole:
    """Marks a hyperparameter whose values are whole numbers."""


def _every_value(rule: str, fits: Callable[[float], bool]) -> AfterValidator:
    """A fixed number, both ends of a range, and each choice must fit."""

    def check_values(option: int | float | str | FloatRange | Choice) -> int | float | str | FloatRange | Choice:
        if isinstance(option, FloatRange):
            values: tuple[float | str, ...] = (option.low, option.high)
        else:
            values = option.choices if isinstance(option, Choice) else (option,)
        if not all(not isinstance(value, str) and fits(value) for value in values):
            raise ValueError(f"every value must be {rule}")
        return option

    return AfterValidator(check_values)


Rate = Annotated[Searched, _every_value("above 0", lambda value: value > 0)]
Decay = Annotated[Searched, _every_value("at least 0", lambda value: value >= 0)]
Size = Annotated[
    Searched, _every_value("a whole number of at least 1", lambda value: value >= 1 and value % 1 == 0), Whole()
]
Count = Annotated[
    Searched, _every_value("a whole number of at least 0", lambda value: value >= 0 and value % 1 == 0), Whole()
]
Stride = Annotated[Searched, _every_value("1 or 2", lambda value: value in (1, 2)), Whole()]
Dropout = Annotated[Searched, _every_value("at least 0 and below 1", lambda value: 0 <= value < 1)]


def whole(space: type[Section]) -> frozenset[str]:
    """Names of a space's hyperparameters that are whole numbers."""
    fields = space.model_fields.items()
    return frozenset(name for name, field in fields if any(isinstance(mark, Whole) for mark in field.metadata))
