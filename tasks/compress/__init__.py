"""Room `compress`: search the smallest, fastest file that is still as good as the original; where none is, keep it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import devices, files, manifest, reports
from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.margins import absolute
from tasks.core.metrics import Metric
from tasks.core.settings import Compress
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.compress.choose import Budget, Candidate, Choice
    from tasks.compress.race import Race
    from tasks.compress.search import Search
    from tasks.compress.workshop import Built, Workshop

#: Seconds within which the race must end.
_RACE_SECONDS = 1800.0
#: A treatment of a network's file may cost this share of the allowed loss before another way is tried.
_TOLERANCE = 0.25


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``<candidate>.onnx``, the chosen one as ``model.onnx``, and its ``signature.json``.

    ``candidates.json`` is the table of all that was made: quality, size, time, memory, what was done, and why each was
    taken or not. ``shapes.json`` holds the smaller networks that were looked at, ``sensitivity.json`` the layers that
    int8 hurt. Times differ from run to run, and so may the choice.

    Raises:
        NotProven: INFEASIBLE, if no candidate keeps to the limits; the tables lie in ``<artifacts>/rejected/compress``.
        MachineError: if a device was asked for and is not used.
    """
    from tasks.compress.choose import choose, nearest_misses

    own: Compress = settings.own
    reports.forget_rejected(settings.artifacts, "compress")
    search = _search(settings, inputs)
    shop, metric = search.workshop, search.workshop.problem.metric
    built = search.run()
    raced = _raced(shop, built, own)
    candidates = [_candidate(one, raced) for one in built.values()]
    choice = choose(candidates, metric, _budget(own, search.most), own.pick)
    rows = [_row(built[one.name], one, choice) for one in candidates]
    files.write_json(out / "candidates.json", rows)
    files.write_json(out / "shapes.json", search.shapes)
    files.write_json(out / "sensitivity.json", search.treatments.sensitivity)
    if choice.chosen is None:
        kept = reports.publish_rejected(settings.artifacts, "compress", out)
        raise NotProven(
            "a candidate must keep to the limits of compress",
            "INFEASIBLE: nearest are " + "; ".join(nearest_misses(candidates, choice.reasons, metric)),
            f"read {kept / 'candidates.json'}; widen the limits, allow more methods, or give more budget_minutes",
        )
    log.info("compress: chose %s: %s", choice.chosen, choice.reasons[choice.chosen])
    for name in built:
        if shop.path(name).is_file():
            shutil.copyfile(shop.path(name), out / f"{name}.onnx")
    shutil.copyfile(shop.path(choice.chosen), out / "model.onnx")
    files.write_json(out / "signature.json", shop.problem.signature.as_dict())
    settings.measured["race"] = _times(raced)
    settings.measured["int8_without_saturation"] = devices.has_vnni()
    settings.measured["providers"] = dict(raced.providers)
    settings.measured.update(search.measured)
    roles = {path.name: "candidate" for path in out.glob("*.onnx")}
    roles |= {"model.onnx": "model", "signature.json": "signature"}
    roles |= dict.fromkeys(("candidates.json", "shapes.json", "sensitivity.json"), "report")
    facts = {"chosen": choice.chosen, "candidates": rows, "metric": metric.name}
    return manifest.build("compress", settings.hash, inputs, out, roles, _metrics(candidates, choice, metric), facts)


def _search(settings: StageSettings, inputs: Mapping[str, Path]) -> Search:
    from tasks.compress.problem import Problem
    from tasks.compress.search import Search
    from tasks.compress.targets import TARGETS
    from tasks.compress.treatments import Treatments
    from tasks.compress.workshop import Workshop
    from tasks.core import resume, workloads
    from tasks.core.contracts import NETWORK_METHODS
    from tasks.core.original import Network

    own: Compress = settings.own
    target = TARGETS[own.target]
    problem = Problem.read(settings, inputs)
    folder = resume.folder(settings, "compress", inputs["tune"], [workloads.find(settings.base.workload)])
    shop = Workshop(problem, folder, target.device or settings.base.device, target, target.threads or own.race_threads)
    reference = problem.reference
    most = absolute(own.max_metric_drop, problem.metric, reference) / (1 if own.max_metric_drop else 2)
    treatments = Treatments(shop, own.methods, own.sparsity, _TOLERANCE * most)
    family = None
    if isinstance(problem.model, Network) and set(NETWORK_METHODS) & set(own.methods) and own.budget_minutes != 0:
        from tasks.compress.network.family import Family

        family = Family(settings, inputs, problem, shop)
    return Search(shop, treatments, family, own.batch_sizes, most)


def _raced(shop: Workshop, built: Mapping[str, Built], own: Compress) -> Race:
    """All runnable candidates against one another, in a process of their own."""
    from tasks.compress.isolated import call
    from tasks.compress.race import race

    models = {name: shop.path(name) for name, one in built.items() if not one.problem}
    arguments = (models, "fp32", shop.problem.sample, own.batch_sizes, own.rounds, shop.threads, shop.device)
    return call(race, *arguments, seconds=_RACE_SECONDS)


def _candidate(one: Built, raced: Race) -> Candidate:
    from tasks.compress.choose import Candidate

    return Candidate(one.name, one.score, one.bytes, raced.laps.get(one.name, {}), one.peak_mib, one.problem)


def _budget(own: Compress, most: float) -> Budget:
    from tasks.compress.choose import Budget

    return Budget(most, own.max_slowdown, own.max_size_kib, own.max_p99_ms, own.max_memory_mib)


def _row(built: Built, candidate: Candidate, choice: Choice) -> dict[str, Any]:
    """One line of ``candidates.json``; what was not measured is null."""
    return {
        "name": built.name,
        "network": built.origin,
        "method": built.method or "float",
        "value": _finite(candidate.score),
        "size_kib": round(candidate.bytes / 1024, 1),
        "compressed_kib": round(built.compressed_bytes / 1024, 1),
        "time": _finite(candidate.time),
        "latency": {str(batch): _rounded(asdict(lap)) for batch, lap in candidate.laps.items()},
        "peak_mib": _finite(candidate.peak_mib),
        "parameters": built.parameters,
        "macs": built.macs,
        "providers": dict(built.providers),
        "report": built.report,
        "chosen": candidate.name == choice.chosen,
        "front": candidate.name in choice.front,
        "reason": choice.reasons[candidate.name],
    }


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}


def _times(measured: Race) -> dict[str, dict[str, dict[str, float]]]:
    return {
        name: {str(batch): _rounded(asdict(lap)) for batch, lap in by_batch.items()}
        for name, by_batch in measured.laps.items()
    }


def _metrics(candidates: list[Candidate], choice: Choice, metric: Metric) -> dict[str, float]:
    fp32 = candidates[0]
    chosen = next(candidate for candidate in candidates if candidate.name == choice.chosen)
    return {
        "compress.fp32_kib": round(fp32.bytes / 1024, 1),
        "compress.chosen_kib": round(chosen.bytes / 1024, 1),
        "compress.size_ratio": round(fp32.bytes / chosen.bytes, 3),
        "compress.speed_ratio": round(1 / chosen.time, 3),
        f"compress.fp32_validation_{metric.name}": fp32.score,
        f"compress.chosen_validation_{metric.name}": chosen.score,
    }
