"""The small parts of a conducted run: stopping, following a log, publishing, summing up, the temporary server."""

import base64
import logging
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from flows import interruptible, pictures, publish, summary
from flows.bundles import bundle, export_must_run
from flows.pipeline import prepare
from flows.server import TemporaryServer
from flows.session import conduct
from flows.stage_log import Follower
from tasks import retrain
from tasks.core.errors import MachineError, UsageError

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"


class TestInterruptible:
    def test_it_returns_what_the_work_returns_and_ticks_meanwhile_and_after(self):
        ticks = []
        assert interruptible.run(lambda: time.sleep(0.6) or "done", lambda: ticks.append(time.monotonic())) == "done"
        assert len(ticks) >= 3

    def test_it_raises_what_the_work_raises(self):
        with pytest.raises(ZeroDivisionError):
            interruptible.run(lambda: 1 / 0, lambda: None)

    def test_an_interrupt_ends_the_works_processes_grandchildren_too_and_spares_older_ones(self):
        sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
        nested = f"import subprocess, sys; subprocess.run({sleep!r})"
        older = subprocess.Popen(sleep)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        born: list[psutil.Process] = []

        def tick():
            born[:] = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
            if len(born) == 2:
                raise KeyboardInterrupt

        try:
            with pytest.raises(KeyboardInterrupt):
                interruptible.run(lambda: subprocess.run([sys.executable, "-c", nested], check=False), tick)
            assert len(born) == 2
            assert not [process for process in born if process.is_running()]
            assert older.poll() is None
        finally:
            older.kill()
            older.wait()

    def test_a_process_that_ignores_sigterm_is_killed(self):
        child = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
        child.stdout.readline()
        elders = [process for process in psutil.Process().children() if process.pid != child.pid]
        interruptible.end_descendants(elders, grace=0.2)
        assert child.wait(5) == -9
        child.stdout.close()


class TestFollower:
    HEAD = "2026-01-01 10:00:00,000"

    def test_lines_come_whole_once_and_with_their_level(self, tmp_path):
        path = tmp_path / "tune.log"
        follower = Follower(path)
        assert follower.new_lines() == []
        path.write_text(f"{self.HEAD} INFO tune: hello\n{self.HEAD} ERROR tune: no\n  found: it\n{self.HEAD} INFO ha")
        assert follower.new_lines() == [(logging.INFO, "tune: hello"), (logging.ERROR, "tune: no"), (40, "  found: it")]
        assert follower.new_lines() == []
        with path.open("a") as file:
            file.write("lf\n")
        assert follower.new_lines() == [(logging.INFO, "half")]

    def test_an_earlier_run_is_not_told_again_and_a_fresh_start_is_noticed(self, tmp_path):
        path = tmp_path / "tune.log"
        path.write_text(f"{self.HEAD} INFO old\n")
        follower = Follower(path)
        assert follower.new_lines() == []
        path.write_text(f"{self.HEAD} INFO the first attempt\n")
        assert follower.new_lines() == [(logging.INFO, "the first attempt")]
        path.write_text(f"{self.HEAD} INFO again\n")
        assert follower.new_lines() == [(logging.INFO, "again")]


class TestServer:
    def test_one_that_cannot_start_says_why(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", "nonsense://")
        with TemporaryServer(tmp_path) as server, pytest.raises(MachineError) as caught:
            server.ready()
        assert "exit code" in caught.value.found
        assert "nonsense" in caught.value.found
        assert "PREFECT_API_URL" in caught.value.way_out

    def test_one_that_takes_too_long_is_given_up_and_ended(self, tmp_path):
        with TemporaryServer(tmp_path, start_seconds=0.1) as server:
            process = psutil.Process(server.pid)
            with pytest.raises(MachineError, match="does not answer"):
                server.ready()
        assert not process.is_running()


def test_one_run_at_a_time_may_work_on_the_same_artifacts(project):
    pipeline = prepare(project / "params.yaml")
    with FileLock(pipeline.artifacts / ".run.lock"), pytest.raises(UsageError, match="one run at a time"):
        conduct(pipeline)


def test_the_bundle_is_found_by_its_digest_and_missed_when_it_is_gone(done_project):
    pipeline = prepare(done_project / "params.yaml")
    folder = bundle(pipeline)
    assert folder is not None and folder.parent == done_project / "dist" / "tiny"
    assert not export_must_run(pipeline)
    (folder / "model.onnx").write_text("damaged")
    assert export_must_run(pipeline), "and export says what is wrong with it"
    folder.rename(folder.with_name("1-0123456789ab"))
    assert bundle(pipeline) is None
    assert export_must_run(pipeline)


LINE = {"metric": "auc", "original": 0.75, "original_interval": [0.74, 0.76], "shipped": 0.7496,
        "shipped_interval": [0.7396, 0.7596], "drop": 0.0004, "bound": 0.0009, "margin": 0.002, "n": 1000,
        "verdict": "ACCEPT", "reason": "within the margin", "variant": "cpu"}  # fmt: skip
VERDICT = {"verdict": "ACCEPT", "reason": "within the margin", "lines": [LINE]}
FACTS = {"chosen": "int8", "variants": {"cpu": "int8"},
         "candidates": [{"name": "fp32", "size_kib": 900.4}, {"name": "int8", "size_kib": 250}]}  # fmt: skip


class TestSummary:
    def test_side_by_side(self):
        laps = {"1": {"p50_ms": 0.05, "p99_ms": 0.0912}, "64": {"p50_ms": 0.5, "p99_ms": 0.9}}
        faster = {batch: {"p50_ms": lap["p50_ms"] / 2, "p99_ms": lap["p99_ms"] / 2} for batch, lap in laps.items()}
        compress = {"seconds": 12.34, "race": {"fp32": laps, "int8": faster}}
        assert summary.rows(VERDICT, FACTS, compress, {"seconds": 90, "training_seconds": 31.26}) == [
            ("AUC on test", "0.7500 [0.7400, 0.7600]", "0.7496 [0.7396, 0.7596]"),
            ("size of the ONNX file", "900 KiB", "250 KiB"),
            ("p50 / p99, batch 1", "0.050 / 0.091 ms", "0.025 / 0.046 ms"),
            ("p50 / p99, batch 64", "0.500 / 0.900 ms", "0.250 / 0.450 ms"),
            ("training time", "31.3 s", "+ 12.3 s to compress"),
        ]

    def test_each_of_several_targets_has_its_figures(self):
        edge = LINE | {"variant": "edge", "shipped": 0.75, "shipped_interval": [0.74, 0.76]}
        facts = FACTS | {"variants": {"cpu": "int8", "edge": "fp32"}}
        assert summary.rows(VERDICT | {"lines": [LINE, edge]}, facts, {}, {})[:4] == [
            ("AUC on test, cpu (int8)", "0.7500 [0.7400, 0.7600]", "0.7496 [0.7396, 0.7596]"),
            ("AUC on test, edge (fp32)", "0.7500 [0.7400, 0.7600]", "0.7500 [0.7400, 0.7600]"),
            ("size of the ONNX file, cpu (int8)", "900 KiB", "250 KiB"),
            ("size of the ONNX file, edge (fp32)", "900 KiB", "900 KiB"),
        ]

    def test_what_was_measured_elsewhere_is_said_to_be(self):
        rows = summary.rows(VERDICT, FACTS, {}, {})
        assert rows[2:] == [
            ("latency", "not measured here", "not measured here"),
            ("training time", "not measured here", "not measured here"),
        ]

    def test_nonsense_is_not_printed(self):
        with pytest.raises(KeyError):
            summary.rows(VERDICT, FACTS | {"variants": {"cpu": "int4"}}, {}, {})

    def test_the_verdict_in_markdown(self):
        text = publish.verdict_markdown(VERDICT)
        assert text.startswith("## ACCEPT\n\nwithin the margin\n")
        assert "| auc | 0.75000 | 0.74960 | 0.00040 | 0.00090 | 0.00200 | 1000 | ACCEPT |" in text

    def test_a_verdict_without_figures_in_markdown(self):
        anomalous = {"verdict": "ANOMALOUS", "reason": "no", "lines": [LINE | {"drop": None}]}
        assert "| - |" in publish.verdict_markdown(anomalous)
        assert "|" not in publish.verdict_markdown({"verdict": "INFEASIBLE", "reason": "none fits", "lines": []})


def test_the_flow_can_be_deployed_from_its_file():
    from prefect import Flow

    flow = Flow.from_source(source=str(Path(__file__).resolve().parents[1]), entrypoint="flows/run.py:run")
    assert flow.name == "run"
    assert set(flow.parameters.properties) == {"params", "force", "retries"}
    assert not flow.parameters.required


def test_importing_the_flow_starts_nothing():
    code = "import flows.run, psutil, sys; sys.exit(len(psutil.Process().children()) or 'dvc.repo' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"DO_NOT_TRACK": "1"})


def test_a_pages_drawings_are_pictures_that_need_nothing_else():
    trials = [{"trial": str(n), "value": str(n / 3), "best": str(n / 3), "state": "complete"} for n in range(3)]
    candidates = [{"name": "a<b & c", "value": 0.8, "size_kib": 9.0, "chosen": True, "time": 1.0}]
    record = {"name": "tiny", "word": "ACCEPTED", "reason": "new", "as_of": None, "id": "1", "commit": "c",
              "when": "now", "next": [], "decision": {"word": "TRAIN", "reason": "new"}}  # fmt: skip
    nothing = {"before": {}, "metrics": {}, "verdict": None, "checks": [], "code": [], "pages": []}
    told = {"record": record, "trials": trials, "candidates": candidates, **nothing}
    found = pictures.markdown(retrain.page(told))
    captions = found.split("\n\n")[1::2]
    assert [caption.partition(" by ")[0] for caption in captions] == ["Metric on validation"] * 2
    drawn = [ET.fromstring(base64.b64decode(one.partition(")")[0])) for one in found.split("base64,")[1:]]  # noqa: S314 (ours)
    assert [one.get("width") for one in drawn] == ["640"] * 2
    svg = "{http://www.w3.org/2000/svg}"
    assert [len(one.findall(f"{svg}circle")) for one in drawn] == [3, 1]
    assert drawn[1].find(f"{svg}circle/{svg}title").text == "a<b & c: 0.8, 9.0 KiB"
    assert all("--card" in one.find(f"{svg}style").text for one in drawn)
    assert pictures.markdown("<p>no drawing</p>") == ""
