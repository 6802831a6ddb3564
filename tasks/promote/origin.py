"""Gate `origin`: the evidence follows its schemas, and the code, the data and the lock are those of this commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.core import files, manifest, repository
from tasks.promote.evidence import Evidence
from tasks.promote.words import Said, judged


def ask(evidence: Evidence, root: Path, artifacts: str) -> Said:
    """Compare provenance with the repository as it is now.

    Args:
        evidence: of the bundle.
        root: folder of the params file.
        artifacts: folder of the stages' outputs, relative to ``root``.
    """
    said = evidence.provenance
    problems = [*_made_dirty(evidence), *_dirty_now(root)]
    now = repository.dvc_hashes(root, list(said.dvc or {})) or {}
    if not said.dvc:
        problems.append("provenance.json names no DVC hashes: the bundle was made outside `assay run` and `dvc repro`")
    problems += [
        f"{path} is {now.get(path, 'absent')} in dvc.lock, the bundle was made from {expected}"
        for path, expected in sorted((said.dvc or {}).items())
        if now.get(path) != expected
    ]
    problems += _other_export(evidence, root / artifacts / "export")
    fine = f"made from commit {said.git.commit} with the data that dvc.lock names"
    return judged(problems, fine, {"commit": said.git.commit, "dvc": dict(said.dvc or {})})


def _made_dirty(evidence: Evidence) -> list[str]:
    git = evidence.provenance.git
    if git.commit is None:
        return [f"the bundle names no commit: {git.reason}"]
    if git.dirty is False:
        return []
    return ["the bundle was made with uncommitted changes: commit them, remove that bundle, and run again"]


def _dirty_now(root: Path) -> list[str]:
    try:
        changed = repository.changed(root, ":/")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        return [f"git: {error}"]
    return [f"uncommitted changes now: {', '.join(line.strip() for line in changed)}"] if changed else []


def _other_export(evidence: Evidence, folder: Path) -> list[str]:
    """The output of `export` that dvc.lock names, and `dvc artifacts get` will fetch, must stand for this bundle."""
    if not (folder / manifest.NAME).is_file():
        return [f"{folder} is not there: run `dvc checkout`"]
    made = files.read_json(folder / manifest.NAME)["facts"].get("digest")
    if made == evidence.provenance.digest:
        return []
    way_out = "check out the commit that made this bundle, and `dvc checkout`"
    return [f"the present output of export is another bundle ({str(made)[:12]}): {way_out}"]
