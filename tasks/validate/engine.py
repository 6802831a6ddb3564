"""Great Expectations, reduced to what is needed: expectations about one pandas frame, aggregates first.

Which frames it is given is the choice of ``validate.engine``: see :mod:`tasks.validate.in_memory` and
:mod:`tasks.validate.in_batches`.

The BASIC result format counts the failing rows and shows a few of them. Only when rows are to be set aside are their
numbers fetched, and then without the values and without the query text that Great Expectations would make of them.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import AssayError
from tasks.validate.snapshot import Mask, Snapshot
from tasks.validate.suite import Check

#: Failing values that are shown.
EXAMPLES = 5
#: What is asked for: counts, and a few of the failing values.
_COUNTS = {"result_format": "BASIC", "partial_unexpected_count": EXAMPLES}
_ROW_NUMBERS = {
    "result_format": "COMPLETE",
    "partial_unexpected_count": 0,
    "exclude_unexpected_values": True,
    "return_unexpected_index_query": False,
}
_ERROR_NAMES = re.compile(r"^(?:\w+\.)*(\w+): ", re.MULTILINE)
_MEMORY = frozenset({"MemoryError", "ArrowMemoryError", "_ArrayMemoryError", "OutOfMemoryException"})
#: Errors that arguments can cause which do not fit the column or the engine.
_OF_THE_SUITE = frozenset(
    {"TypeError", "ValueError", "NameError", "SyntaxError", "UndefinedVariableError", "NotImplementedError", "error",
     "PatternError", "OverflowError", "MetricProviderError", "MetricComputationError", "ParserError", "DataError",
     "ArrowInvalid", "ArrowNotImplementedError", "InvalidExpectationConfigurationError", "ZeroDivisionError"}
)  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What Great Expectations says of one expectation.

    Attributes:
        success: whether it holds.
        details: its result dictionary ("observed_value", or "unexpected_count", "element_count", ...).
        raised: None, or what went wrong: such an expectation neither holds nor fails.
        by_suite: whether what went wrong is of a kind that a suite's arguments cause.
        original: Great Expectations' own result object; None if there is none.
        failing: int64 row numbers that fail it, ascending, if they were asked for.
    """

    success: bool
    details: Mapping[str, Any]
    raised: str | None
    by_suite: bool
    original: Any
    failing: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Planned:
    """A check that can be run: its place in the suite and its Great Expectations object."""

    number: int
    check: Check
    expectation: Any


class Judging(Protocol):
    """A way to put checks to the rows of a snapshot: what ``validate.engine`` chooses."""

    def validate(
        self, snapshot: Snapshot, planned: Sequence[Planned], keep: Mask | None = None, most: int = 0
    ) -> Iterator[tuple[Planned, Result]]:
        """Each check with its result.

        Args:
            snapshot: the rows.
            planned: the checks.
            keep: bool [rows], the rows to look at; None takes all.
            most: name the failing rows of a check that fails on so many at most (``keep`` is None then).

        Raises:
            MemoryError: if the rows that a check needs do not fit into memory.
        """

    def distinct(self, snapshot: Snapshot, column: str) -> int:
        """Number of distinct values of a column, without null and NaN."""


class Engine:
    """An ephemeral context with the pandas engine, no analytics and no progress bars of its own."""

    def __init__(self) -> None:
        os.environ["GX_ANALYTICS_ENABLED"] = "false"
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig
        from great_expectations.execution_engine import pandas_execution_engine

        # It would hash every frame below this size, twice, for a fingerprint that nobody reads: a quarter of the time.
        pandas_execution_engine.HASH_THRESHOLD = 0
        # It logs every exception that it also returns.
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self.context = gx.get_context(mode="ephemeral")
        self.context.enable_analytics(False)
        self.context.variables.progress_bars = ProgressBarsConfig(globally=False)

    def validate(self, frame: Any, expectations: Mapping[int, Any]) -> dict[int, Result]:
        """Judge one ``pandas.DataFrame``.

        Args:
            frame: the rows, with a plain range index.
            expectations: number -> expectation, made with ``meta={"number": number}`` (results come in another order).

        Raises:
            AssayError: if an expectation got no result (a bug).
        """
        found = {r.expectation_config.meta["number"]: _result(r) for r in self._run(frame, expectations, _COUNTS)}
        if found.keys() != expectations.keys():
            missing = sorted(expectations.keys() - found.keys())
            raise AssayError("every check must get a result", f"checks {missing} got none", "report this as a bug")
        return found

    def failing_rows(self, frame: Any, number: int, expectation: Any, count: int) -> NDArray[np.int64]:
        """Row numbers (ascending) of the ``count`` rows that fail a row-level expectation.

        Raises:
            AssayError: if Great Expectations names another number of rows than it counted (a bug).
        """
        result = _result(self._run(frame, {number: expectation}, _ROW_NUMBERS)[0])
        rows = np.unique(np.asarray(result.details.get("unexpected_index_list", []), dtype=np.int64))
        if len(rows) != count:
            found = f"check {number} counted {count} failing rows and named {len(rows)}"
            found += f": {result.raised}" if result.raised else ""
            raise AssayError("a count of failing rows must agree with the rows", found, "report this as a bug")
        return rows

    def _run(self, frame: Any, expectations: Mapping[int, Any], result_format: dict[str, Any]) -> list[Any]:
        import great_expectations as gx

        # A data source keeps what it computed for as long as it lives, whatever frame comes next: one for each frame.
        asset = self.context.data_sources.add_pandas("rows").add_dataframe_asset("snapshot")
        try:
            batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
            suite = gx.ExpectationSuite(name="checks", expectations=list(expectations.values()))
            return list(batch.validate(suite, result_format=result_format).results)
        finally:
            self.context.data_sources.delete("rows")


@contextmanager
def cheap_collection() -> Iterator[None]:
    """Make full garbage collections cheap for the length of the block, so that one can follow each frame.

    Great Expectations leaves frames and columns in reference cycles, few in number and large in bytes, and Python's
    collector sees no reason to come by. What exists at the start (mostly modules) is left out of the collections.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def let_go() -> None:
    """Give back the memory of frames that nobody uses any more."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()


def verdict(
    expectation: Any, metric: Callable[[str, Mapping[str, Any]], Any], failing: NDArray[np.int64] | None = None
) -> Result:
    """What Great Expectations says of an expectation, from figures that were computed elsewhere.

    Args:
        expectation: the expectation.
        metric: gives a figure, from the metric's name and arguments. :class:`TypeError` or :class:`ValueError` if the
            column has none.
        failing: int64 row numbers that fail it, if they were asked for.
    """
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine

    engine, formats = PandasExecutionEngine(), {"result_format": _COUNTS}
    needed = expectation.get_validation_dependencies(engine, dict(formats)).get_metric_configurations()
    try:
        figures = {one.id: metric(one.metric_name, one.metric_value_kwargs) for one in needed}
        original = expectation.metrics_validate(figures, dict(formats), engine)
    except (TypeError, ValueError) as error:
        return could_not(error)
    return replace(_result(original), failing=failing)


def could_not(error: BaseException) -> Result:
    """The result of a check that could not be evaluated, outside Great Expectations."""
    return Result(False, {}, " ".join(str(error).split()), type(error).__name__ in _OF_THE_SUITE, None)


def _result(original: Any) -> Result:
    details = original.exception_info or {}
    # One exception of the expectation itself, or one for each metric that it needed.
    exceptions = [details] if "raised_exception" in details else list(details.values())
    raised = [e for e in exceptions if e["raised_exception"]]
    if not raised:
        original.success = bool(original.success)  # Data Docs cannot write numpy's own
        return Result(original.success, original.result or {}, None, False, original)
    names = set(_ERROR_NAMES.findall(str(raised[0]["exception_traceback"])))
    if names & _MEMORY:
        raise MemoryError(str(raised[0]["exception_message"]))
    text = " ".join(str(raised[0]["exception_message"]).split())
    return Result(False, {}, text, bool(names & _OF_THE_SUITE), original)
