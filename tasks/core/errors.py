"""The one tree of errors. Each says the rule, what was found, and the way out.

::

    AssayError                 1   a bug, should it ever be raised bare
    +-- UsageError             2   a command, a path or the machine is not as required
    |   +-- SettingsError      2   every mistake of a params file, at once
    |   +-- MachineError       2   disk full, folder not writable, no git, no network
    +-- DataRejected           3   the data broke a rule of the suite or of its file format
    +-- NotProven              4   the candidate was not shown to be as good as the original
    +-- IntegrityError         5   an artifact, archive or bundle fails its hash
    +-- PromotionRefused       6   a promotion gate said no

The number is the process's exit code. Codes 3, 4 and 6 are verdicts, not crashes: they are never retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

VERDICT_CODES = frozenset({3, 4, 6})


class AssayError(Exception):
    """Base of every error that Assay raises on purpose.

    Args:
        rule: what has to hold.
        found: what was found instead.
        way_out: what the reader can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, rule: str, found: str, way_out: str) -> None:
        super().__init__(rule, found, way_out)
        self.rule = rule
        self.found = found
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.rule}\n  found:   {self.found}\n  way out: {self.way_out}"


class UsageError(AssayError):
    """A command, a path or the machine is not as required."""

    exit_code = 2


class MachineError(UsageError):
    """The machine refuses: disk full, folder not writable, no git, no network."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file of settings: which key, what stands there, the rule, the way out."""

    key: str
    value: str
    rule: str
    way_out: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value}\n    rule:    {self.rule}\n    way out: {self.way_out}"


class SettingsError(UsageError):
    """Every mistake found in one file of settings (``mistakes``, never empty)."""

    def __init__(self, path: str, mistakes: Sequence[Mistake]) -> None:
        super().__init__(
            f"{path} must follow its schema",
            f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}",
            "correct each line below; params.schema.json describes every key",
        )
        self.path = path
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        return f"{super().__str__()}\n{lines}"


class DataRejected(AssayError):
    """The data broke a rule of the suite or of its own file format."""

    exit_code = 3


class NotProven(AssayError):
    """The candidate was not shown to be as good as the original."""

    exit_code = 4


class IntegrityError(AssayError):
    """An artifact, archive or bundle is not what its hash says."""

    exit_code = 5


class PromotionRefused(AssayError):
    """A promotion gate said no."""

    exit_code = 6
