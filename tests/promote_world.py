"""Tiny bundles, stores and approvers for the room `promote`; and a promotion as a process, to be killed."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fake_pipeline
import worlds
from ruamel.yaml import YAML

from deploy import bundle, signing
from tasks.core import files
from tasks.core.settings import load
from tasks.core.stage import run_stage
from tasks.promote import moves, supply
from tasks.promote.audit import Entry
from tasks.promote.store import Store

NAME = "tiny"


def plain_bundle(folder: Path, text: str) -> Path:
    """A folder with a manifest and something beside it where a signature lies: all that a store looks at."""
    (folder / "golden").mkdir(parents=True)
    (folder / "model.onnx").write_text(text)
    (folder / "golden" / "one.request.json").write_text("{}")
    bundle.write_manifest(folder)
    folder.with_name(f"{folder.name}.sig").write_text(f"signature of {text}")
    return folder


def entry(version: str, folder: Path, stage: str = "staging", **changes) -> Entry:
    """A move that is yet to be made."""
    given = {"number": 0, "when": "2020-01-01T00:00:00+00:00", "who": "ann@example.org", "action": "promote",
             "name": NAME, "stage": stage, "version": version, "revision": 0, "why": "",
             "digest": bundle.manifest_digest(folder),
             "forced": False, "gates": {"bundle": "PASS"}}  # fmt: skip
    return Entry(**given | changes)


def move(store: Store, folder: Path, stage: str = "staging", **changes) -> Entry:
    """Bring a bundle to the store if it is not there, and move a stage to it."""
    version = folder.name

    def bring() -> None:
        if not store.holds(NAME, version):
            store.put(NAME, version, folder, lambda _: None)

    expected = moves.read(store, NAME).revision(stage)
    return moves.move(store, NAME, entry(version, folder, stage, **changes), expected, bring)


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
    print("moved", flush=True)
"""


def killed_while_moving(store: Path, moment: random.Random, *bundles: Path) -> None:
    """Let a process move a stage for ever, and kill it somewhere within its first few moves, at its own pace."""
    command = [sys.executable, "-c", ENDLESS, str(Path(__file__).parent), str(store), *map(str, bundles)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begin\n"
    pace, began = 0.02, time.monotonic()
    for _ in range(moment.randrange(4)):
        assert process.stdout.readline() == "moved\n"
        pace, began = time.monotonic() - began, time.monotonic()
    time.sleep(moment.uniform(0.0, pace))
    process.kill()
    process.wait()
    process.stdout.close()


# A whole project: the tiny world as a Git and DVC repository, with a bundle that every gate can say yes to.

AUTHOR, APPROVER = "tester@example.org", "ann@example.org"
STAGES = ("ingest", "validate", "tune", "compress", "verify")
NOTIFY = {"notify": ["mattermost-webhook/ops"]}
PROMOTE: dict[str, Any] = {
    "public_key": "keys/assay.pub",
    "margin": 0.2,  # 100 fresh rows show no less
    "latency": {"p99_ms": 2000.0, "requests": 100},
    "approval": {
        "approvers": {APPROVER: "keys/ann.pub", "bob@example.org": "keys/bob.pub", AUTHOR: None},
        "wait_minutes": 3,
    },
}


def project(tiny: Path, root: Path) -> Path:
    """A copy of the tiny world, committed, with keys and one signed bundle."""
    shutil.copytree(tiny, root, ignore=shutil.ignore_patterns("dist"))
    worlds.write_params(root, {"base": {"artifacts_dir": "artifacts"}, "promote": PROMOTE, "retrain": NOTIFY})
    (root / ".gitignore").write_text("artifacts/\ndist/\nstore/\nkeys/\n")
    for name in ("dvc.yaml", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(fake_pipeline.ROOT / name, root / name)
    lock(root)
    for name in ("assay", "ann", "bob"):
        made = signing.new_keys(root / "keys" / name)
        for path in made:
            path.rename(root / "keys" / f"{name}{path.suffix}")
    fake_pipeline.git(root, "init", "-q")
    fake_pipeline.git(root, "config", "user.email", AUTHOR)
    fake_pipeline.git(root, "config", "user.name", "Tester")
    fake_pipeline.commit(root)
    run_stage("export", load(root / "params.yaml"), root)
    signing.sign(bundle_of(root), root / "keys" / "assay.key")
    return root


def lock(root: Path, **changes: str) -> None:
    """Write the lock file that DVC would have left."""
    outs = {stage: changes.get(stage, f"{stage}.dir") for stage in STAGES}
    stages = {
        stage: {"cmd": stage, "outs": [{"path": f"artifacts/{stage}", "hash": "md5", "md5": md5}]}
        for stage, md5 in outs.items()
    }
    with (root / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)


def bundle_of(root: Path, number: int = 1) -> Path:
    """The project's bundle of that number."""
    (found,) = (path for path in (root / "dist" / NAME).glob(f"{number}-*") if path.is_dir())
    return found


def another(root: Path, number: int = 2, **figures: Any) -> Path:
    """A bundle with the same evidence but for its card, signed: the next version. ``figures`` go into provenance."""
    first = bundle_of(root)
    partial = root / "dist" / NAME / ".another"
    shutil.copytree(first, partial)
    (partial / "README.md").write_text(f"{(first / 'README.md').read_text()}\nNumber {number}.\n")
    digest = bundle.digest(bundle.hashes(partial))
    folder = partial.with_name(f"{number}-{digest[:12]}")
    raw = files.read_json(partial / "provenance.json")
    files.write_json(partial / "provenance.json", raw | {"digest": digest, "version": folder.name} | figures)
    bundle.write_manifest(partial)
    partial.rename(folder)
    signing.sign(folder, root / "keys" / "assay.key")
    return folder


def export_of(root: Path, folder: Path) -> None:
    """Let the output of `export` stand for a bundle, as a run that made it would have left it."""
    path = root / "artifacts" / "export" / "manifest.json"
    raw = files.read_json(path)
    raw["facts"]["digest"] = files.read_json(folder / "provenance.json")["digest"]
    files.write_json(path, raw)


def report(root: Path, folder: Path, path: Path, days_ago: float = 0.0, **changes: str) -> Path:
    """What `pip-audit` would have written about the bundle's packages elsewhere."""
    versions = supply.Bill.read(folder).versions | changes
    components = [
        {"bom-ref": name, "name": name, "version": str(version).partition("+")[0], "type": "library"}
        for name, version in versions.items()
        if name != "assay"
    ]
    made = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()
    files.write_json(path, {"bomFormat": "CycloneDX", "metadata": {"timestamp": made}, "components": components})
    return path


#: A server as small as can be, with a vice: what the gate must find out.
STAND_IN = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np
from deploy import golden
from deploy.predictor import Predictor

folder, vice = Path(sys.argv[1]), sys.argv[2]
if vice == "refuses":
    print("the bundle is broken", file=sys.stderr)
    sys.exit(5)
if vice == "is never ready":
    time.sleep(600)
predictor = Predictor.load(folder, "cpu")
cases = [case.request for case in golden.read(folder)]
asked = 0

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        global asked
        asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if vice == "dies" and asked > 5:
            os._exit(1)
        if vice == "is slow":
            time.sleep(0.05)
        try:
            request = json.loads(body)
            one = len(request["inputs"][0]["data"]) == 1
            assert self.path == "/v2/models/tiny/infer" and "outputs" not in request
            assert request in cases or one
            assert "Inference-Header-Content-Length" not in self.headers
            columns = {item["name"]: golden.array(item) for item in request["inputs"]}
            outputs = predictor.predict(columns)
        except (Exception, RecursionError) as error:
            return self.answer(500 if vice == "crashes on bad input" else 400, {"error": repr(error)[:200]})
        wrong = 0.5 if vice == "is wrong" else 0.0
        self.answer(200, {"outputs": [
            {"name": name, "datatype": "FP32", "shape": array.shape, "data": (array.ravel() + wrong).tolist()}
            for name, array in outputs.items()]})

    def do_DELETE(self):
        self.answer(405, {})

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
signal.signal(signal.SIGTERM, lambda *_: os._exit(3 if vice == "ends badly" else 0))
ready = {"event": "ready", "url": f"http://127.0.0.1:{server.server_port}", "model": "tiny", "version": folder.name}
print("not json", flush=True)
print(json.dumps(ready), flush=True)
server.serve_forever()
"""


def stand_in(vice: str = "") -> Callable[[Path, Path], list[str]]:
    """The command of the small server, in place of the real one's."""
    return lambda folder, key: [sys.executable, "-c", STAND_IN, str(folder), vice]
