"""Clears what a killed DVC process left in ``.dvc/tmp/rwlock``, where DVC itself would take it for a living owner.

DVC drops an owner whose process id is gone. It cannot tell that the id belongs to another process by now (usual in
containers, where ids start from 1 again), and it stops for good at a file that was cut short by the kill.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_CLOCK_SECONDS = 2.0


def forget_dead_owners(repo: Path) -> None:
    """Drop the locks whose owners cannot be alive. To be called before this process takes one itself.

    Raises:
        dvc.lock.LockError: if another process holds the lock file for more than three seconds.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    folder = repo / ".dvc" / "tmp"
    path = folder / RWLOCK_FILE
    if not path.is_file():
        return
    with make_lock(str(folder / RWLOCK_LOCK), tmp_dir=str(folder)):
        written = path.stat().st_mtime
        try:
            locks = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # its writer died while writing: we hold the lock under which it is written
            path.unlink()
            return
        kept = {
            "write": {name: owner for name, owner in locks.get("write", {}).items() if _may_live(owner, written)},
            "read": {
                name: living
                for name, owners in locks.get("read", {}).items()
                if (living := [owner for owner in owners if _may_live(owner, written)])
            },
        }
        if kept != locks:
            path.write_text(json.dumps(kept), encoding="utf-8")


def _may_live(owner: dict[str, Any], written: float) -> bool:
    """Whether the process that wrote its id at ``written`` (seconds since the epoch) or before may still run.

    One that seems younger is the owner all the same if its command is: the clock was set meanwhile.
    """
    import psutil

    if owner["pid"] == os.getpid():
        return False
    try:
        process = psutil.Process(owner["pid"])
        elder = process.create_time() <= written + _CLOCK_SECONDS
        return bool(elder or owner["cmd"] in " ".join(process.cmdline()))
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's
        return True
