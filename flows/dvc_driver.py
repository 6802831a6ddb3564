"""Drives DVC: one ``Repo.reproduce`` for the whole pipeline, with a hook around each stage.

DVC decides what runs, owns the cache and writes ``dvc.lock``, exactly as ``dvc repro`` does. This module knows nothing
of Prefect: it calls ``conduct`` once per stage, and ``conduct`` calls back to have the stage done.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from flows.dvc_rwlock import forget_dead_owners
from flows.pipeline import Pipeline
from tasks.core import files
from tasks.core.errors import AssayError, DataRejected, IntegrityError, NotProven, PromotionRefused, UsageError
from tasks.core.log import log_file
from tasks.core.process import DRIVER_VARIABLE


class Outcome(Enum):
    """What became of a stage that ended well."""

    UNCHANGED = "unchanged"
    RAN = "ran"


class StageCrashed(AssayError):
    """A stage ended without a verdict: a bug, or killed from outside."""

    exit_code: ClassVar[int] = 1


#: Has one stage done, and returns what became of it; raises the stage's :class:`AssayError`.
StageDone = Callable[[], Outcome]
#: Called for each stage with its name and the way to have it done.
Conduct = Callable[[str, StageDone], None]

_MEANING: dict[int, tuple[type[AssayError], str]] = {
    2: (UsageError, "settings or usage"),
    3: (DataRejected, "the data was rejected"),
    4: (NotProven, "not proven to be as good as the original"),
    5: (IntegrityError, "an artifact is not what its hash says"),
    6: (PromotionRefused, "promotion was refused"),
}


def reproduce(
    pipeline: Pipeline,
    conduct: Conduct,
    forced: Callable[[str], bool] = lambda _: False,
    until: str | None = None,
) -> None:
    """Bring every stage of ``pipeline`` up to date, in DVC's order.

    Args:
        pipeline: what to run; no other pipeline of the repository is touched.
        conduct: called for every stage, unchanged ones included.
        forced: tells, when a stage's turn comes, whether it has to run even if nothing changed.
        until: the last stage to run; None runs all.

    Raises:
        AssayError: the failed stage's own error, by its exit code; :class:`StageCrashed` for any other end;
            UsageError for what DVC itself objects to.
    """
    from dvc.exceptions import ReproductionError
    from dvc.repo import Repo

    # Private, hence pinned in pyproject.toml and watched by a contract test. The way without it, at the same cost:
    # for each stage `Repo(root).reproduce(f"{dvc_yaml}:{stage}", single_item=True, force=...)`.
    from dvc.repo.reproduce import _reproduce_stage

    def hook(stage: Any, force: bool = False, **options: Any) -> Any:
        log = log_file(pipeline.artifacts, stage.name)
        result = None

        def done() -> Outcome:
            nonlocal result
            with _stage_errors(stage.name, log):
                result = _reproduce_stage(stage, force=force or forced(stage.name), **options)
            return Outcome.UNCHANGED if result is None else Outcome.RAN

        conduct(stage.name, done)
        return result

    _quieten()
    with dvc_errors(), files.machine_errors(pipeline.repo / ".dvc"):
        forget_dead_owners(pipeline.repo)
        with Repo(str(pipeline.repo)) as repo:
            try:
                target = f"{pipeline.dvc_yaml}:{until}" if until else str(pipeline.dvc_yaml)
                repo.reproduce(target, repro_fn=hook, run_env=_stage_environment())
            except ReproductionError as error:
                if error.__cause__ is None:
                    raise
                raise error.__cause__  # noqa: B904 (the wrapper says nothing that its cause does not)


def _quieten() -> None:
    """DVC's lines about stages would stand between the stages' own; its warnings are shown, once."""
    logger = logging.getLogger("dvc")
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def _stage_environment() -> dict[str, str]:
    """A stage's `python` is this one, also when no virtual environment is active; it ends with this process."""
    folder = str(Path(sys.executable).parent)
    return {
        "PATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PATH")])]),
        DRIVER_VARIABLE: str(os.getpid()),
    }


@contextmanager
def _stage_errors(stage: str, log: Path) -> Iterator[None]:
    from dvc.stage.exceptions import StageCmdFailedError

    try:
        yield
    except StageCmdFailedError as error:
        raise stage_error(stage, exit_status(str(error)), log) from None
    except FileNotFoundError as error:  # what DVC says of a dependency that is not there
        raise UsageError(
            f"what stage {stage} reads must exist", f"{error.filename} does not", "correct the params file, or make it"
        ) from error


def exit_status(message: str) -> int | None:
    """The status in DVC's message about a failed command (a negative number is a signal); None if it names none."""
    found = re.search(r"exited with (-?\d+)$", message)
    return int(found[1]) if found else None


def stage_error(stage: str, status: int | None, log: Path) -> AssayError:
    """The error that a stage's exit status stands for."""
    rule = f"stage {stage} must end well"
    if status in _MEANING:
        kind, meaning = _MEANING[status]
        return kind(rule, f"exit code {status}: {meaning}", f"its own words are above, and in {log}")
    return StageCrashed(rule, _crash(status), f"what it said is above, and in {log}; run again when mended")


def _crash(status: int | None) -> str:
    if status is None:
        return "its command could not be started"
    # A shell between us and the stage reports a signal as 128 + its number.
    number = -status if status < 0 else status - 128
    names = {int(name): name.name for name in signal.Signals}
    if number not in names:
        return f"exit code {status}: a bug"
    hint = " (out of memory?)" if names[number] == "SIGKILL" else ""
    return f"killed by {names[number]}{hint}"


@contextmanager
def dvc_errors() -> Iterator[None]:
    """What DVC objects to is a matter of use: say its reason, and the way out where we know one.

    Unless it was interrupted (Ctrl-C, Prefect's cancellation): left in the middle, it stumbles over its own locks.
    """
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        if (interruption := _interruption(error)) is not None:
            raise interruption from None
        raise _as_usage_error(error) from error


def _interruption(error: BaseException | None) -> BaseException | None:
    """What was on its way when an exception came in between."""
    while isinstance(error, Exception):
        error = error.__context__
    return error


def _as_usage_error(error: Exception) -> UsageError:
    from dvc.exceptions import OutputDuplicationError, OverlappingOutputPathsError
    from dvc.lock import LockError

    if isinstance(error, OutputDuplicationError | OverlappingOutputPathsError):
        way_out = "give each params file its own base.artifacts_dir"
        return UsageError("two pipelines must not write into the same folder", _reason(error), way_out)
    if isinstance(error, LockError):
        way_out = "wait for the other DVC or Assay command to end, then run again"
        return UsageError("one command at a time may work on these files", _reason(error), way_out)
    return UsageError("DVC must be able to run the pipeline", _reason(error), "see `dvc status -v`")


def _reason(error: BaseException | None) -> str:
    """The messages of an exception and of its causes, on one line."""
    messages: list[str] = []
    while error is not None:
        message = " ".join(str(error).split())
        if message and not any(message in told for told in messages):
            messages.append(message)
        error = error.__cause__
    return ": ".join(messages)
