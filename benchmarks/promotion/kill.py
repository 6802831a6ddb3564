"""Kills promotions with SIGKILL at random moments: is the store whole, and does a re-run complete?

`python benchmarks/promotion/kill.py [--kills 20] [--publishing 200]`, from the project's root, with the extra `dev`: it
builds the tests' tiny project (a real bundle, Git, DVC's files), and promotes it to staging with the real server.

Two series: whole promotions, gates and all, killed at a moment between their start and their usual end; and the
publishing alone (copy, log, pointer), over and over, killed within its first few moves.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import promote_world  # noqa: E402 (its folder is known only now)
import worlds  # noqa: E402

from deploy.store import current, read_pointer  # noqa: E402
from tasks.core.stage import run_stage  # noqa: E402
from tasks.promote import moves  # noqa: E402
from tasks.promote.store import FolderStore  # noqa: E402

NAME, STAGE = promote_world.NAME, "staging"
_PROMOTE = """
import sys
from pathlib import Path
from tasks import promote
from tasks.core.settings import load
root, version = Path(sys.argv[1]), sys.argv[2]
asked = promote.Asked(load(root / "params.yaml"), root, "tiny", "staging", "tester@example.org", "", version,
                      audit_report=root / "report.json")
promote.promote(asked)
"""


def main() -> None:
    """Run both series, and print what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--publishing", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    moment = random.Random(options.seed)  # noqa: S311 (no secret)
    with TemporaryDirectory(prefix="assay-kill-") as scratch:
        root = project(Path(scratch))
        whole(root, options.kills, moment)
        publishing(root, Path(scratch, "alone"), options.publishing, moment)


def project(scratch: Path) -> Path:
    """The tiny project with two bundles."""
    params = worlds.write(scratch / "tiny")
    for stage in ("tune", "compress", "verify", "export"):
        run_stage(stage, params, scratch / "tiny")
    root = promote_world.project(scratch / "tiny", scratch / "project")
    promote_world.another(root)
    promote_world.report(root, promote_world.bundle_of(root), root / "report.json")
    return root


def start(root: Path, version: str) -> subprocess.Popen[bytes]:
    """A promotion as a process."""
    return subprocess.Popen([sys.executable, "-c", _PROMOTE, str(root), version], stderr=subprocess.DEVNULL)


def whole(root: Path, kills: int, moment: random.Random) -> None:
    """Promotions of two bundles in turn, each killed once and then run to its end."""
    versions = [promote_world.bundle_of(root, number) for number in (1, 2)]
    seconds = 0.0
    found = {"before publishing": 0, "published": 0, "cut off between log and pointer": 0}
    slowest = 0.0
    for number in range(kills + 1):
        bundle = versions[number % 2]
        promote_world.export_of(root, bundle)
        if number:  # the first one runs to its end, and tells how long that takes
            process = start(root, bundle.name)
            time.sleep(moment.uniform(0, seconds))
            process.kill()
            process.wait()
            found[look(root / "store", bundle)] += 1
        began = time.perf_counter()
        code = start(root, bundle.name).wait()
        assert code == 0, f"the re-run ends with {code}"
        slowest = max(slowest, time.perf_counter() - began)
        seconds = seconds or slowest
        assert look(root / "store", bundle) == "published"
        assert not left_running(root), "a server outlives its promotion"
    print(f"{kills} kills of whole promotions ({seconds:.1f} s each): {found}; all re-runs completed", flush=True)


def publishing(root: Path, store: Path, kills: int, moment: random.Random) -> None:
    """A process that publishes for ever, killed soon."""
    bundles = [promote_world.bundle_of(root, number) for number in (1, 2)]
    found = {"whole": 0, "cut off between log and pointer": 0}
    for _ in range(kills):
        promote_world.killed_while_moving(store, moment, *bundles)
        state = moves.read(FolderStore(store), NAME)
        assert read_pointer(store, NAME, STAGE) is None or current(store, NAME, STAGE).is_dir()
        found["cut off between log and pointer" if state.behind() else "whole"] += 1
    last = promote_world.move(FolderStore(store), bundles[0])
    assert read_pointer(store, NAME, STAGE) == last.pointer
    print(f"{kills} kills while publishing, {last.number} moves: {found}; the chain held each time", flush=True)


def look(store: Path, bundle: Path) -> str:
    """What a kill left: the log's chain and the pointers are checked by reading them."""
    state = moves.read(FolderStore(store), NAME)
    pointer = read_pointer(store, NAME, STAGE)
    assert pointer is None or current(store, NAME, STAGE).is_dir()
    if state.behind():
        return "cut off between log and pointer"
    return "published" if pointer is not None and pointer.version == bundle.name else "before publishing"


def left_running(root: Path) -> list[int]:
    """Servers that still serve a bundle of the project; they are given a moment to end."""
    deadline = time.monotonic() + 20
    while True:
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            words = process.info["cmdline"] or []
            if "deploy.server" in words and any(str(root) in word for word in words):
                found.append(process.info["pid"])
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


if __name__ == "__main__":
    main()
