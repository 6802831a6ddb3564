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

The number is the process's exit code. The root and what serving needs live in :mod:`deploy.errors`.
Codes 3, 4 and 6 are verdicts, not crashes: they are never retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.errors import AssayError, DataRejected, IntegrityError, MachineError, UsageError

__all__ = [
    "VERDICT_CODES",
    "AssayError",
    "DataRejected",
    "IntegrityError",
    "MachineError",
    "Mistake",
    "NotProven",
    "PromotionRefused",
    "SettingsError",
    "UsageError",
]

VERDICT_CODES = frozenset({3, 4, 6})


@dataclass(frozen=True)
class Mistake:
    """One mistake in a file of settings: which key, what stands there, the rule, the way out."""

    key: str
    value: str
    rule: str
    way_out: str
    line: int | None = None

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        return f"{self.key} = {self.value}{where}\n    rule:    {self.rule}\n    way out: {self.way_out}"


class SettingsError(UsageError):
    """Every mistake found in one file of settings (``mistakes``, never empty)."""

    def __init__(self, path: str, mistakes: Sequence[Mistake], schema: str = "params.schema.json") -> None:
        super().__init__(
            f"{path} must follow its schema",
            f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}",
            f"correct each line below; {schema} describes every key",
        )
        self.path = path
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        lines = "\n".join(f"  - {mistake}" for mistake in self.mistakes)
        return f"{super().__str__()}\n{lines}"


class NotProven(AssayError):
    """The candidate was not shown to be as good as the original."""

    exit_code = 4


class PromotionRefused(AssayError):
    """A promotion gate said no."""

    exit_code = 6
