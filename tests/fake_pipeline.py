"""A tiny Git and DVC repository whose six stages are one small script, told by a file how to behave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tasks.core.settings import STAGES
from tasks.core.stage import UPSTREAM

BIN = Path(sys.executable).parent

PARAMS = """
base: {name: tiny, target: late, artifacts_dir: artifacts}
ingest: {source: rows.csv}
validate: {suite: suite.yaml, split: {by: random}}
tune: {}
compress: {}
verify: {}
export: {}
"""

STAGE = '''
import hashlib, json, os, shutil, sys, time, pathlib, datetime
from tasks.core import process
stage, upstream = sys.argv[1], sys.argv[2:]
process.stop_on_terminate()
process.die_with_driver()
artifacts = pathlib.Path("artifacts")
behaviour = json.loads(pathlib.Path("behaviour.json").read_text()).get(stage, "work")
(artifacts / "logs").mkdir(parents=True, exist_ok=True)
log = (artifacts / "logs" / f"{stage}.log").open("w")
def say(level, text):
    print(text, file=sys.stderr, flush=True)
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S},000 {level} {text}", file=log, flush=True)
say("INFO", f"{stage}: hello with {pathlib.Path(sys.executable).parent}")
if behaviour.startswith("exit"):
    say("ERROR", f"{stage}: cannot\\n  found:   nothing")
    rejected = artifacts / "rejected" / stage
    rejected.mkdir(parents=True, exist_ok=True)
    (rejected / "report.html").write_text("<p>no</p>")
    (rejected / "verdict.json").write_text(json.dumps({"verdict": "REGRESSION", "reason": "worse", "lines": []}))
    sys.exit(int(behaviour.split()[1]))
if behaviour == "kill":
    os.kill(os.getpid(), 9)
if behaviour == "sleep":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "from tasks.core import process; process.die_with_driver(); import time; time.sleep(600)"], env=os.environ | {process.DRIVER_VARIABLE: str(os.getpid())})
    pathlib.Path("pids.json").write_text(json.dumps([os.getpid(), child.pid]))
    time.sleep(600)
if behaviour == "crash once":
    if not pathlib.Path("crashed").exists():
        pathlib.Path("crashed").touch()
        sys.exit(1)
source = [pathlib.Path("rows.csv").read_text()] + [(artifacts / up / "manifest.json").read_text() for up in upstream]
digest = hashlib.sha256(json.dumps([stage, source]).encode()).hexdigest()
out = artifacts / stage
shutil.rmtree(out, ignore_errors=True)
out.mkdir(parents=True)
if stage == "validate":
    (out / "report.html").write_text("<p>fine</p>")
if stage == "tune":
    (out / "trials.csv").write_text("trial,value,best,state\\n0,0.7,0.7,complete\\n1,0.8,0.8,complete\\n")
if stage == "compress":
    (out / "candidates.json").write_text(json.dumps([{"name": "fp32", "auc": 0.8, "size_kib": 9.0, "chosen": False},
                                                     {"name": "int8", "auc": 0.8, "size_kib": 3.0, "chosen": True}]))
if stage == "verify":
    line = {"metric": "auc", "original": 0.8, "original_interval": [0.79, 0.81], "shipped": 0.7995,
            "shipped_interval": [0.789, 0.809], "drop": 0.0005, "bound": 0.001, "margin": 0.002, "n": 1000,
            "verdict": "ACCEPT", "reason": "the bound is below the margin"}
    (out / "verdict.json").write_text(json.dumps({"verdict": "ACCEPT", "reason": "as good", "lines": [line]}))
    (artifacts / "metrics.json").write_text(json.dumps({"auc": 0.8}))
facts = {"name": "tiny", "digest": digest} if stage == "export" else {}
if stage == "export":
    (pathlib.Path("dist/tiny") / f"1-{digest[:12]}").mkdir(parents=True, exist_ok=True)
(out / "manifest.json").write_text(json.dumps({"metrics": {f"{stage}.rows": 3}, "facts": facts}))
say("INFO", f"{stage}: done")
'''


def make(root: Path, behaviour: dict[str, str] | None = None) -> Path:
    """Fill ``root`` with the project, committed; return it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(PARAMS)
    (root / "stage.py").write_text(STAGE)
    (root / "rows.csv").write_text("a,late\n1,0\n")
    (root / "suite.yaml").write_text("checks: []\n")
    (root / ".gitignore").write_text("artifacts/\ndist/\nbehaviour.json\npids.json\ncrashed\n")
    (root / "dvc.yaml").write_text(_dvc_yaml())
    behave(root, behaviour or {})
    git(root, "init", "-q")
    run(root, "dvc", "init", "-q")
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    commit(root)
    return root


def _dvc_yaml() -> str:
    document: dict[str, object] = {}
    for stage in STAGES:
        deps = ["stage.py", *(["rows.csv"] if stage == "ingest" else []), *(f"artifacts/{up}" for up in UPSTREAM[stage])]
        command = " ".join(["python stage.py", stage, *UPSTREAM[stage]])
        outs = [{f"artifacts/{stage}": {"persist": True}}]
        document[stage] = {"cmd": command, "deps": deps, "params": [stage], "outs": outs}
    return json.dumps({"stages": document})


def behave(root: Path, behaviour: dict[str, str]) -> None:
    """Tell stages what to do: "work", "sleep", "kill", "crash once" or "exit <code>"."""
    (root / "behaviour.json").write_text(json.dumps(behaviour))


def git(root: Path, *arguments: str) -> str:
    """Run Git in ``root``; return its output."""
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout


def commit(root: Path) -> None:
    """Commit everything that is not ignored."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "state")


def environment() -> dict[str, str]:
    """As in an activated virtual environment, with no Prefect server configured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1"}


def run(root: Path, command: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a console script of this environment in ``root``; its exit code must be ``code``."""
    done = subprocess.run(
        [str(BIN / command), *arguments], cwd=root, capture_output=True, text=True, env=environment(), timeout=120
    )
    assert done.returncode == code, textwrap.indent(f"{done.stdout}\n{done.stderr}", "    ")
    return done
