"""Candidates are built, measured alike, and one is chosen by rules that a person can follow."""

from __future__ import annotations

import csv
import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import worlds

from deploy.predictor import Predictor
from tasks.compress import int8
from tasks.compress import race as racing
from tasks.compress.choose import Candidate, choose
from tasks.compress.race import Lap, lap, race
from tasks.core import files, manifest
from tasks.core.metrics import find
from tasks.core.original import Network
from tasks.core.settings import Features
from tasks.core.stage import run_stage
from tasks.core.workloads.onnx_export import finish
from tasks.core.workloads.tabular.encoder import fit
from tasks.core.workloads.tabular.network import Architecture, Head, TabularNetwork

AUC, RMSE = find("auc", "binary"), find("rmse", "regression")


def laps(ratio_low: float = 0.5, ratio: float = 0.6, batches: tuple[int, ...] = (1, 64)) -> dict[int, Lap]:
    return {batch: Lap(1.0, 2.0, ratio, ratio_low, ratio + 0.1) for batch in batches}


NAN = float("nan")
LIMIT = 2.0**-10  # exact in binary, so that a drop of exactly the limit can be written down
FP32 = Candidate("fp32", 0.80, 4000)
CASES: dict[str, tuple[list[Candidate], Mapping[str, Mapping[int, Lap]], str, str]] = {
    "smaller and as good": ([Candidate("int8", 0.7995, 1000)], {"int8": laps()}, "int8", "the smallest"),
    "better than fp32": ([Candidate("int8", 0.81, 1000)], {"int8": laps()}, "int8", "the smallest"),
    "a drop of exactly the limit": ([Candidate("int8", 0.80 - LIMIT, 1000)], {"int8": laps()}, "int8", "the smallest"),
    "worse": ([Candidate("int8", 0.79, 1000)], {"int8": laps()}, "fp32", "auc .* worse by 0.01000, more than 0.000976"),
    "no figure": ([Candidate("int8", NAN, 1000)], {"int8": laps()}, "fp32", "not finite"),
    "larger": ([Candidate("int8", 0.80, 5000)], {"int8": laps()}, "fp32", "eligible, but larger than fp32"),
    "of the same size": ([Candidate("int8", 0.80, 4000)], {"int8": laps()}, "fp32", "eligible"),
    "slower": ([Candidate("int8", 0.80, 1000)], {"int8": laps(1.2, 1.3)}, "fp32", "slower than fp32 .* at batch 1, 64"),
    "slower at one batch size": (
        [Candidate("int8", 0.80, 1000)], {"int8": laps(batches=(1,)) | laps(1.2, 1.3, (64,))}, "fp32", "at batch 64",
    ),
    "slower, but not shown to be": ([Candidate("int8", 0.80, 1000)], {"int8": laps(1.05, 1.4)}, "int8", "the smallest"),
    "slower by the limit": ([Candidate("int8", 0.80, 1000)], {"int8": laps(1.1, 1.2)}, "int8", "the smallest"),
    "no time": ([Candidate("int8", 0.80, 1000)], {"int8": laps(NAN, NAN)}, "fp32", "slower"),
    "the smallest of several": (
        [Candidate("b", 0.80, 1000), Candidate("a", 0.80, 900), Candidate("c", 0.5, 10)],
        {"a": laps(), "b": laps(), "c": laps()}, "a", "the smallest",
    ),
    "equals go by name": (
        [Candidate("b", 0.80, 1000), Candidate("a", 0.80, 1000)], {"a": laps(), "b": laps()}, "a", "the smallest",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_choice(name: str) -> None:
    others, times, chosen, reason = CASES[name]
    choice = choose([FP32, *others], {"fp32": laps(1, 1)} | dict(times), AUC, LIMIT, 0.1)
    assert choice.chosen == chosen
    assert set(choice.reasons) == {"fp32", *(other.name for other in others)}
    told = choice.reasons[chosen if chosen != "fp32" else others[0].name]
    assert re.search(reason, told), told


def test_falling_back_says_why_for_every_candidate() -> None:
    others = [Candidate("int8", 0.5, 1000), Candidate("other", 0.80, 1000)]
    choice = choose([FP32, *others], {"int8": laps(), "other": laps(2, 2)}, AUC, 0.001, 0.1)
    assert choice.chosen == "fp32"
    assert "the original stays: int8: auc on validation gets worse" in choice.reasons["fp32"]
    assert "other: slower" in choice.reasons["fp32"]


def test_fp32_alone_is_chosen() -> None:
    assert choose([FP32], {"fp32": laps(1, 1)}, AUC, 0.0, 0.0).chosen == "fp32"


def test_a_reference_without_a_figure_is_beaten_by_nobody() -> None:
    choice = choose([Candidate("fp32", NAN, 10), Candidate("int8", 0.8, 1)], {"int8": laps()}, AUC, 0.001, 0.1)
    assert choice.chosen == "fp32"


def test_a_lap_is_the_median_of_paired_ratios_with_its_interval() -> None:
    reference = np.linspace(1.0, 3.0, 101)  # the machine slows down meanwhile, for both alike
    found = lap(reference * 0.5, reference)
    assert found.p50_ms == pytest.approx(1.0)
    assert found.p99_ms == pytest.approx(np.quantile(reference * 0.5, 0.99))
    assert (found.ratio_low, found.ratio, found.ratio_high) == pytest.approx((0.5, 0.5, 0.5))


def test_the_interval_of_a_lap_holds_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = random.lognormal(0, 0.3, (2, 60))
        found = lap(1.3 * noise[0], noise[1])
        held += found.ratio_low <= 1.3 <= found.ratio_high
    assert 0.92 <= held / 400 <= 0.99


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_the_interval_of_few_rounds_stays_inside_what_was_seen(count: int) -> None:
    times = np.arange(1.0, count + 1)
    found = lap(times, np.ones(count))
    assert times[0] <= found.ratio_low <= found.ratio <= found.ratio_high <= times[-1]


def test_the_race_is_interleaved_in_a_rotating_order(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Session:
        def __init__(self, path: Path, *_: Any) -> None:
            self.name = path.stem

        def run(self, _: None, rows: Mapping[str, np.ndarray]) -> None:
            assert {len(array) for array in rows.values()} == {4}
            order.append(self.name)

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(racing, "open_session", Session)
    models = {name: Path(f"{name}.onnx") for name in ("fp32", "int8", "other")}
    found = race(models, "fp32", {"a": np.zeros((3, 1))}, (4,), 30, 1, "cpu")
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert all(set(names) == set(models) for names in rounds)
    assert {names[0] for names in rounds} == set(models)
    assert len(rounds) > 30, "some rounds warm up"
    assert found.laps["fp32"][4].ratio == 1
    assert found.providers == dict.fromkeys(models, "CPUExecutionProvider")


# The room itself.


def run(root: Path, **own: Any) -> manifest.Manifest:
    return run_stage("compress", worlds.write_params(root, {"compress": own}), root)


def test_int8_is_smaller_and_as_good(tiny: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    fp32, int8 = files.read_json(compressed / "candidates.json")
    assert (fp32["name"], int8["name"]) == ("fp32", "int8")
    assert int8["size_kib"] < 0.6 * fp32["size_kib"]
    assert abs(int8["value"] - fp32["value"]) < 0.02
    assert int8["chosen"]
    assert not fp32["chosen"]
    assert (compressed / "model.onnx").read_bytes() == (compressed / "int8.onnx").read_bytes()
    found = manifest.read(compressed)
    assert found.facts["chosen"] == "int8"
    assert found.metrics["compress.size_ratio"] == pytest.approx(fp32["size_kib"] / int8["size_kib"], rel=0.01)


def test_int8_really_holds_8_bit_weights(tiny: Path) -> None:
    model = onnx.load(tiny / "artifacts" / "compress" / "int8.onnx")
    operators = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    weights = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2}
    assert sum(math.prod(tensor.dims) for tensor in weights.values()) > 4000
    scales = {
        node.input[1] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    sizes = [math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name in scales]
    assert max(sizes) > 1, "per channel"


@pytest.mark.parametrize("columns", [("distance", "seats"), ("carrier",)])
def test_a_network_of_one_kind_of_columns_can_be_quantized(tmp_path: Path, columns: tuple[str, ...]) -> None:
    table = worlds.rows(300).select([*columns, worlds.TARGET])
    kinds = {name: worlds.COLUMNS[name] for name in table.column_names}
    facts = {"target": worlds.TARGET, "task": "binary", "classes": [0, 1], "split": {}, "time_column": None}
    encoder = fit(table, facts | {"columns": kinds}, Features(min_count=5, bins=6))
    torch.manual_seed(0)
    model = Network(encoder, TabularNetwork(encoder, Architecture(64, 2, 0.0, 0.0, 8, 8)).eval(), Head(encoder))
    numbers, codes = encoder.encode(table)
    calibration = {"numbers": numbers} if encoder.numbers else {"codes": codes}
    onnx.save(finish(encoder.wrap(int8.quantize(model.core(table), calibration)), {}), tmp_path / "model.onnx")
    files.write_json(tmp_path / "signature.json", encoder.signature().as_dict())
    found = Predictor.open(tmp_path, "cpu").predict(encoder.raw_inputs(table))["probability"]
    np.testing.assert_allclose(found, model.predict(table), atol=0.05)


def test_a_lower_error_is_better() -> None:
    others = [Candidate("int8", 3.0, 1000), Candidate("other", 3.4, 900)]
    choice = choose([Candidate("fp32", 3.1, 4000), *others], {"int8": laps(), "other": laps()}, RMSE, 0.2, 0.1)
    assert choice.chosen == "int8"
    assert "rmse on validation gets worse by 0.30000" in choice.reasons["other"]


def test_fp32_has_the_figure_of_the_original(tiny: Path) -> None:
    fp32 = files.read_json(tiny / "artifacts" / "compress" / "candidates.json")[0]
    original = files.read_json(tiny / "artifacts" / "tune" / "models.json")[0]
    assert fp32["value"] == pytest.approx(original["score"], abs=1e-4)


def test_every_candidate_answers_raw_rows_by_the_same_signature(tiny: Path, tmp_path: Path) -> None:
    compressed = tiny / "artifacts" / "compress"
    scores = {}
    for name in ("fp32", "int8"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes((compressed / f"{name}.onnx").read_bytes())
        (tmp_path / name / "signature.json").write_bytes((compressed / "signature.json").read_bytes())
        columns = {
            "distance": [1000.0, None, 300.0], "pressure": [1013.0, 990.0, None], "seats": [30, 100, 200],
            "route": [1, 2, None], "carrier": ["AA", "DL", None], "holiday": [True, False, None],
        }  # fmt: skip
        arrays = {key: np.array(values, dtype=object) for key, values in columns.items()}
        scores[name] = Predictor.open(tmp_path / name, "cpu").predict(arrays)["probability"]
    assert scores["fp32"].shape == (3, 1)
    np.testing.assert_allclose(scores["int8"], scores["fp32"], atol=0.1)
    assert not np.array_equal(scores["int8"], scores["fp32"])


def test_times_are_measured_and_never_hashed(tiny: Path) -> None:
    measured = files.read_json(tiny / "artifacts" / "runs" / "compress.json")["measured"]
    assert set(measured["race"]) == {"fp32", "int8"}
    for by_batch in measured["race"].values():
        assert set(by_batch) == {"1", "64"}
        for found in by_batch.values():
            assert 0 < found["p50_ms"] <= found["p99_ms"]
            assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]
    assert measured["providers"] == {"fp32": "CPUExecutionProvider", "int8": "CPUExecutionProvider"}
    assert "_ms" not in (tiny / "artifacts" / "compress" / "manifest.json").read_text()


def test_a_candidate_that_loses_too_much_is_not_taken_and_the_reason_is_kept(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.compress import build

    monkeypatch.setitem(build._BUILT_IN, "int8", ruined)
    root_level = logging.getLogger().level
    found = run(world, max_metric_drop=0.001)
    assert found.facts["chosen"] == "fp32"
    compressed = world / "artifacts" / "compress"
    assert (compressed / "model.onnx").read_bytes() == (compressed / "fp32.onnx").read_bytes()
    fp32, int8 = files.read_json(compressed / "candidates.json")
    assert "auc on validation gets worse by" in int8["reason"]
    assert fp32["reason"].startswith("the original stays: int8: auc on validation gets worse by")
    assert logging.getLogger().level == root_level


def ruined(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A method that forgets all weights of the largest layer."""
    model = onnx.ModelProto()
    model.CopyFrom(core)
    tensor = max(model.graph.initializer, key=lambda t: math.prod(t.dims))
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(tuple(tensor.dims), np.float32), tensor.name))
    return model


def test_the_candidates_are_a_table_that_a_plot_can_read(tiny: Path) -> None:
    rows = files.read_json(tiny / "artifacts" / "compress" / "candidates.json")
    assert all(set(row) == {"name", "value", "size_kib", "chosen", "reason"} for row in rows)
    with (tiny / "artifacts" / "tune" / "trials.csv").open(newline="") as file:
        assert {"trial", "value", "best"} <= set(next(csv.reader(file)))
