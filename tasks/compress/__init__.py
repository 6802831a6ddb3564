"""Room `compress`: export the original to ONNX, build smaller candidates, race them, choose one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import devices, files, manifest
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.margins import absolute
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.compress.choose import Candidate, Choice
    from tasks.compress.race import Race


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``<candidate>.onnx`` files, the chosen one as ``model.onnx``, ``signature.json`` and ``candidates.json``.

    Latencies go to the run record, since they differ from run to run.

    Raises:
        MachineError: if CUDA was asked for and is not used.
    """
    from tasks.compress import build, choose
    from tasks.compress.race import race

    own = settings.own
    built = build.candidates(settings, inputs, out)
    measured = race(
        {candidate.name: out / f"{candidate.name}.onnx" for candidate in built.candidates},
        "fp32",
        built.sample,
        own.batch_sizes,
        own.rounds,
        own.race_threads,
        settings.base.device,
    )
    metric, reference = built.metric, built.candidates[0].score
    most = absolute(own.max_metric_drop, metric, reference) / (1 if own.max_metric_drop else 2)
    choice = choose.choose(built.candidates, measured.laps, metric, most, own.max_slowdown)
    log.info("compress: chose %s: %s", choice.chosen, choice.reasons[choice.chosen])

    shutil.copyfile(out / f"{choice.chosen}.onnx", out / "model.onnx")
    files.write_json(out / "signature.json", built.signature.as_dict())
    rows = [_row(candidate, choice) for candidate in built.candidates]
    files.write_json(out / "candidates.json", rows)
    settings.measured["race"] = _times(measured)
    settings.measured["int8_without_saturation"] = devices.has_vnni()
    settings.measured["providers"] = dict(measured.providers)
    roles = {path.name: "candidate" for path in out.glob("*.onnx")}
    roles |= {"model.onnx": "model", "signature.json": "signature", "candidates.json": "report"}
    return manifest.build(
        "compress",
        settings.hash,
        inputs,
        out,
        roles,
        _metrics(built.candidates, choice, metric.name),
        {"chosen": choice.chosen, "candidates": rows, "metric": metric.name},
    )


def _row(candidate: Candidate, choice: Choice) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "value": None if math.isnan(candidate.score) else candidate.score,
        "size_kib": round(candidate.bytes / 1024, 1),
        "chosen": candidate.name == choice.chosen,
        "reason": choice.reasons[candidate.name],
    }


def _times(measured: Race) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {
            str(batch): {key: round(value, 5) for key, value in asdict(lap).items()} for batch, lap in by_batch.items()
        }
        for name, by_batch in measured.laps.items()
    }


def _metrics(candidates: list[Candidate], choice: Choice, metric: str) -> dict[str, float]:
    fp32 = candidates[0]
    chosen = next(candidate for candidate in candidates if candidate.name == choice.chosen)
    return {
        "compress.fp32_kib": round(fp32.bytes / 1024, 1),
        "compress.chosen_kib": round(chosen.bytes / 1024, 1),
        "compress.size_ratio": round(fp32.bytes / chosen.bytes, 3),
        f"compress.fp32_validation_{metric}": fp32.score,
        f"compress.chosen_validation_{metric}": chosen.score,
    }
