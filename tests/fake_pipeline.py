"""A tiny project, with the real ``dvc.yaml`` and stages that are one small script, told by a file how to behave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from tasks.core import files
from tasks.core.settings import STAGES

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent

PARAMS = """\
base: {name: tiny, target: late, artifacts_dir: artifacts}
ingest: {source: rows.csv}
validate: {suite: suite.yaml, split: {by: random}}
tune: {trials: 2}
compress: {}
verify: {}
export: {}
"""

# PYTHONPATH (see environment) makes `python -P -m tasks` find this package first, and by its path the real tasks.core.
PACKAGE = f"__path__.append({str(Path(tasks.__file__).parent)!r})\n"

STAGE = """
import argparse, hashlib, json, os, pathlib, shutil, subprocess, sys, time
from deploy.bundle import write_manifest
from tasks.core import manifest, process
from tasks.core.errors import AssayError
from tasks.core.files import machine_errors, write_json
from tasks.core.log import log, log_file, logging_to
from tasks.core.settings import load
from tasks.core.stage import UPSTREAM, run_stage
from tasks.export.publish import last_number

HOME = pathlib.Path(__file__).parents[1]  # the project, also for a stage that runs in a worktree beside it
parser = argparse.ArgumentParser()
parser.add_argument("stage")
parser.add_argument("--params", type=pathlib.Path, default=pathlib.Path("params.yaml"))
options = parser.parse_args()
stage, params = options.stage, load(options.params)
process.stop_on_terminate()
process.die_with_driver()
if stage == "child":
    time.sleep(600)
artifacts = pathlib.Path(params.base.artifacts_dir)
out = artifacts / stage

def work():
    behaviour = json.loads((HOME / "behaviour.json").read_text()).get(stage, "work")
    log.info("%s: hello from %s", stage, pathlib.Path(sys.executable).parent)
    if behaviour.startswith("exit"):
        log.error("%s: cannot\\n  found:   nothing", stage)
        rejected = artifacts / "rejected" / stage
        rejected.mkdir(parents=True, exist_ok=True)
        (rejected / "report.html").write_text("<p>no</p>")
        (rejected / "verdict.json").write_text(json.dumps({"verdict": "REGRESSION", "reason": "worse", "lines": []}))
        sys.exit(int(behaviour.split()[1]))
    if behaviour == "real":  # Assay's own stage
        run_stage(stage, params, options.params.parent)
        return
    if behaviour == "pause":
        write_json(HOME / "pids.json", [os.getpid()])
        while json.loads((HOME / "behaviour.json").read_text()).get(stage) == "pause":
            time.sleep(0.1)
    if behaviour == "kill":
        os.kill(os.getpid(), 9)
    if behaviour == "sleep":
        driver = {process.DRIVER_VARIABLE: str(os.getpid())}
        child = subprocess.Popen([sys.executable, "-m", "tasks", "child"], env=os.environ | driver)
        write_json(HOME / "pids.json", [os.getpid(), child.pid])
        time.sleep(600)
    if behaviour == "crash once" and not (HOME / "crashed").exists():
        (HOME / "crashed").touch()
        sys.exit(1)
    before = {up: artifacts / up for up in UPSTREAM[stage]}
    rows = pathlib.Path(params.ingest.source).read_text()
    source = [rows, *(manifest.identity(folder) for folder in before.values())]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    facts = fill(hashlib.sha256(json.dumps([stage, source]).encode()).hexdigest())
    roles = {path.name: "output" for path in out.iterdir()}
    manifest.write(manifest.build(stage, "settings", before, out, roles, {f"{stage}.rows": 3}, facts), out)
    log.info("%s: done", stage)

def fill(digest):
    (out / "content.txt").write_text(digest)
    if stage == "ingest" and params.ingest.time_column:
        return snapshot()
    if stage == "validate":
        (out / "report.html").write_text("<p>fine</p>")
        outcome = {"name": "rows are whole", "column": "when", "outcome": "warning", "found": "3 are not"}
        (out / "results.json").write_text(json.dumps({"outcomes": [outcome]}))
    if stage == "tune":
        rows = [f"{trial},{0.7 + trial / 100},{0.7 + trial / 100},complete" for trial in range(params.tune.most_trials)]
        (out / "trials.csv").write_text("\\n".join(["trial,value,best,state", *rows, ""]))
        (out / "report.html").write_text("<p>found</p>")
    if stage == "compress":
        candidates = [{"name": "fp32", "value": 0.8, "size_kib": 9.0, "chosen": False},
                      {"name": "int8", "value": 0.8, "size_kib": 3.0, "chosen": True}]
        (out / "candidates.json").write_text(json.dumps(candidates))
        return {"chosen": "int8", "candidates": candidates, "variants": {"cpu": "int8"}}
    if stage == "verify":
        line = {"metric": "auc", "original": 0.8, "original_interval": [0.79, 0.81], "shipped": 0.7995,
                "shipped_interval": [0.789, 0.809], "drop": 0.0005, "bound": 0.001, "margin": 0.002, "n": 1000,
                "verdict": "ACCEPT", "reason": "the bound is below the margin", "variant": "cpu"}
        (out / "verdict.json").write_text(json.dumps({"verdict": "ACCEPT", "reason": "as good", "lines": [line]}))
        (artifacts / "metrics.json").write_text(json.dumps({"verify.trials": params.tune.most_trials}))
    if stage == "export":
        dist = pathlib.Path(params.base.dist_dir) / params.base.name
        known = next(iter(dist.glob(f"*-{digest[:12]}")), None)
        bundle = known or dist / f"{last_number(dist) + 1}-{digest[:12]}"
        bundle.mkdir(parents=True, exist_ok=True)
        (bundle / "model.onnx").write_text(digest)
        write_manifest(bundle)
        return {"name": params.base.name, "digest": digest}
    return {}

def snapshot():
    import pyarrow.compute as pc
    import pyarrow.csv, pyarrow.parquet
    rows = pyarrow.csv.read_csv(params.ingest.source)
    if params.ingest.as_of:
        rows = rows.filter(pc.less(rows["when"], pyarrow.scalar(params.ingest.as_of, rows["when"].type)))
    pyarrow.parquet.write_table(rows, out / "rows.parquet")
    columns = {name: "timestamp" if name == "when" else "int64" for name in rows.column_names}
    as_of = params.ingest.as_of and params.ingest.as_of.isoformat()
    return {"columns": columns, "rows": len(rows), "as_of": as_of, "content_hash": str(len(rows))}

try:
    with machine_errors(artifacts), logging_to(log_file(artifacts, stage)):
        work()
except AssayError as error:
    log.error("%s: %s", stage, error)
    sys.exit(error.exit_code)
"""


def make(root: Path, behaviour: dict[str, str] | None = None) -> Path:
    """Fill ``root`` with the project, committed; return it."""
    root.mkdir(parents=True, exist_ok=True)
    texts = {"params.yaml": PARAMS, "rows.csv": "a,late\n1,0\n", "suite.yaml": "checks: []\n",
             ".gitignore": "artifacts/\ndist/\n__pycache__/\nbehaviour.json\npids.json\ncrashed\n",
             "tasks/__init__.py": PACKAGE, "tasks/__main__.py": STAGE}  # fmt: skip
    code = ["deploy/code.txt", *(f"tasks/{folder}/code.txt" for folder in ("core", *STAGES))]
    for name, text in (texts | dict.fromkeys(code, "code\n")).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    behave(root, behaviour or {})
    git(root, "init", "-q")
    commit(root)
    return root


def behave(root: Path, behaviour: dict[str, str]) -> None:
    """Tell stages what to do: "work", "sleep", "pause" (until told otherwise), "kill", "crash once", "exit <code>" or
    "real"."""
    files.write_json(root / "behaviour.json", behaviour)  # whole, for a stage that looks at it ten times a second


def change_rows(root: Path) -> None:
    """Make every stage out of date."""
    with (root / "rows.csv").open("a") as file:
        file.write("2,1\n")


def git(root: Path, *arguments: str) -> str:
    """Run Git in ``root``; return its output."""
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path) -> None:
    """Commit everything that is not ignored."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "state")


def environment(root: Path) -> dict[str, str]:
    """As in an activated virtual environment, with no Prefect server configured; stages are those of ``root``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "ASSAY"))}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1",
                   "PYTHONPATH": str(root),
                   "GIT_AUTHOR_NAME": "Tester", "GIT_AUTHOR_EMAIL": "tester@example.org",
                   "GIT_COMMITTER_NAME": "Tester", "GIT_COMMITTER_EMAIL": "tester@example.org"}  # fmt: skip


def run_stages_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a driver in this process start the stages of ``root``; return it."""
    monkeypatch.setenv("PYTHONPATH", str(root))
    return root


def run(root: Path, command: str, *arguments: str, code: int = 0, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a console script of this environment in ``root``, with ``more`` variables; its exit code must be ``code``."""
    done = subprocess.run(  # noqa: PLW1510 (its exit code is looked at below)
        [str(BIN / command), *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        env=environment(root) | more,
        timeout=300,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done
