"""Where a stage keeps what survives a kill, so that it goes on where it stopped, and never with other people's work."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

from tasks.core import manifest, record
from tasks.core.log import log
from tasks.core.stage import StageSettings


def folder(
    settings: StageSettings,
    stage: str,
    upstream: Path,
    plugins: Iterable[object] = (),
    free: Collection[str] = (),
) -> Path:
    """The stage's scratch folder for exactly these settings, data, code and libraries; others of the stage are removed.

    Args:
        settings: the stage's.
        stage: its name.
        upstream: folder of the stage whose output the work is about.
        plugins: objects whose source decides the result, besides the core's, the server's and the stage's own.
        free: the stage's settings that may change in between: they say how long or where to work, not what comes of it.
    """
    fixed = manifest.settings_hash(settings.base, settings.own, apart=free)
    name = f"{fixed[:16]}-{manifest.identity(upstream)[:16]}-{_code(stage, plugins)[:16]}"
    found = settings.scratch / stage / name
    if found.parent.is_dir():
        for other in found.parent.iterdir():
            if other != found:
                log.warning("%s: what an interrupted run of other settings, data or code has kept is removed", stage)
                shutil.rmtree(other)
    found.mkdir(parents=True, exist_ok=True)
    return found


def _code(stage: str, plugins: Iterable[object]) -> str:
    core = Path(record.__file__).parent
    folders = (core, core.parent / stage, core.parents[1] / "deploy")  # what is served scores candidates
    web = core.parents[1] / "deploy" / "server"  # which decides nothing
    own = [sorted(one for one in path.rglob("*.py") if not one.is_relative_to(web)) for path in folders]
    digest = hashlib.sha256(json.dumps(record.versions(), sort_keys=True).encode())
    for path in (path for family in (*own, *map(_sources, plugins)) for path in family):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(plugin: object) -> list[Path]:
    """The files of the package that a workload or model is written in; a module outside of any is alone."""
    named = plugin if inspect.isroutine(plugin) or isinstance(plugin, type) else type(plugin)
    name = named.__module__
    path = Path(str(sys.modules[name].__file__))
    return sorted(path.parent.glob("*.py")) if path.name == "__init__.py" or "." in name else [path]
