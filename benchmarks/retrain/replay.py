"""The year 2013 of the flights example, retrained on the first of ten months by a schedule that nobody watches.

    python benchmarks/retrain/replay.py [--out build/replay] [--months 10]

A project of its own (Git, DVC with a remote, signing key, one approver) is made in the folder; `assay up` starts a real
Prefect server and a worker there. Each month's run is scheduled on the server with that month's moment, and the worker
picks it up. What is accepted is merged, and promoted to staging and to production through all gates, as a person would
by the commands that the run's page names; what is not leaves the champion where it is. `scores.py` then compares what
served in each month with the others.

A gate `supply` that could not ask the network for known vulnerabilities is overruled, with that reason in the audit
log, if every other gate says PASS.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from deploy import signing
from deploy.store import read_pointer
from flows.pipeline import prepare

ROOT = Path(__file__).resolve().parents[2]
NAME = "flights"
APPROVER = "approver@example.org"
_FIRST_MONTH = 3  # January and February are what the first run learns from
_PATIENCE = 3 * 3600.0
#: Checks of the example's suite that only a whole year passes; `retrain` asks for fresh rows itself.
_WHOLE_YEAR = ("expect_table_row_count_to_be_between", "newest_row", "expect_column_distinct_values_to_equal_set")
#: The example's own settings but for these: windows that move along, a moment for the snapshot, a person's promotion.
_CHANGES: dict[str, dict[str, Any]] = {
    "ingest": {"source": "source.yaml", "time_column": "time_hour", "as_of": "2013-03-01"},
    "validate": {
        "suite": "suite.yaml",
        "split": {"by": "time", "column": "time_hour", "validation_days": 10, "test_days": 10, "fresh_days": 14},
    },
    "tune": {"trials": 4},
    "compress": {"methods": ["int8", "int8_weights"]},
    "export": {"signing_key": "keys/assay.key"},
    "retrain": {"max_stale_days": 2},
    "promote": {
        "public_key": "keys/assay.pub",
        "margin": 0.01,  # two trainings differ by more than a file and its original do
        "latency": {"p99_ms": 500.0},
        "approval": {"approvers": {APPROVER: "keys/approver.pub"}},
    },
}


def main() -> None:
    """Replay the months, write results.json, print what became of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/replay"))
    parser.add_argument("--months", type=int, default=10)
    parser.add_argument("--port", type=int, default=4217)
    options = parser.parse_args()
    root = options.out.absolute() / "project"
    _make(root)
    url = f"http://127.0.0.1:{options.port}/api"
    _assay(root, "up", "--port", str(options.port))
    try:
        results = [
            _month(root, url, datetime(2013, month, 1, tzinfo=UTC))
            for month in range(_FIRST_MONTH, _FIRST_MONTH + options.months)
        ]
    finally:
        _assay(root, "down")
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    print("| snapshot | word | reason | staging | production | minutes |\n|---|---|---|---|---|---|")
    for one in results:
        line = (one["as_of"], one["word"], one["reason"], one["staging"], one["prod"], f"{one['seconds'] / 60:.1f}")
        print(f"| {' | '.join(line)} |")


def _make(root: Path) -> None:
    """The project, committed, with a DVC remote beside it."""
    shutil.rmtree(root.parent, ignore_errors=True)
    (root / "keys").mkdir(parents=True)
    example, yaml = ROOT / "examples" / "flights", YAML()
    shutil.copy(example / "source.yaml", root / "source.yaml")
    suite = yaml.load((example / "suite.yaml").read_text(encoding="utf-8"))
    suite["checks"] = [check for check in suite["checks"] if not _of_a_year(check)]
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, values in _CHANGES.items():
        params[section] = {**(params.get(section) or {}), **values}
    for name, document in (("suite.yaml", suite), ("params.yaml", params)):
        with (root / name).open("w", encoding="utf-8") as file:
            yaml.dump(document, file)
    (root / ".gitignore").write_text("artifacts/\ndist/\nstore/\nkeys/\n")
    for name in ("assay", "approver"):
        for path in signing.new_keys(root / "keys" / name):
            path.rename(root / "keys" / f"{name}{path.suffix}")
    _run(root, "git", "init", "--quiet")
    _run(root, "git", "config", "user.email", "author@example.org")
    _run(root, "git", "config", "user.name", "Author")
    _run(root, "dvc", "init", "--quiet")
    (root.parent / "remote").mkdir()
    _run(root, "dvc", "remote", "add", "--default", "beside", str(root.parent / "remote"))
    prepare(root / "params.yaml")  # the pipeline's dvc.yaml, which `assay run` writes
    _run(root, "git", "add", "--all")
    _run(root, "git", "commit", "--quiet", "--message", "The project")


def _of_a_year(check: dict[str, Any]) -> bool:
    return check["expect"] in _WHOLE_YEAR and check.get("column") in (None, "time_hour", "month")


def _month(root: Path, url: str, as_of: datetime) -> dict[str, Any]:
    """Schedule one retraining, wait for its end, promote what was accepted."""
    begun = time.monotonic()
    state = _scheduled(url, as_of)
    seconds = time.monotonic() - begun
    records = sorted((root / "artifacts" / "runs" / "retrain").glob("*/record.json"))
    record = json.loads(records[-1].read_text()) if records else {}
    if record.get("as_of") != as_of.isoformat():
        raise SystemExit(f"{as_of:%Y-%m-%d}: {state}, and no record of it; see {root / '.dvc' / 'tmp' / 'assay'}")
    told = {key: record.get(key) for key in ("word", "reason", "version", "champion", "snapshot", "when")}
    moves = _promoted(root, record) if record["word"] == "ACCEPTED" else {"staging": "", "prod": ""}
    served = read_pointer(root / "store", NAME, "prod")
    champion = {"serves": None if served is None else served.version}
    found = {"as_of": f"{as_of:%Y-%m-%d}", "state": state, "seconds": seconds, **told, **moves, **champion}
    print(json.dumps({key: value for key, value in found.items() if key != "snapshot"}), file=sys.stderr, flush=True)
    return found


def _scheduled(url: str, as_of: datetime) -> str:
    """The state in which a scheduled run of the deployment ended."""
    from prefect.deployments import run_deployment
    from prefect.settings import PREFECT_API_URL, temporary_settings

    parameters = {"params": "params.yaml", "as_of": f"{as_of:%Y-%m-%d}"}
    with temporary_settings({PREFECT_API_URL: url}):
        run: Any = run_deployment(f"retrain/{NAME}", parameters=parameters, timeout=_PATIENCE)
    return str(run.state.name)


def _promoted(root: Path, record: dict[str, Any]) -> dict[str, str]:
    """What became of both promotions, by the commands that a person types."""
    _run(root, "git", "merge", "--quiet", "--no-edit", record["branch"])
    _run(root, "dvc", "checkout", "--quiet", "--force")
    staging, prod = _promotion(root, record["version"], "staging"), ""
    if staging.startswith("promoted"):
        prod = _promotion(root, record["version"], "prod", "--approve-with", "keys/approver.key")
    return {"staging": staging, "prod": prod}


def _promotion(root: Path, version: str, stage: str, *more: str) -> str:
    command = ("promote", NAME, version, "--to", stage, *more)
    code = _assay(root, *command, refused=6)
    if code == 0:
        return "promoted"
    record = json.loads(max((root / "artifacts" / "promotions").glob("*.json")).read_text())  # named for its moment
    refused = [f"{gate['gate']} {gate['word']}" for gate in record["gates"] if gate["word"] != "PASS"]
    if refused != ["supply INCONCLUSIVE"]:
        return f"refused: {', '.join(refused)}"
    _assay(root, *command, "--force", "--reason", "no network here: known vulnerabilities could not be asked for")
    return "promoted, supply overruled"


def _assay(root: Path, *arguments: str, refused: int = 0) -> int:
    return _run(root, "assay", *arguments, allowed=(0, refused))


def _run(root: Path, *command: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Run a command of this environment in the project; its exit code.

    Raises:
        SystemExit: with what it says, if it ends with another code.
    """
    here = Path(sys.executable).parent
    path = os.pathsep.join([str(here), os.environ["PATH"]])
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"} | {"PATH": path}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode


if __name__ == "__main__":
    main()
