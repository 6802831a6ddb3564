"""The root of Assay's one tree of errors, and the branches that serving needs; the rest is in tasks.core.errors."""

from __future__ import annotations

from typing import ClassVar


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
    """The machine refuses: disk full, folder not writable, no git, no network, no CUDA device."""


class DataRejected(AssayError):
    """The data broke a rule of the suite, of its own file format, or of the model's signature."""

    exit_code = 3


class IntegrityError(AssayError):
    """An artifact, archive or bundle is not what its hash says."""

    exit_code = 5
