"""What a hyperparameter may be in a params file: a fixed value, a range, or a list of choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from tasks.core.sections import Section

Value = int | float | str


class Searchable(Section):
    """A hyperparameter that is searched, always or on a condition."""

    when: Annotated[dict[str, tuple[Value, ...]], Field(min_length=1)] | None = None
    """Search it only where other hyperparameters have one of these values, as in `when: {layers: [2, 3]}`."""
    otherwise: Value | None = None
    """Its value where it is not searched."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> Searchable:
        if (self.when is None) != (self.otherwise is None):
            raise ValueError("`when` and `otherwise` come together: a condition, and the value where it does not hold")
        if self.when is not None and not all(self.when.values()):
            raise ValueError("each hyperparameter under `when` needs at least one value")
        return self


class FloatRange(Searchable):
    """A number to search: a whole one where the hyperparameter is (a size, a count)."""

    low: float
    """Least value."""
    high: float
    """Greatest value."""
    log: bool = False
    """Search on a logarithmic scale."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Distance of the values to choose from, from `low` on; null means any."""
    points: Annotated[int, Field(ge=2)] = 3
    """How many values the grid sampler takes from this range, ends included."""

    @model_validator(mode="after")
    def _possible(self) -> FloatRange:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range must be above 0")
        if self.log and self.step is not None:
            raise ValueError("a range is either logarithmic or in steps")
        if self.step is not None and not _divides(self.step, self.high - self.low):
            raise ValueError("high must be a whole number of steps above low")
        return self


def _divides(step: float, length: float) -> bool:
    return abs(length / step - round(length / step)) < 1e-9 and length >= step


class Choice(Searchable):
    """A value out of a list."""

    choices: Annotated[tuple[Value, ...], Field(min_length=1)]
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
    Annotated[Value, Tag("value")] | Annotated[FloatRange, Tag("range")] | Annotated[Choice, Tag("choice")],
    Discriminator(_kind),
]


class Whole:
    """Marks a hyperparameter whose values are whole numbers."""


def _every_value(rule: str, fits: Callable[[float], bool], whole_numbers: bool = False) -> AfterValidator:
    """A fixed number, both ends of a range, each choice, and what holds otherwise must fit."""

    def check_values(option: Value | FloatRange | Choice) -> Value | FloatRange | Choice:
        if isinstance(option, FloatRange):
            values: tuple[Value, ...] = (option.low, option.high)
        else:
            values = option.choices if isinstance(option, Choice) else (option,)
        if isinstance(option, Searchable) and option.otherwise is not None:
            values = (*values, option.otherwise)
        if not all(not isinstance(value, str) and fits(value) for value in values):
            raise ValueError(f"every value must be {rule}")
        if whole_numbers and isinstance(option, FloatRange) and (option.step or 1) % 1:
            raise ValueError("the step between whole numbers is a whole number")
        return option

    return AfterValidator(check_values)


Rate = Annotated[Searched, _every_value("above 0", lambda value: value > 0)]
Decay = Annotated[Searched, _every_value("at least 0", lambda value: value >= 0)]
Size = Annotated[
    Searched, _every_value("a whole number of at least 1", lambda value: value >= 1 and value % 1 == 0, True), Whole()
]
Count = Annotated[
    Searched, _every_value("a whole number of at least 0", lambda value: value >= 0 and value % 1 == 0, True), Whole()
]
Stride = Annotated[Searched, _every_value("1 or 2", lambda value: value in (1, 2), True), Whole()]
Dropout = Annotated[Searched, _every_value("at least 0 and below 1", lambda value: 0 <= value < 1)]


def whole(space: type[Section]) -> frozenset[str]:
    """Names of a space's hyperparameters that are whole numbers."""
    fields = space.model_fields.items()
    return frozenset(name for name, field in fields if any(isinstance(mark, Whole) for mark in field.metadata))


def options(space: Section) -> dict[str, Value | FloatRange | Choice]:
    """Every hyperparameter of a space: a fixed value, a range or a list; one that others wait for comes before them."""
    found = {name: getattr(space, name) for name in type(space).model_fields}
    ordered: dict[str, Value | FloatRange | Choice] = {}

    def place(name: str) -> None:
        if name not in ordered:
            for other in _conditions(found[name]):
                place(other)
            ordered[name] = found[name]

    for name in found:
        place(name)
    return ordered


def holds(option: Searchable, values: Mapping[str, Value]) -> bool:
    """Whether a hyperparameter is to be searched, given the values of those that it waits for."""
    return all(values[name] in wanted for name, wanted in (option.when or {}).items())


def impossible(space: Section) -> list[str]:
    """What is wrong with the conditions of a space; the rest its fields have checked one by one."""
    found = {name: getattr(space, name) for name in type(space).model_fields}
    return [problem for name in found for problem in _problems(name, found, whole(type(space)))]


def _problems(name: str, found: Mapping[str, Any], wholes: frozenset[str]) -> Iterator[str]:
    for other, wanted in _conditions(found[name]).items():
        if other not in found:
            yield f"{name} waits for {other}, which is no hyperparameter"
        elif _waits_for_itself(name, found):
            yield f"{name} waits for itself"
            return
        elif strange := [value for value in wanted if not _may_be(found[other], value, other in wholes)]:
            yield f"{name} waits for {other} to be {', '.join(map(str, strange))}, which it never is"


def _conditions(option: Any) -> Mapping[str, tuple[Value, ...]]:
    return (option.when or {}) if isinstance(option, Searchable) else {}


def _waits_for_itself(name: str, found: Mapping[str, Any]) -> bool:
    seen: set[str] = set()
    ahead = [name]
    while ahead:
        for other in _conditions(found.get(ahead.pop())):
            if other == name:
                return True
            if other not in seen:
                seen.add(other)
                ahead.append(other)
    return False


def _may_be(option: Any, value: Value, is_whole: bool) -> bool:
    """Whether a hyperparameter can have exactly this value; a fraction out of a range hardly ever is any."""
    if isinstance(option, Searchable) and value == option.otherwise:
        return True
    if isinstance(option, Choice):
        return value in option.choices
    if isinstance(option, FloatRange):
        if isinstance(value, str) or not is_whole or value % 1:
            return False
        return option.low <= value <= option.high and (value - option.low) % (option.step or 1) == 0
    return bool(option == value)


def has_range(space: Section) -> bool:
    """Whether any hyperparameter is searched between two numbers."""
    return any(isinstance(getattr(space, name), FloatRange) for name in type(space).model_fields)
