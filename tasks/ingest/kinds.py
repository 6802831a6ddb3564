"""The five column types, how they widen, and how texts and Arrow arrays become them.

A kind is one of "bool", "int64", "float64", "string", "timestamp" (microseconds, UTC), or "null" while every value seen
so far is missing. Kinds widen along null < bool < string, null < int64 < float64 < string and
null < timestamp < string, so the kind of a column does not depend on where a file happens to be cut into blocks.
"""

from __future__ import annotations

from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import DataRejected

NULL = "null"

_UTC = pa.timestamp("us", tz="UTC")
_ARROW = {
    NULL: pa.float64(),  # a column without any value: numbers, all of them missing
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "timestamp": _UTC,
}
#: A text is read as the first of these that fits all of them. Integers come first: 0 and 1 are numbers.
_GUESSES = ("int64", "bool", "float64", "timestamp")
#: A cast that fails builds an error for every value that does not fit, so a few values are tried first.
_HEAD = 64
_EXACT_IN_FLOAT64 = 2.0**53
_ENDS_IN_A_ZONE = r":\d\d.*(Z|[+-]\d\d(:?\d\d)?)$"


class Misfit(Exception):
    """A value is not of the kind its column has.

    Attributes:
        column: the column's name.
        kind: the kind that was expected.
        value: the first value that does not fit, as text.
        index: its place in the array that was converted.
    """

    def __init__(self, column: str, kind: str, value: str, index: int) -> None:
        super().__init__(column, kind, value, index)
        self.column = column
        self.kind = kind
        self.value = value
        self.index = index

    def rejection(self, where: str) -> DataRejected:
        """The error for a column whose type may not widen; ``where`` names file and row."""
        return DataRejected(
            f"column `{self.column}` must hold {self.kind} values",
            f"{where}: {self.value!r}",
            f"correct the value, give `{self.column}` another type under ingest.types, or (in a CSV file) add the "
            "text to ingest.null_values if it means that the value is missing",
        )


def final(kind: str) -> str:
    """The type's name in a finished schema: one of the five."""
    return "float64" if kind == NULL else kind


def arrow_schema(columns: dict[str, str]) -> pa.Schema:
    """The Arrow schema of name -> kind."""
    return pa.schema([(name, _ARROW[kind]) for name, kind in columns.items()])


def join(*kinds: str) -> str:
    """The narrowest kind that holds the values of all."""

    def two(left: str, right: str) -> str:
        if right in (left, NULL):
            return left
        if left == NULL:
            return right
        return "float64" if {left, right} == {"int64", "float64"} else "string"

    return reduce(two, kinds, NULL)


def kind_of_texts(texts: pa.Array) -> str:
    """The narrowest kind that holds every text (string array, missing values are null)."""
    if texts.null_count == len(texts):
        return NULL
    return next((kind for kind in _GUESSES if fits(texts, kind)), "string")


def fits(texts: pa.Array, kind: str) -> bool:
    """Whether every text is of an inferred kind."""
    try:
        _parsed(texts.slice(0, _HEAD), kind, inferred=True)
        _parsed(texts, kind, inferred=True)
    except pa.ArrowInvalid:
        return False
    return True


def from_texts(texts: pa.Array, kind: str, column: str, *, inferred: bool) -> pa.Array:
    """Parse texts.

    Args:
        texts: string array; missing values are null.
        kind: what to make of them. Spaces around a number are ignored. Timestamps are ISO 8601 dates, or dates with
            a time of at most microseconds; without a zone they are UTC.
        column: the column's name, for the message.
        inferred: whether the kind is a guess. Then 0 and 1 are not booleans, and a whole number that float64 cannot
            hold exactly (an identifier, most often) is no float64.

    Raises:
        Misfit: naming the first text that is not of that kind.
    """
    try:
        return _parsed(texts, kind, inferred)
    except pa.ArrowInvalid:
        index = _first_misfit(texts, kind, inferred)
        raise Misfit(column, kind, texts[index].as_py(), index) from None


def _parsed(texts: pa.Array, kind: str, inferred: bool) -> pa.Array:
    if kind == "string":
        return texts
    if kind == NULL:
        if texts.null_count < len(texts):
            raise pa.ArrowInvalid("a value where all were missing")
        return pa.nulls(len(texts), _ARROW[NULL])
    if kind == "timestamp":
        return _timestamps(texts)
    values = _numbers(texts, _ARROW[kind])
    if inferred and kind == "bool" and pc.any(pc.match_substring_regex(texts, r"\d")).as_py():
        raise pa.ArrowInvalid("0 and 1 are numbers")
    if inferred and kind == "float64":
        _refuse_rounded_integers(texts, values)
    return values


def _numbers(texts: pa.Array, data_type: pa.DataType) -> pa.Array:
    try:
        pc.cast(texts.slice(0, _HEAD), data_type)
        return pc.cast(texts, data_type)
    except pa.ArrowInvalid:
        return pc.cast(pc.utf8_trim_whitespace(texts), data_type)


def _timestamps(texts: pa.Array) -> pa.Array:
    if pc.all(pc.ends_with(texts, "Z")).as_py():
        return pc.cast(texts, _UTC)
    zoned = pc.match_substring_regex(texts, _ENDS_IN_A_ZONE)
    missing = pa.scalar(None, pa.string())
    local = pc.cast(pc.if_else(zoned, missing, texts), pa.timestamp("us")).cast(_UTC)
    return pc.coalesce(pc.cast(pc.if_else(zoned, texts, missing), _UTC), local)


def _refuse_rounded_integers(texts: pa.Array, values: pa.Array) -> None:
    large = pc.greater_equal(pc.abs(values), _EXACT_IN_FLOAT64)
    if not pc.any(large).as_py():
        return
    for text in (text.strip() for text in texts.filter(large).to_pylist()):
        if text.lstrip("+-").isdecimal() and int(text) != int(float(text)):
            raise pa.ArrowInvalid(f"{text} is not exact in float64")


def _first_misfit(texts: pa.Array, kind: str, inferred: bool) -> int:
    """Index of the first text that :func:`_parsed` refuses, by bisection. At least one must be."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _parsed(texts.slice(low, middle - low), kind, inferred)
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def kind_of_type(data_type: pa.DataType) -> str | None:
    """The kind of an Arrow type's values, or None if there is none (nested, binary, durations, times of day)."""
    types = pa.types
    if types.is_dictionary(data_type):
        return kind_of_type(data_type.value_type)
    tests = {
        NULL: types.is_null,
        "bool": types.is_boolean,
        "int64": types.is_integer,
        "float64": lambda t: types.is_floating(t) or types.is_decimal(t),
        "string": lambda t: types.is_string(t) or types.is_large_string(t) or types.is_string_view(t),
        "timestamp": lambda t: types.is_timestamp(t) or types.is_date(t),
    }
    return next((kind for kind, test in tests.items() if test(data_type)), None)


def from_array(array: pa.Array, kind: str, column: str, *, inferred: bool) -> pa.Array:
    """Convert an Arrow array whose type has a kind. NaN becomes null: a missing value has one spelling.

    Finer than microseconds is cut off; a timestamp without a zone is UTC.

    Raises:
        Misfit: naming the first value that does not fit ``kind``.
    """
    own = kind_of_type(array.type)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if own == NULL:
        return pa.nulls(len(array), _ARROW[kind])
    if own == "string" and kind != "string":
        return from_texts(pc.cast(array, pa.string()), kind, column, inferred=inferred)
    if own == "float64":
        array = _without_nan(pc.cast(array, pa.float64()))
    try:
        return _converted(array, str(own), kind, inferred)
    except pa.ArrowInvalid:
        index = next(i for i in range(len(array)) if not _one_fits(array.slice(i, 1), str(own), kind, inferred))
        raise Misfit(column, kind, str(array[index].as_py()), index) from None


def _converted(array: pa.Array, own: str, kind: str, inferred: bool) -> pa.Array:
    if kind == "timestamp" and own != "timestamp":
        raise pa.ArrowInvalid("a number has no unit of time")
    if own == "timestamp" and kind not in ("timestamp", "string"):
        raise pa.ArrowInvalid("a time is not a number")
    if own == "timestamp":
        array = pc.cast(array, pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False).cast(_UTC)
    if kind == "bool" and own != "bool":
        whole = pc.cast(array, pa.int64())
        if not pc.all(pc.is_in(whole, pa.array([0, 1, None], pa.int64()))).as_py():
            raise pa.ArrowInvalid("only 0 and 1 are booleans")
        return pc.cast(whole, pa.bool_())
    return pc.cast(array, _ARROW[kind], safe=inferred or kind != "float64")


def _one_fits(array: pa.Array, own: str, kind: str, inferred: bool) -> bool:
    try:
        _converted(array, own, kind, inferred)
    except pa.ArrowInvalid:
        return False
    return True


def _without_nan(array: pa.Array) -> pa.Array:
    nan = pc.is_nan(array)
    return pc.if_else(nan, pa.scalar(None, array.type), array) if pc.any(nan).as_py() else array
