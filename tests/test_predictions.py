"""The server's log of predictions: what is in it, what never is, and that no trouble with it reaches a request."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from serving_world import Process, publish

from deploy import bins, bundle, golden
from deploy.errors import MachineError, UsageError
from deploy.predictor import Predictor
from deploy.server.__main__ import _parser, _predictions
from deploy.server.metrics import Metrics
from deploy.server.predictions import PATTERN, PredictionLog
from deploy.server.settings import Predictions
from deploy.signature import Signature, Tensor


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob(PATTERN)) for line in path.read_text().splitlines()]


def test_a_server_logs_bins_and_answers_under_the_names_that_clients_gave(tiny: Path, tmp_path: Path) -> None:
    folder = publish(tiny, tmp_path / "tiny", 1, None)
    log = tmp_path / "log" / "of the model"
    server = Process(folder.parent, "--unsigned", "--prediction-log", log, "--prediction-sample", 1)
    case = next(case for case in golden.read(folder) if case.name == "typical")
    columns = {item["name"]: item["data"] for item in case.request["inputs"]}

    def ask(path: str, message: dict[str, Any]) -> None:
        url, kind = f"{server.ready['url']}/v2/models/tiny/{path}", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(message).encode(), kind)
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
            assert json.loads(response.read()).get("id") == message.get("id")

    try:
        ask("infer", {**case.request, "id": "first"})
        ask("rows", {"columns": {name: values[:1] for name, values in columns.items()}, "id": "second"})
        ask("rows", {"columns": columns, "id": "a person's name"})
    finally:
        assert server.stop() == 0
    head, *rows = lines(log)
    assert head == {
        "model": "tiny",
        "version": folder.name,
        "digest": bundle.manifest_digest(folder),
        "spreads": list(bins.read(folder, Signature.read(folder / "signature.json"))),
    }
    expected = Predictor.open(folder, "cpu").predict(case.columns)["probability"][:, 0]
    n = len(expected)
    assert [row.get("id") for row in rows] == [*(f"first:{i}" for i in range(n)), "second", *[None] * n]
    np.testing.assert_allclose([row["answer"] for row in rows], [*expected, expected[0], *expected], atol=1e-5)
    reference = bins.read(folder, Signature.read(folder / "signature.json"))
    (spread,) = reference["carrier"]
    tensors = Signature.read(folder / "signature.json").tensors(case.columns)
    place = head["spreads"].index("carrier")
    assert [row["bins"][place] for row in rows[:n]] == spread.place(tensors["carrier"]).tolist()
    assert {key for row in rows for key in row} == {"time", "bins", "answer", "id"}
    for text in ("a person's name", *(v for v in columns["carrier"] if v)):
        assert text not in "".join(path.read_text() for path in log.glob(PATTERN))


# The log alone.


def version() -> Any:
    spread = bins.Spread("x", "", ("0", "1", "missing"), {}, lambda array: (array.ravel() > 0).astype(np.int64), True)
    output = Tensor("y", "FP32", (-1, 1))
    signature = Signature((Tensor("x", "FP32", (-1, 1)),), (output,))
    return SimpleNamespace(name="1-a", digest="d", drift={"x": (spread,)}, signature=signature)


def asked(rows: int, name: str | None = None) -> tuple[Any, dict[str, np.ndarray]]:
    x = np.ones((rows, 1), np.float32)
    return SimpleNamespace(id=name, rows=rows, tensors={"x": x}), {"y": x / 3}


def counted(metrics: Metrics, outcome: str) -> float:
    start = f'assay_predictions_total{{model="m",outcome="{outcome}"}}'
    return sum(float(line.split()[-1]) for line in metrics.page().decode().splitlines() if line.startswith(start))


def test_rows_are_drawn_one_by_one(tmp_path: Path) -> None:
    metrics = Metrics("m")
    log = PredictionLog(Predictions(tmp_path, 0.25), "m", metrics)
    for _ in range(4):
        log.add(version(), *asked(1000, "batch"))
    log.close()
    _, *rows = lines(tmp_path)
    assert 850 < len(rows) < 1150  # 1,000 expected; the standard deviation is 27
    assert counted(metrics, "logged") == len(rows)
    places = [int(row["id"].partition(":")[2]) for row in rows]
    assert len({*places}) > 600, "always the same rows of a request"


def test_more_than_it_can_keep_is_dropped_at_once_and_counted(tmp_path: Path) -> None:
    metrics = Metrics("m")
    log = PredictionLog(Predictions(tmp_path, 1.0), "m", metrics)
    disk = threading.Event()  # hangs until it is set
    log._files.write = lambda *_: disk.wait(20)  # type: ignore[method-assign]
    started = time.perf_counter()
    for _ in range(100):
        log.add(version(), *asked(1000))
    assert time.perf_counter() - started < 0.25
    assert 100_000 - counted(metrics, "dropped") <= 1 << 17
    disk.set()
    log.close()


def test_the_folder_stays_within_its_size_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x" * 5000)
    most = 160_000
    for _ in range(3):  # as many servers, one after the other
        log = PredictionLog(Predictions(tmp_path, 1.0, most), "m", Metrics("m"))
        for _ in range(60):
            log._waiting.append(SimpleNamespace(  # type: ignore[arg-type]
                version=version(), seconds=time.time(), arrays=asked(100)[0].tensors, answers=np.zeros(100),
                ids=(None,) * 100, size=0))  # fmt: skip
        log._write()
        log.close()
    sizes = [path.stat().st_size for path in tmp_path.glob(PATTERN)]
    assert len(sizes) > 5
    assert most * 0.5 < sum(sizes) <= most
    assert (tmp_path / "notes.txt").exists()
    for path in tmp_path.glob(PATTERN):
        assert path.stat().st_size == 0 or "digest" in json.loads(path.read_text().splitlines()[0])


def test_a_disk_that_refuses_is_told_once_and_the_log_goes_on_when_it_is_back(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    metrics = Metrics("m")
    folder = tmp_path / "log"
    log = PredictionLog(Predictions(folder, 1.0), "m", metrics)
    log._files.close()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    for _ in range(2):
        log.add(version(), *asked(3))
        log._write()
    told = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["event"] for line in told] == ["prediction_log_failed"]
    assert counted(metrics, "dropped") == 6
    folder.unlink()
    log.add(version(), *asked(2))
    log.close()
    assert len(lines(folder)) == 3
    assert counted(metrics, "logged") == 2
    assert not log._thread.is_alive()


def test_what_cannot_be_logged_is_said_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="--prediction-log"):
        PredictionLog(Predictions(tmp_path / "file" / "log"), "m", Metrics("m"))
    for wrong in (("--prediction-sample", "0"), ("--prediction-sample", "1.5"), ("--prediction-mib", "0")):
        options = _parser().parse_args(["dist/m", "--unsigned", "--prediction-log", str(tmp_path), *wrong])
        with pytest.raises(UsageError, match="a share of the rows above 0"):
            _predictions(options)
