"""Everything, as a user has it: a project of one's own, six real stages, both drivers, and the bundle's answers."""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import csv_world
import fake_pipeline
import numpy as np
import pytest

from flows.pipeline import prepare
from tasks.core.files import read_json
from tasks.core.settings import STAGES

CHANGES: dict[str, dict[str, Any]] = {
    "base": {"artifacts_dir": "artifacts"},
    "validate": {"calibration_rows": 256},
    "tune": {"trials": 2, "epochs": 2},
    "compress": {"rounds": 20},
    "verify": {"margin": 0.05},
}


def run(root: Path, command: str, *arguments: str) -> str:
    """What a command says that ends well; nothing but `-P` keeps the project's own modules from being run."""
    return fake_pipeline.run(root, command, *arguments, PYTHONPATH="").stdout


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two clones of one commit: the first after `dvc repro`, the second after `assay run` with a server of its own."""
    folder = tmp_path_factory.mktemp("end_to_end")
    origin = folder / "origin"
    csv_world.write(origin, 6000, CHANGES)
    for name in ("tasks", "deploy", "flows"):
        (origin / f"{name}.py").write_text("raise SystemExit('a module of the project was run')\n")
    shutil.copytree(fake_pipeline.ROOT / ".dvc", origin / ".dvc", ignore=lambda *_: {"cache", "tmp"})
    fake_pipeline.git(origin, "init", "-q")
    prepare(origin / "params.yaml")
    (origin / ".gitignore").write_text("artifacts/\ndist/\n")
    fake_pipeline.commit(origin)
    by_dvc, by_assay = folder / "by_dvc", folder / "by_assay"
    for clone in (by_dvc, by_assay):
        fake_pipeline.git(folder, "clone", "-q", str(origin), str(clone))
    with ThreadPoolExecutor() as pool:
        dvc, assay = pool.submit(run, by_dvc, "dvc", "repro"), pool.submit(run, by_assay, "assay", "run")
    dvc.result()
    assert "ACCEPT" in assay.result()
    return by_dvc, by_assay


def the_bundle(root: Path) -> Path:
    (bundle,) = (root / "dist" / "tiny").glob("[0-9]*")
    return bundle


def test_both_drivers_make_the_same_down_to_the_byte(clones: tuple[Path, Path]) -> None:
    by_dvc, by_assay = clones
    assert (by_dvc / "dvc.lock").read_bytes() == (by_assay / "dvc.lock").read_bytes()
    digests = [read_json(root / "artifacts" / "export" / "manifest.json")["facts"]["digest"] for root in clones]
    assert digests[0] == digests[1]
    assert the_bundle(by_dvc).name == the_bundle(by_assay).name
    assert digests[0].startswith(the_bundle(by_dvc).name.partition("-")[2])


def test_each_driver_finds_the_others_work_up_to_date(clones: tuple[Path, Path]) -> None:
    by_dvc, by_assay = clones
    assert "All stages are up to date." in run(by_dvc, "assay", "run")
    assert run(by_assay, "dvc", "repro").count("didn't change") == len(STAGES)


def test_the_bundle_answers_its_golden_rows(clones: tuple[Path, Path], tmp_path: Path) -> None:
    bundle = the_bundle(clones[1])
    inputs = json.loads((bundle / "golden" / "typical.request.json").read_text())["inputs"]
    (expected,) = json.loads((bundle / "golden" / "typical.response.json").read_text())["outputs"]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(tensor["name"] for tensor in inputs)
        writer.writerows(zip(*(tensor["data"] for tensor in inputs), strict=True))
    said = run(clones[1], "assay", "predict", str(bundle), str(tmp_path / "rows.csv")).splitlines()
    tolerance = expected["parameters"]["absolute_tolerance"]["CPUExecutionProvider"]
    answers = [float(row[expected["name"]]) for row in csv.DictReader(said)]
    assert len(answers) == 5
    np.testing.assert_allclose(answers, expected["data"], rtol=0, atol=tolerance)
