"""Tiny bundles, stores and approvers for the room `promote`; and a promotion as a process, to be killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tasks.promote import moves
from tasks.promote.audit import Entry
from tasks.promote.evidence import digest
from tasks.promote.store import Store

NAME = "tiny"


def plain_bundle(folder: Path, text: str) -> Path:
    """A folder with a manifest and something beside it where a signature lies: all that a store looks at."""
    from deploy.bundle import write_manifest

    (folder / "golden").mkdir(parents=True)
    (folder / "model.onnx").write_text(text)
    (folder / "golden" / "one.request.json").write_text("{}")
    write_manifest(folder)
    folder.with_name(f"{folder.name}.sig").write_text(f"signature of {text}")
    return folder


def entry(version: str, bundle: Path, stage: str = "staging", **changes) -> Entry:
    """A move that is yet to be made."""
    given = {"number": 0, "when": "2020-01-01T00:00:00+00:00", "who": "ann@example.org", "action": "promote",
             "name": NAME, "stage": stage, "version": version, "digest": digest(bundle), "revision": 0, "why": "",
             "forced": False, "gates": {"bundle": "PASS"}}  # fmt: skip
    return Entry(**given | changes)


def move(store: Store, bundle: Path, stage: str = "staging", **changes) -> Entry:
    """Bring a bundle to the store if it is not there, and move a stage to it."""
    version = bundle.name

    def bring() -> None:
        if not store.holds(NAME, version):
            store.put(NAME, version, bundle, lambda _: None)

    expected = moves.read(store, NAME).revision(stage)
    return moves.move(store, NAME, entry(version, bundle, stage, **changes), expected, bring)


#: Moves between two versions for ever, in a process that says when it begins.
ENDLESS = """
import itertools, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import promote_world
from tasks.promote.store import FolderStore
store, bundles = FolderStore(Path(sys.argv[2])), [Path(path) for path in sys.argv[3:]]
print("begin", flush=True)
for bundle in itertools.cycle(bundles):
    promote_world.move(store, bundle)
"""


def endless(store: Path, *bundles: Path) -> subprocess.Popen[str]:
    """A process that moves a stage for ever; it has begun."""
    command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parent), str(store), *map(str, bundles)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    return process
