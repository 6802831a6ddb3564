"""Where a bundle comes from: code, data, settings, versions, hardware, times. The one file that differs run by run."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
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
        "dvc": dvc_hashes(settings.root, [f"{settings.base.artifacts_dir}/{stage}" for stage in stages]),
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
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except FileNotFoundError:
        return {"commit": None, "dirty": None, "reason": "there is no git on this machine"}
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()
        return {"commit": None, "dirty": None, "reason": f"git: {said[0] if said else error.returncode}"}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def dvc_hashes(root: Path, outputs: Collection[str]) -> dict[str, str] | None:
    """Path -> hash, as DVC has it, of those of ``outputs`` that a lock file knows; None if none does.

    A pipeline's lock file lies beside its ``dvc.yaml``: in ``root``, or in a folder below it. The stage that asks is
    not in it yet: DVC writes a stage down when it has ended.
    """
    from ruamel.yaml import YAML

    known: dict[str, str] = {}
    for lock in (root / "dvc.lock", *sorted(root.glob("*/dvc.lock"))):
        stages = (YAML(typ="safe").load(lock.read_text(encoding="utf-8")) or {} if lock.is_file() else {}).get(
            "stages", {}
        )
        for out in (out for stage in stages.values() for out in stage.get("outs", [])):
            kind = out.get("hash", "md5")
            if out["path"] in outputs and kind in out:
                known.setdefault(out["path"], out[kind])
    return known or None
