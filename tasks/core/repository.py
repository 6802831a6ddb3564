"""What Git and DVC say of a project's folder, read without either's library."""

from __future__ import annotations

import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

#: What a run itself writes while it goes on; a bundle's provenance holds the hashes in it.
_LOCKS = ":(top,exclude,glob)**/dvc.lock"


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether tracked files, but for DVC's lock files, differ from it; or why there is none."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(changed(folder, ":/", _LOCKS))}
    except FileNotFoundError:
        return {"commit": None, "dirty": None, "reason": "there is no git on this machine"}
    except subprocess.CalledProcessError as error:
        said = str(error.stderr).strip().splitlines()
        return {"commit": None, "dirty": None, "reason": f"git: {said[0] if said else error.returncode}"}


def changed(folder: Path, *within: str) -> list[str]:
    """Tracked files that differ from the commit, as Git lists them; ``within``: Git's patterns of those looked at.

    Raises:
        FileNotFoundError: without Git.
        subprocess.CalledProcessError: outside a repository.
    """
    return _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *within).splitlines()


def people(folder: Path, commit: str) -> tuple[str, ...]:
    """Names and addresses of a commit's author and committer; none if the repository does not hold the commit."""
    try:
        return tuple(_git(folder, "log", "-1", "--format=%an%n%ae%n%cn%n%ce", commit, "--").splitlines())
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ()


def user(folder: Path) -> str:
    """Who works here: Git's ``user.email``, else the account's name."""
    import getpass

    try:
        return _git(folder, "config", "user.email") or getpass.getuser()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return getpass.getuser()


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
