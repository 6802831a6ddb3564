"""Fixtures that several files share."""

import shutil
from pathlib import Path

import fake_pipeline
import pytest


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
def project(_made: Path, tmp_path: Path) -> Path:
    """A tiny Git and DVC project (see fake_pipeline) of which nothing has run yet."""
    return shutil.copytree(_made, tmp_path / "project")


@pytest.fixture
def done_project(_done: Path, tmp_path: Path) -> Path:
    """The same after `dvc repro`, committed: every stage is up to date."""
    return shutil.copytree(_done, tmp_path / "project")
