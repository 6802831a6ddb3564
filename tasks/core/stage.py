"""Runs one stage: settings in, a complete folder out or nothing changed. The same for `python -m tasks` and tests."""

from __future__ import annotations

import importlib
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core import files, manifest, record
from tasks.core.errors import AssayError, IntegrityError, UsageError
from tasks.core.log import log
from tasks.core.manifest import settings_hash
from tasks.core.settings import STAGES, Base, Params

#: What each stage reads, in order.
UPSTREAM: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "validate": ("ingest",),
    "tune": ("validate",),
    "compress": ("validate", "tune"),
    "verify": ("validate", "tune", "compress"),
    "export": ("validate", "tune", "compress", "verify"),
}


@dataclass(frozen=True)
class StageSettings:
    """What a room is given: ``base``, its own section, and where things are.

    Attributes:
        base: the section that all share.
        own: the stage's own section.
        root: folder of the params file; relative paths in settings start here.
        measured: the room puts here what it measured that must not be hashed (times, latencies).
    """

    base: Base
    own: Any
    root: Path
    measured: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 of both sections."""
        return settings_hash(self.base, self.own)

    @property
    def values(self) -> dict[str, Any]:
        """Both sections as plain JSON values, by name."""
        name = type(self.own).__name__.lower()
        return {"base": self.base.model_dump(mode="json"), name: self.own.model_dump(mode="json")}

    @property
    def artifacts(self) -> Path:
        """Folder of all stages' outputs."""
        return self.root / self.base.artifacts_dir

    @property
    def scratch(self) -> Path:
        """Folder for what survives a kill but is no output (the Optuna study)."""
        return self.artifacts / "scratch"


def run_stage(stage: str, params: Params, root: Path) -> manifest.Manifest:
    """Run one stage; its folder is replaced only if it ends well.

    Args:
        stage: one of :data:`~tasks.core.settings.STAGES`.
        params: the checked params file.
        root: the params file's folder.

    Raises:
        AssayError: any of the tree, by the stage itself or because its inputs are not whole.
    """
    settings = StageSettings(params.base, params.section(stage), root)
    with files.machine_errors(settings.artifacts), only_one(stage, settings.artifacts):
        return _run_locked(stage, settings, params)


@contextmanager
def only_one(what: str, artifacts: Path) -> Iterator[None]:
    """Keep other processes from doing ``what`` (a stage, or a whole run) in the same folder; may be entered again.

    Raises:
        UsageError: if one is running already.
    """
    from filelock import FileLock, Timeout

    artifacts.mkdir(parents=True, exist_ok=True)
    lock = FileLock(artifacts / f".{what}.lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            f"one {what} at a time may write into {artifacts}",
            "another one is running",
            "wait for it, or give this run another base.artifacts_dir",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _run_locked(stage: str, settings: StageSettings, params: Params) -> manifest.Manifest:
    out = settings.artifacts / stage
    started = datetime.now(UTC)
    random.seed(settings.base.seed)
    files.recover_folder(out)
    _refuse_foreign(out)
    inputs = _checked_inputs(stage, settings.artifacts, params)
    room = importlib.import_module(f"tasks.{stage}")
    with files.replaced_folder(out) as partial:
        result: manifest.Manifest = room.run(settings, inputs, partial)
        result = replace(result, params=settings.values)
        manifest.write(result, partial)
        ended = datetime.now(UTC)
        # Before the folder takes its place: whatever fails leaves the previous output. A record of another manifest
        # than the one in place is ignored.
        record.write(settings.artifacts, stage, partial, started, ended, settings.measured)
    shutil.rmtree(settings.scratch / stage, ignore_errors=True)
    log.info("%s: done in %.1f s", stage, (ended - started).total_seconds())
    return result


def _refuse_foreign(out: Path) -> None:
    """A slip in base.artifacts_dir must not cost anybody a folder that happens to be called like a stage."""
    empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not empty and not (out / manifest.NAME).is_file():
        raise UsageError(
            "a stage replaces only a folder that a stage has written",
            f"{out} has no {manifest.NAME}",
            "choose another base.artifacts_dir, or remove it if nobody needs it",
        )


def _checked_inputs(stage: str, artifacts: Path, params: Params) -> Mapping[str, Path]:
    """The stage's inputs, whole, made from one another, and made with the settings that hold now."""
    inputs = {name: artifacts / name for name in UPSTREAM[stage]}
    for name, folder in inputs.items():
        files.recover_folder(folder)
        made = manifest.read(folder, {up: artifacts / up for up in UPSTREAM[name]})
        if made.settings != settings_hash(params.base, params.section(name)):
            raise IntegrityError(
                f"what {stage} reads must have been made with the present settings",
                f"{folder} was made with other values of base or {name}",
                f"run `dvc repro {stage}`, which runs the stages before it as needed",
            )
    return inputs


def run_all(params: Params, root: Path) -> None:
    """Run every stage in this process, in order: the cost of the work alone, without any conductor."""
    for stage in STAGES:
        run_stage(stage, params, root)


def exit_code(error: BaseException) -> int:
    """The process's exit code for an exception."""
    if isinstance(error, AssayError):
        return error.exit_code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
