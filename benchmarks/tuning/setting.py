"""What the scripts here share: a params file whose `ingest` and `validate` are done, with other settings of `tune`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from tasks.core import manifest
from tasks.core.settings import Params, load
from tasks.core.stage import StageSettings
from tasks.tune.trial import Job


def world(params: Path, root: Path, **tune: Any) -> Params:
    """A fresh folder with the rows of a finished run, and its params file with these settings of `tune` changed.

    Args:
        params: a params file after `ingest` and `validate`.
        root: the folder; what it holds is removed.
        tune: settings; those of ``base`` under ``base``.
    """
    yaml = YAML(typ="safe")
    raw = yaml.load(params.read_text(encoding="utf-8"))
    base = raw["base"]
    done = params.parent / base.get("artifacts_dir", "artifacts")
    shutil.rmtree(root, ignore_errors=True)
    for stage in ("ingest", "validate"):
        shutil.copytree(done / stage, root / "artifacts" / stage)
    raw["base"] = base | {"artifacts_dir": "artifacts"} | tune.pop("base", {})
    raw["tune"] = raw.get("tune", {}) | tune
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(raw, file)
    return load(root / "params.yaml")


def thin(root: Path, count: int, split: str = "train") -> None:
    """Keep so many rows of a split of a :func:`world`, drawn at random, always the same ones."""
    path = root / "artifacts" / "validate" / f"{split}.parquet"
    rows = pq.read_table(path)
    taken = np.sort(np.random.default_rng(0).choice(rows.num_rows, min(count, rows.num_rows), replace=False))
    pq.write_table(rows.take(taken), path)


def forget(job: Job) -> None:
    """Remove what trials have left: a search of the same seed would find them trained already."""
    for left in job.folder.glob("trial-*"):
        left.unlink()


def job(params: Params, root: Path) -> Job:
    """The job of the stage `tune` in such a folder."""
    settings = StageSettings(params.base, params.tune, root)
    splits = settings.artifacts / "validate"
    folder = root / "scratch"
    folder.mkdir(exist_ok=True)
    return Job.of(settings, manifest.read(splits).facts, splits, folder)
