"""Olive's own search over static quantization: `python benchmarks/compression/olive_search.py INPUTS OUT`.

A workflow of OnnxStaticQuantization with its whole default search space (its preparation of the graph is part of it),
TPE, and Olive's evaluator: the fastest at batch 1 on one thread with at most 0.005 lost on validation. Calibration and
validation are the first rows of ours: Olive holds every activation of its calibration rows in memory.

What this version of Olive cannot do, so that it is left out: a metric of the user's own (its workflow cannot be
written down), and a second pass before the quantization (every sample but the first fails when it is reused).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # read when olive is imported

import numpy as np
import onnx
import peer
from olive import run
from olive.data.registry import Registry
from rows import Rows

_CALIBRATION_ROWS = 256
_VALIDATION_ROWS = 2000
_MAX_DROP = 0.005


class _Dataset:
    """Rows one by one, as torch's DataLoader takes them."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        return {name: array[index] for name, array in self._rows.inputs.items()}, self._rows.labels[index]


@Registry.register_dataset("benchmark_rows")
def benchmark_rows(path: str, count: int, **_others: Any) -> _Dataset:
    """The first rows of a file, for Olive's data configs."""
    return _Dataset(Rows.read(Path(path)).first(count))


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The best model of the search, and what Olive measured of it."""
    inputs = given.options.inputs.resolve()
    with tempfile.TemporaryDirectory() as folder:
        quality = _quality(given.metric.name, given.validation.labels)
        found = run(_workflow(inputs, Path(folder), given.options.samples, quality))
        best = found.get_best_candidate()
        model = onnx.load(best.model_path)
        return model, {"candidates": len(found.get_output_models()), "measured": best.metrics_value}


def _workflow(inputs: Path, folder: Path, samples: int, quality: dict[str, Any]) -> dict[str, Any]:
    return {
        "input_model": {"type": "OnnxModel", "model_path": str(inputs / "fp32.onnx")},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "host": "here",
        "target": "here",
        "data_configs": [
            _data("calibration", inputs / "calibration.npz", _CALIBRATION_ROWS, 64),
            _data("latency", inputs / "validation.npz", _CALIBRATION_ROWS, 1),
            _data("validation", inputs / "validation.npz", _VALIDATION_ROWS, 64)
            | {"post_process_data_config": {"type": "text_classification_post_process"}},  # the largest of a row
        ],
        "passes": {
            "quantization": {"type": "OnnxStaticQuantization", "data_config": "calibration"},
        },
        "evaluators": {"ours": {"type": "OnnxEvaluator", "metrics": [_latency(), quality]}},
        "evaluator": "ours",
        "search_strategy": {
            "execution_order": "joint",
            "sampler": "tpe",
            "sampler_config": {"seed": 0},
            "max_iter": samples,
        },
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
        "log_severity_level": 3,
    }


def _data(name: str, path: Path, count: int, batch: int) -> dict[str, Any]:
    return {
        "name": name,
        "user_script": __file__,
        "load_dataset_config": {"type": "benchmark_rows", "params": {"path": str(path), "count": count}},
        "dataloader_config": {"params": {"batch_size": batch}},
    }


def _latency() -> dict[str, Any]:
    return {
        "name": "latency",
        "type": "latency",
        "data_config": "latency",
        "sub_types": [{"name": "p50", "priority": 1, "metric_config": {"warmup_num": 20, "repeat_test_num": 100}}],
        "user_config": {"inference_settings": {"onnx": {"session_options": {"intra_op_num_threads": 1}}}},
    }


def _quality(metric: str, labels: np.ndarray) -> dict[str, Any]:
    """Olive's metric by the name of ours.

    Raises:
        ValueError: if it has none.
    """
    if metric not in ("accuracy", "auc"):
        raise ValueError(f"Olive has no metric {metric}")
    count = int(labels.max()) + 1
    kind = {"task": "multiclass", "num_classes": count} if metric == "accuracy" else {"task": "binary"}
    goal = {"type": "max-degradation", "value": _MAX_DROP}
    name = {"accuracy": "accuracy_score", "auc": "auroc"}[metric]
    return {
        "name": "quality",
        "type": "accuracy",
        "data_config": "validation",
        "sub_types": [{"name": name, "priority": 2, "metric_config": kind, "goal": goal}],
    }


def main() -> None:
    """Read the script's own argument, and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=24, help="settings that the search tries")
    peer.run("olive_search", __doc__, quantize, parser)


if __name__ == "__main__":
    main()
