"""Where a bundle comes from: code, data, settings, versions, hardware, times. The one file that differs run by run."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core import record
from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings


def collect(settings: StageSettings, stages: Mapping[str, Manifest], digest: str) -> dict[str, Any]:
    """The provenance of a bundle, as JSON values.

    Args:
        settings: of the export stage.
        stages: manifests by stage, each with the settings that it was made with.
        digest: identity of the bundle's reproducible part.
    """
    params: dict[str, Any] = dict(settings.values)
    for manifest in stages.values():
        params |= manifest.params
    runs = {stage: record.read(settings.artifacts, stage) for stage in stages}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "digest": digest,
        "git": git_state(settings.root),
        "dvc": dvc_hashes(settings.root),
        "source": stages["ingest"].facts.get("source"),
        "content_hash": stages["ingest"].facts.get("content_hash"),
        "params": params,
        "seed": settings.base.seed,
        "versions": record.versions(),
        "hardware": record.hardware(),
        "latency": ((runs.get("compress") or {}).get("measured") or {}).get("race", "not measured on this machine"),
        "runs": {stage: run or "not run on this machine" for stage, run in runs.items()},
    }


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files differ from it; or why there is none."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "reason": "not in a git repository with a commit"}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def dvc_hashes(folder: Path) -> dict[str, str] | None:
    """Path -> hash of every output that the pipeline's lock file knows; None if there is no lock file."""
    from ruamel.yaml import YAML

    lock = folder / "dvc.lock"
    if not lock.is_file():
        return None
    stages = (YAML(typ="safe").load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return {out["path"]: out[out.get("hash", "md5")] for out in outs if out.get("hash", "md5") in out}
