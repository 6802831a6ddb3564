"""Reports of a rejected run: a verdict that says no is published, though the stage's folder is not replaced."""

from __future__ import annotations

import shutil
from pathlib import Path


def rejected_folder(artifacts: Path, stage: str) -> Path:
    """Where the reports of a stage's last rejected run lie."""
    return artifacts / "rejected" / stage


def publish_rejected(artifacts: Path, stage: str, folder: Path) -> Path:
    """Keep what a rejected run wrote into ``folder``; return where it lies now."""
    kept = rejected_folder(artifacts, stage)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    return kept


def forget_rejected(artifacts: Path, stage: str) -> None:
    """Remove the reports of a rejected run before the stage runs again: they would speak of other rows."""
    shutil.rmtree(rejected_folder(artifacts, stage), ignore_errors=True)
