"""Where a bundle comes from: code, data, settings, versions, hardware, times. It differs run by run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.core import record, repository
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
        "git": repository.git_state(settings.root),
        "dvc": repository.dvc_hashes(settings.root, [f"{settings.base.artifacts_dir}/{stage}" for stage in stages]),
        "source": stages["ingest"].facts.get("source"),
        "content_hash": stages["ingest"].facts.get("content_hash"),
        "splits": {name: entry.sha256 for name, entry in stages["validate"].files.items() if name.endswith(".parquet")},
        "params": params,
        "seed": settings.base.seed,
        "versions": record.versions(),
        "hardware": record.hardware(),
        "latency": ((runs.get("compress") or {}).get("measured") or {}).get("race", "not measured on this machine"),
        "runs": {stage: run or "not run on this machine" for stage, run in runs.items()},
    }
