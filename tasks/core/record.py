"""The run record: what is true of one run on one machine (times, memory, hardware), and therefore never hashed.

``<artifacts>/runs/<stage>.json`` lies beside the stages' outputs. It names the manifest it belongs to; a record of
another manifest is ignored, never mixed in.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core import files, manifest


def record_file(artifacts: Path, stage: str) -> Path:
    """Where a stage's run record lies."""
    return artifacts / "runs" / f"{stage}.json"


def write(
    artifacts: Path, stage: str, folder: Path, started: datetime, ended: datetime, measured: Mapping[str, Any]
) -> None:
    """Write the record of a finished stage.

    Args:
        artifacts: folder of all stages' outputs.
        stage: the stage's name.
        folder: where its output and manifest lie now.
        started: start, with time zone.
        ended: end, with time zone.
        measured: what the stage itself measured (JSON values; times in seconds unless the key says otherwise).
    """
    path = record_file(artifacts, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(
        path,
        {
            "stage": stage,
            "manifest": manifest.identity(folder),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((ended - started).total_seconds(), 3),
            "peak_rss_mib": peak_rss_mib(),
            "hardware": hardware(),
            "measured": dict(measured),
        },
    )


def read(artifacts: Path, stage: str) -> dict[str, Any] | None:
    """The record of the stage's present output, or None if that output was not made on this machine."""
    path = record_file(artifacts, stage)
    if not path.is_file():
        return None
    record: dict[str, Any] = files.read_json(path)
    return record if record["manifest"] == manifest.identity(artifacts / stage) else None


def peak_rss_mib() -> float | None:
    """Largest resident set of this process so far, in MiB (None on Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1 << 20 if platform.system() == "Darwin" else 1 << 10), 1)


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and system of this machine (no host name)."""
    import psutil

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total >> 20,
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def write_table(artifacts: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Keep what a run measured, a line for each thing, as ``<artifacts>/runs/<name>.json``."""
    path = record_file(artifacts, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, rows)


def write_page(artifacts: Path, name: str, page: str) -> None:
    """Keep a page of what a run measured as ``<artifacts>/runs/<name>.html``."""
    path = record_file(artifacts, name).with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, page)


def versions() -> dict[str, str]:
    """Versions of the packages that can change a result (those installed)."""
    names = ("assay", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "numpy", "pandas", "pyarrow",
             "optuna", "great-expectations", "rtdl_num_embeddings", "safetensors", "torch-pruning", "prefect",
             "dvc")  # fmt: skip
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
