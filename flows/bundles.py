"""Where the bundle of the last run lies."""

from __future__ import annotations

from pathlib import Path

from deploy.bundle import check
from deploy.errors import AssayError
from flows.pipeline import Pipeline
from tasks.core import files, manifest

_DIGEST_LETTERS = 12


def bundle(pipeline: Pipeline) -> Path | None:
    """The folder of the bundle that the present output of ``export`` stands for; None if there is none.

    A version ends with the first letters of the bundle's digest, so the folder is found by it.
    """
    path = pipeline.artifacts / "export" / manifest.NAME
    if not path.is_file():
        return None
    digest = files.read_json(path)["facts"]["digest"]
    return next(iter(sorted(pipeline.dist.glob(f"[0-9]*-{digest[:_DIGEST_LETTERS]}"))), None)


def export_must_run(pipeline: Pipeline) -> bool:
    """Whether ``export`` has to run although DVC may find it up to date: its bundle is not there, or not whole.

    The bundle is no DVC output (versions accumulate), so DVC cannot see that it was deleted, damaged, or is missing in
    a clone. A damaged one is never replaced: ``export`` then says what is wrong with it.
    """
    if not (pipeline.artifacts / "export" / manifest.NAME).is_file():
        return False
    published = bundle(pipeline)
    if published is None:
        return True
    try:
        check(published)
    except AssayError:
        return True
    return False
