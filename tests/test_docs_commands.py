"""Every command that README, docs/ and the template of plug-ins tell a reader to type is run, in a tiny world.

The tables below have them in an order that makes sense in one world; :data:`BY_OTHERS` names those that another test
runs. A command that is on a page and not here fails, and so does one that is here and on no page.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_pipeline
import promote_world
import pyarrow.parquet as pq
import pytest
import retrain_world
from docs_pages import DIGEST, EVERY, ROOT, blocks, text
from docs_world import Shell, Step
from monitor_world import steady
from prefect.settings import PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML

from deploy import golden
from flows.server import TemporaryServer
from tasks.promote.store import FolderStore
from tasks.validate import suite

# A pipeline: stages that are small scripts, DVC and Prefect as they are.


def keep(shell: Shell) -> None:
    fake_pipeline.commit(shell.root)


def lose_an_output(shell: Shell) -> None:
    shutil.rmtree(shell.root / "artifacts" / "verify")


def another_folder(shell: Shell) -> None:
    """The params file and the suite of `docs/bring-your-own.md`, with data beside them."""
    folder = shell.root / "other"
    folder.mkdir()
    page = text(ROOT / "docs" / "bring-your-own.md")
    for name, content in zip(
        ("params.yaml", "suite.yaml"), (own for kind, own in blocks(page) if kind == "yaml"), strict=True
    ):
        (folder / name).write_text(content)
    (folder / "customers.csv").write_text("plan,months,left\nfree,3,1\n")
    suite.load(folder / "suite.yaml", {"plan": "string", "months": "int64", "left": "int64"})


DVC = (
    Step("dvc repro", "export: done"),
    Step("dvc status", "up to date", keep),
    Step("dvc metrics show", "verify.trials"),
    Step("dvc exp run -S tune.trials=4", "Ran experiment"),
    Step("dvc metrics diff", "verify.trials"),
    Step("dvc plots show", "index.html"),
    Step("dvc push", "pushed"),
    Step("dvc pull", "added", lose_an_output),
    Step("assay retrain", "flights: ACCEPTED: the first run", keep),
)
RUNS = (
    Step("assay run", "All stages are up to date."),
    Step("assay run --params FOLDER/params.yaml --retries 2", "export: done", another_folder),
    Step("assay run --params FOLDER/params.yaml", "All stages are up to date."),
    Step("assay run --params FOLDER/params.yaml --force tune", "tune: done"),
)


def test_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    shell = Shell(retrain_world.make(tmp_path / "project"), monkeypatch, capfd, FOLDER="other")
    # One server for all runs: without one, each starts its own.
    with TemporaryServer(tmp_path / "prefect", start_seconds=300) as server:
        shell.follow(DVC)
        with temporary_settings({PREFECT_API_URL: server.ready()}):
            shell.follow(RUNS)


# Bundles: prediction, signatures, promotion, serving, monitoring.

#: Packages are audited against a list on the network, which a test does not ask: somebody audited them elsewhere.
AUDITED = ("--audit-report", "report.json")
WORD = "open-sesame-open-sesame"
HEADERS = '-H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json"'
ROWS = '{"columns": {"carrier": ["UA"], "distance": [1400], ...}}'
CURL = f"curl {HEADERS} -d '{ROWS}' http://127.0.0.1:8080/v2/models/flights/rows"


def rows(shell: Shell) -> None:
    (shell.root / "rows.csv").write_text("distance,pressure,seats,route,carrier,holiday\n900,1000,50,3,AA,true\n")


def unsigned(shell: Shell) -> None:
    folder = shell.root / "dist" / "tiny"
    (folder / f"{shell.names[f'1-{DIGEST}']}.sig").unlink()


def the_key_that_signs(shell: Shell) -> None:
    """The key just made is the project's from now on; and a server has a token."""
    for ending in ("key", "pub"):
        shutil.copy(shell.home / "keys" / f"assay.{ending}", shell.root / "keys")
    shutil.copy(shell.root / "keys" / "assay.pub", shell.root)
    (shell.root / "tokens.txt").write_text(f"{WORD}\n")


def whole_rows(shell: Shell) -> None:
    """What stands for `...` and `$TOKEN` on the page."""
    bundle = promote_world.bundle_of(shell.root)
    columns = {name: values[:1].ravel().tolist() for name, values in golden.read(bundle)[0].columns.items()}
    shell.names |= {"$TOKEN": WORD, ROWS: json.dumps({"columns": columns})}


def kept_by_dvc(shell: Shell) -> None:
    """As `assay run` leaves it: the output of `export` in DVC's cache, and its lock committed."""
    for code in ("deploy", "tasks/core", "tasks/export"):
        (shell.root / code).mkdir(parents=True)
        (shell.root / code / "code.txt").write_text("code\n")
    shell.do(["dvc", "commit", "--force", "export"])
    fake_pipeline.git(shell.root, "commit", "-q", "-m", "lock", "dvc.lock")
    promote_world.report(shell.root, promote_world.bundle_of(shell.root), shell.root / "report.json")


def a_second_version(shell: Shell) -> None:
    """It serves at staging, and is the one that is spoken of from now on."""
    second = promote_world.another(shell.root)
    promote_world.export_of(shell.root, second)
    fake_pipeline.git(shell.root, "commit", "-q", "--allow-empty", "-m", "another lock")
    promote_world.move(FolderStore(shell.root / "store"), second, "staging")
    shell.names |= {f"1-{DIGEST}": second.name, "VERSION": second.name}


def back_to_the_first(shell: Shell) -> None:
    shell.names[f"1-{DIGEST}"] = promote_world.bundle_of(shell.root).name


def recent_rows(shell: Shell) -> None:
    pq.write_table(steady(0), shell.root / "recent.parquet")
    path = shell.root / "params.yaml"
    raw: Any = YAML(typ="safe").load(path.read_text())
    with path.open("w") as file:
        YAML().dump(raw | {"monitor": {"rows": "recent.parquet", "min_rows": 300}}, file)


BUNDLES = (
    Step("assay predict dist/flights/1-<digest> rows.csv --out predictions.csv", "", rows),
    Step("assay keys new ~/keys", "public, for whoever gets a bundle"),
    Step("assay sign dist/flights/1-<digest> --key ~/keys/assay.key", "dist/flights/1-<digest>.sig", unsigned),
    Step("assay verify-bundle dist/flights/1-<digest> --key ~/keys/assay.pub", "signed with the other half of"),
    Step("assay serve dist/flights --unsigned", "200"),
    Step("assay serve dist/flights --key assay.pub --token-file tokens.txt", "200", the_key_that_signs),
    Step(CURL, '"probability"', whole_rows),
    Step("assay promote flights 1-<digest> --to staging", "staging now serves 1-<digest>", kept_by_dvc, AUDITED),
    Step("assay promote flights 1-<digest> --to prod --approve-with KEY", "prod now serves 1-<digest>", more=AUDITED),
    Step("dvc artifacts get . flights --stage prod", "export"),
    Step("assay serve flights@prod --store STORE --key assay.pub", "200"),
    Step("assay approve flights 1-<digest> --key KEY --to prod --out approval.json", "approves", a_second_version),
    Step(
        "assay promote flights 1-<digest> --to prod --approval approval.json --audit-report report.json",
        "prod now serves VERSION",
    ),
    Step("assay rollback flights --to prod", "prod serves 1-<digest> again", back_to_the_first),
    Step("assay rollback flights --to prod VERSION --reason WHY", "prod serves VERSION again"),
    Step("assay rollback flights --to prod --reason WHY", "prod serves 1-<digest> again"),
    Step("assay history flights", "why: too slow; all gates PASS"),
    Step("assay verify-bundle STORE/flights/VERSION --key assay.pub", "signed with the other half of"),
    Step("assay serve flights@prod --store store --key assay.pub --prediction-log predictions", "200"),
    Step("assay monitor", "STEADY", recent_rows),
    Step("assay models --out models.html", "STEADY"),
)


def test_a_bundle(promotable: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    shell = Shell(promotable, monkeypatch, capfd, KEY="keys/ann.key", STORE="store", WHY="too slow")
    back_to_the_first(shell)
    shell.follow(BUNDLES)
    assert len((promotable / "predictions.csv").read_text().splitlines()) == 2
    assert len(list((promotable / "predictions").iterdir())) == 1
    assert "STEADY" in (promotable / "models.html").read_text()


# Pages with one command.


DASHBOARD = (Step("optuna-dashboard artifacts/runs/study.log", "<html"),)
SHELLS = (Step("source .venv/bin/activate", ""),)
MAKE = (Step("make run", "assay run"), Step("make test", "pytest"))


@pytest.mark.skipif(not (fake_pipeline.BIN / "optuna-dashboard").exists(), reason="needs the extra dashboard")
def test_the_study_in_optunas_dashboard(
    world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Shell(world, monkeypatch, capfd).follow(DASHBOARD)


@pytest.mark.skipif(not (fake_pipeline.BIN / "activate").exists(), reason="needs a virtual environment")
def test_an_environment_is_activated() -> None:
    script = f"source '{fake_pipeline.BIN / 'activate'}' && command -v python"
    found = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
    assert Path(found.strip()).parent == fake_pipeline.BIN


@pytest.mark.parametrize("step", MAKE, ids=lambda step: step.documented)
def test_make_would_do_it(step: Step) -> None:
    """Not done: it would make an environment and fetch data, or run this very test."""
    done = subprocess.run(
        [*step.words, "--dry-run", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert step.told in done.stdout


# What is run elsewhere, or cannot be.

UP = "test_up_runs_a_scheduled_retraining_as_a_team_has_it_and_down_leaves_nothing"
#: Command -> file under tests/, and its test.
BY_OTHERS = {
    "assay up": ("test_services_team.py", UP),
    "assay down": ("test_services_team.py", UP),
    "assay predict dist/flights/1-<digest> rows.csv --target edge": (
        "test_targets.py",  # it has a bundle for two targets
        "test_the_command_line_takes_a_target",
    ),
    "assay verify-model original.onnx candidate.onnx --data test.npz --label y --margin 0.005": (
        "test_verify_model.py",
        "test_a_twin_is_accepted_and_leaves_its_evidence",
    ),
    "pytest examples/custom/tests": ("test_plugins.py", "test_the_example_passes_its_own_contract_tests"),
    # The fixture installs it, without what it depends on.
    "pip install ./examples/custom": ("test_plugins.py", "test_the_example_passes_its_own_contract_tests"),
    # Its data come from the network: each stage runs with these plug-ins on other rows.
    "assay run --params examples/custom/params.yaml": ("test_plugins.py", "test_the_example_goes_through_every_room"),
    # They ask a registry: that there are such extras is looked up.
    'pip install ".[serve,sign]"': ("test_docs.py", "test_a_command_is_one_that_its_program_takes"),
    "pip install '.[dashboard]'": ("test_docs.py", "test_a_command_is_one_that_its_program_takes"),
}


def test_every_command_of_the_pages_is_run() -> None:
    own = [step.words for step in (*DVC, *RUNS, *BUNDLES, *DASHBOARD, *SHELLS, *MAKE)]
    others = [Step(documented, "").words for documented in BY_OTHERS]
    done = [*own, *others]
    documented = {tuple(words) for _, words in EVERY}
    assert len(done) == len(set(done)), "one is here twice"
    assert documented - set(done) == set(), "a page has a command that no test runs"
    assert set(done) - documented == set(), "no page has it"


@pytest.mark.parametrize("command", BY_OTHERS)
def test_the_other_test_is_there(command: str) -> None:
    file, test = BY_OTHERS[command]
    assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text()
