"""The room `verify`: what it leaves, what stops the run, and the process that scores."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import worlds
from fault_world import Change, answer, rewrite, table

from tasks.core import files, manifest, scoring, uses
from tasks.core.errors import IntegrityError, MachineError, NotProven
from tasks.core.metrics import auc
from tasks.core.original import load_encoder
from tasks.core.stage import run_stage
from tasks.core.statistics import Comparison
from tasks.verify import case

# The room itself.


def run(root: Path, **own: Any) -> manifest.Manifest:
    return run_stage("verify", worlds.write_params(root, {"verify": own}), root)


def verdict(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = files.read_json(folder / "verdict.json")
    return found


WORSE, NAN = answer("Round(raw)"), answer("Sub(raw, raw) -> z; Div(z, z)")


def test_an_accept_leaves_its_evidence(tiny: Path) -> None:
    verified = tiny / "artifacts" / "verify"
    found = verdict(verified)
    assert found["verdict"] == "ACCEPT"
    assert found["provider"] == "CPUExecutionProvider"
    assert found["model_sha256"] == files.sha256(tiny / "artifacts" / "compress" / "model.onnx")
    (line,) = found["lines"]
    assert line["metric"] == "auc"
    assert line["n"] == worlds.SIZES["test"]
    assert line["lower"] <= line["drop"] <= line["bound"] <= line["margin"]
    predictions = pq.read_table(verified / "predictions.parquet")
    labels, original, shipped = (predictions[name].to_numpy() for name in ("label", "original", "shipped"))
    assert line["original"] == pytest.approx(auc(labels, original))
    assert line["shipped"] == pytest.approx(auc(labels, shipped))
    assert line["drop"] == pytest.approx(line["original"] - line["shipped"])
    test = pq.read_table(tiny / "artifacts" / "validate" / "test.parquet")
    assert predictions["row"].equals(test["row"])
    assert labels.tolist() == test["late"].to_pylist()
    assert not (tiny / "artifacts" / "rejected").exists()


def test_the_original_scores_are_torchs_and_the_shipped_ones_the_files(tiny: Path) -> None:
    predictions = pq.read_table(tiny / "artifacts" / "verify" / "predictions.parquet")
    differences = np.abs(predictions["original"].to_numpy() - predictions["shipped"].to_numpy())
    assert 0 < differences.max() < 0.1, "int8 is not quite the original"


def test_the_metrics_of_all_stages_are_gathered(tiny: Path) -> None:
    gathered = files.read_json(tiny / "artifacts" / "metrics.json")
    assert all(isinstance(value, (int, float)) for value in gathered.values())
    assert {name.partition(".")[0] for name in gathered} == {"validate", "tune", "compress", "verify"}
    assert gathered["verify.shipped_auc"] == verdict(tiny / "artifacts" / "verify")["lines"][0]["shipped"]


@pytest.mark.parametrize(
    ("change", "own", "word"),
    [
        (WORSE, {}, "REGRESSION"),
        (NAN, {}, "ANOMALOUS"),
        (None, {"margin": 1e-9}, "INCONCLUSIVE"),
    ],
)
def test_any_other_verdict_stops_the_run_and_is_published(
    world: Path, change: Change | None, own: dict[str, Any], word: str
) -> None:
    if change is not None:
        rewrite(world, change)
    artifacts = world / "artifacts"
    before, metrics = manifest.identity(artifacts / "verify"), (artifacts / "metrics.json").read_bytes()
    with pytest.raises(NotProven, match=word) as caught:
        run(world, **own)
    assert caught.value.exit_code == 4
    assert "report.html" in caught.value.way_out
    assert manifest.identity(artifacts / "verify") == before
    assert verdict(artifacts / "verify")["verdict"] == "ACCEPT"
    assert (artifacts / "metrics.json").read_bytes() == metrics
    assert not list(artifacts.glob(".verify.p*"))
    told = verdict(artifacts / "rejected" / "verify")
    assert told["verdict"] == word
    assert told["reason"] in str(caught.value)
    assert (artifacts / "rejected" / "verify" / "predictions.parquet").is_file()


def test_a_report_of_a_rejected_run_does_not_outlive_an_accepted_one(world: Path) -> None:
    with pytest.raises(NotProven):
        run(world, margin=1e-9)
    assert (world / "artifacts" / "rejected" / "verify").exists()
    run(world)
    assert not (world / "artifacts" / "rejected" / "verify").exists()


@pytest.mark.parametrize(
    ("answers", "said", "lines"),
    [
        (lambda labels: labels[:-1], "600 labels, 600 and 599 answers", 0),
        (lambda labels: labels + np.inf, "600 answers of the exported model are not finite", 0),
        (lambda labels: labels, "which no compression explains", 1),
    ],
    ids=["too few", "infinite", "too good"],
)
def test_answers_that_cannot_be_are_anomalous(
    world: Path, monkeypatch: pytest.MonkeyPatch, answers: Callable[[np.ndarray], np.ndarray], said: str, lines: int
) -> None:
    labels = pq.read_table(world / "artifacts" / "validate" / "test.parquet")["late"].to_numpy().astype(np.float32)

    def score(*_: Any) -> scoring.Exported:
        return scoring.Exported(answers(labels)[:, None], "CPUExecutionProvider")

    monkeypatch.setattr(case, "score", score)
    with pytest.raises(NotProven, match=f"ANOMALOUS: .*{said}"):
        run(world)
    assert len(verdict(world / "artifacts" / "rejected" / "verify")["lines"]) == lines


@pytest.mark.parametrize("keep", [lambda late: late == 1, lambda late: False], ids=["one class", "no rows"])
def test_a_test_split_that_cannot_judge_is_anomalous(world: Path, keep: Callable[[int], bool]) -> None:
    test = table(world, "test")
    table(world, "test", test.filter(pa.array([keep(late) for late in test["late"].to_pylist()])))
    with pytest.raises(NotProven, match="ANOMALOUS: auc has no value on the"):
        run(world)


def test_evidence_without_a_figure_is_published_as_null(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = float("nan")
    empty = Comparison(0.8, (nan, nan), 0.8, (nan, nan), 0.0, nan, nan, 3, 1, "none")
    monkeypatch.setattr(case.Case, "compare", lambda *_: empty)
    with pytest.raises(NotProven, match="ANOMALOUS"):
        run(world)
    text = (world / "artifacts" / "rejected" / "verify" / "verdict.json").read_text()
    assert json.loads(text)["lines"][0]["bound"] is None


# The process that scores.


@pytest.fixture
def given(tiny: Path) -> tuple[Path, Any, pa.Table]:
    """What the exported file is scored with."""
    encoder = load_encoder(tiny / "artifacts" / "tune")
    rows = pq.read_table(tiny / "artifacts" / "validate" / "test.parquet").slice(0, 20)
    return tiny / "artifacts" / "compress", encoder, rows


def test_the_scoring_process_holds_deploys_code_and_nothing_else(given: Any, tmp_path: Path) -> None:
    folder, encoder, rows = given
    np.savez(tmp_path / "rows.npz", **encoder.raw_inputs(rows))
    code = (
        "import sys; from deploy.score import main; "
        "assert main(sys.argv[1:]) == 0; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    command = [sys.executable, "-c", code, folder, tmp_path / "rows.npz", tmp_path / "out.npz", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"deploy", "numpy", "onnxruntime"} <= loaded
    assert not loaded & {"torch", "pandas", "pyarrow", "onnx", "tasks", "flows", "prefect", "dvc", "optuna", "pydantic"}


@pytest.mark.parametrize("foreign", ["torch", "tasks"])
def test_the_scoring_process_refuses_to_answer_beside_anything_else(given: Any, tmp_path: Path, foreign: str) -> None:
    folder, encoder, rows = given
    np.savez(tmp_path / "rows.npz", **encoder.raw_inputs(rows))
    code = f"import sys; sys.modules['{foreign}'] = sys; from deploy.score import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, folder, tmp_path / "rows.npz", tmp_path / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert foreign in done.stderr


def test_a_model_that_does_not_load_is_an_integrity_error(given: Any, tmp_path: Path) -> None:
    folder, encoder, rows = given
    (tmp_path / "signature.json").write_bytes((folder / "signature.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="must load"):
        scoring.score_exported(tmp_path, encoder, rows, "cpu")


@pytest.mark.parametrize("said", ["device cuda must really be used", "[Errno 28] No space left on device"])
def test_what_the_machine_refuses_the_scoring_process_is_a_machine_error(
    given: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    folder, encoder, rows = given
    failed = subprocess.CompletedProcess([], 2, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MachineError) as caught:
        scoring.score_exported(folder, encoder, rows, "cpu")
    assert said in str(caught.value)


def test_no_rows_are_scored_without_a_crash(given: Any) -> None:
    folder, encoder, rows = given
    assert scoring.score_exported(folder, encoder, rows.slice(0, 0), "cpu").answers.shape == (0, 1)


def test_what_differs_from_run_to_run_is_no_part_of_an_accept(world: Path) -> None:
    limits = {"min_speedup": 0.001, "max_p99_ms": 1e5, "max_memory_mib": 1e6, "max_size_kib": 1e5}
    settings = worlds.write_params(world, {"compress": limits})
    artifacts = world / "artifacts"
    run_stage("compress", settings, world)
    run_stage("verify", settings, world)
    before = manifest.identity(artifacts / "verify")
    lines = {line["name"]: line for line in verdict(artifacts / "verify")["checks"] if line["kind"] == "budget"}
    assert [line["verdict"] for line in lines.values()] == ["ACCEPT"] * 5
    assert lines["peak of memory in MiB"]["shipped"] is None
    assert "within 1e+06; the figures are in the run record" in lines["peak of memory in MiB"]["reason"]
    assert lines["size in KiB"]["shipped"] > 1

    # Another time of day, and one judgement more on that test set, of which nothing is known any more.
    candidates = files.read_json(artifacts / "runs" / "candidates.json")
    for one in candidates:
        one["peak_mib"] *= 3
        for lap in one["latency"].values():
            lap["p99_ms"] *= 3
            lap["ratio_high"] *= 1.1
    files.write_json(artifacts / "runs" / "candidates.json", candidates)
    (artifacts / uses.LEDGER).unlink()
    (artifacts / "runs" / "verify.json").unlink()
    shutil.rmtree(artifacts / "verify")
    shutil.rmtree(world / "dist")
    run_stage("verify", worlds.write_params(world, {"compress": limits, "verify": {"resamples": 3001}}), world)
    run_stage("verify", settings, world)
    assert manifest.identity(artifacts / "verify") == before

    measured = files.read_json(artifacts / "runs" / "verify.json")["measured"]
    (memory,) = (line for line in measured["checks"] if line["name"] == "peak of memory in MiB")
    (used,) = (line for line in measured["checks"] if line["kind"] == "use")
    assert memory["shipped"] == next(one["peak_mib"] for one in candidates if one["chosen"])
    assert list(measured["test"]["judgements"].values()) == [used["n"]] == [2]
    page = (artifacts / "runs" / "verify.html").read_text()
    assert "judgement 2 on this test set" in page
    assert "judgement" not in (artifacts / "verify" / "report.html").read_text()
