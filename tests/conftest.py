"""Fixtures that several files share."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import dvc  # noqa: F401 (its log keeps the streams of this moment: a test's own are closed when it ends)
import fake_pipeline
import fault_world
import postgresql_world
import promote_world
import pytest
import web_hook
import worlds
from filelock import FileLock

from tasks.core.stage import run_stage

# A shell starts what runs in the background with interrupts ignored, and every process below would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_pipeline.make(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture(scope="session")
def _done(_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("done") / "project"
    shutil.copytree(_made, root)
    fake_pipeline.run(root, "dvc", "repro")
    fake_pipeline.commit(root)
    return root


@pytest.fixture
def project(_made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Git and DVC project (see fake_pipeline) of which nothing has run yet."""
    return fake_pipeline.run_stages_of(shutil.copytree(_made, tmp_path / "project"), monkeypatch)


@pytest.fixture
def done_project(_done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same after `dvc repro`, committed: every stage is up to date."""
    return fake_pipeline.run_stages_of(shutil.copytree(_done, tmp_path / "project"), monkeypatch)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world (see worlds) after tune, compress, verify and export. Read only: copy it to change it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    root = base / "tiny"
    with FileLock(base / "tiny.lock"):
        if not root.exists():
            partial = base / "tiny.partial"
            params = worlds.write(partial)
            for stage in ("tune", "compress", "verify", "export"):
                run_stage(stage, params, partial)
            partial.rename(root)
    return root


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser; tests of it are marked :data:`chromium.without_chromium`."""
    with chromium.started(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> fault_world.Picture:
    """A pipeline of pictures (see fault_world) that is finished up to `compress`. Read only: copy it to change it."""
    return fault_world.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def world(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world of one's own."""
    return shutil.copytree(tiny, tmp_path / "world")


@pytest.fixture(scope="session")
def _promotable(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return promote_world.project(tiny, tmp_path_factory.mktemp("promotable") / "project")


@pytest.fixture
def promotable(_promotable: Path, tmp_path: Path) -> Path:
    """A copy of one's own of a project whose bundle every gate can say yes to (see promote_world)."""
    return shutil.copytree(_promotable, tmp_path / "project")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a real server."""
    with postgresql_world.server() as address:
        yield address


@pytest.fixture
def database(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of its own there, as the one that studies share."""
    address = postgresql_world.fresh(postgresql)
    monkeypatch.setenv("ASSAY_TUNE_STORAGE", address)
    return address


@pytest.fixture
def sink() -> Iterator[tuple[str, list[Any]]]:
    """A web hook: its address, and what it was told."""
    with web_hook.listening() as hook:
        yield hook
