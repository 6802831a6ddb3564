"""Room `compress`: search the smallest, fastest file that is still as good as the original; where none is, keep it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import devices, files, manifest, record, reports
from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.metrics import Metric
from tasks.core.settings import Compress
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from deploy.variants import Variants
    from tasks.compress.choose import Candidate
    from tasks.compress.contest import Contest
    from tasks.compress.race import Race
    from tasks.compress.search import Search
    from tasks.compress.workshop import Built, Workshop

#: A treatment of a network's file may cost this share of the allowed loss before another way is tried.
_TOLERANCE = 0.25


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``<candidate>.onnx``, the chosen one as ``model.onnx``, and its ``signature.json``.

    ``variants.json`` says what each of ``compress.targets`` is served with (see :mod:`deploy.variants`): the first one
    with ``model.onnx``, each other one with that of ``variants/<target>``, or of a target that made the same choice.

    ``candidates.json`` is the table of all that was made: quality, size, time, memory, what was done, and why each was
    taken or not. ``sensitivity.json`` holds the layers that int8 hurt.

    What differs from run to run is no output: ``<artifacts>/runs/candidates.json`` has the times and memory beside all
    that, and ``<artifacts>/runs/shapes.json`` the smaller networks that were looked at.

    Raises:
        NotProven: INFEASIBLE, if for some target no candidate keeps to the limits; the tables lie in
            ``<artifacts>/rejected/compress``.
        MachineError: if a device was asked for and is not used.
    """
    from tasks.compress.contest import hold, require_devices

    own: Compress = settings.own
    reports.forget_rejected(settings.artifacts, "compress")
    search = _search(settings, inputs)
    shop, metric = search.workshop, search.workshop.problem.metric
    require_devices(shop, own.targets)
    built = search.run()
    contests = [hold(target, shop, built, own) for target in own.targets]
    rows = [_row(one, contests) for one in built.values()]
    measured = {"candidates": [row | _measured(row["name"], contests) for row in rows], "shapes": search.shapes}
    files.write_json(out / "sensitivity.json", search.treatments.sensitivity)
    _require_choices(settings.artifacts, out, contests, metric, measured)
    files.write_json(out / "candidates.json", rows)
    for name, table in measured.items():
        record.write_table(settings.artifacts, name, table)
    for name in built:
        if shop.path(name).is_file():
            shutil.copyfile(shop.path(name), out / f"{name}.onnx")
    variants = _write_variants(contests, shop, out)
    settings.measured["int8_without_saturation"] = devices.has_vnni()
    settings.measured.update(search.measured)
    settings.measured["speed_ratio"] = {
        contest.target: _finite(1 / _of(contest, contest.choice.chosen).time) for contest in contests
    }
    metrics: dict[str, float] = {}
    for index, contest in enumerate(contests):
        ending = f"_{contest.target}" if index else ""
        settings.measured[f"race{ending}"] = _times(contest.race)
        settings.measured[f"providers{ending}"] = dict(contest.race.providers)
        metrics |= _metrics(contest, metric, f"compress.{contest.target}" if index else "compress")
    facts = {
        "chosen": contests[0].choice.chosen,
        "candidates": rows,
        "metric": metric.name,
        "variants": {one.target: one.candidate for one in variants.order},
    }
    return manifest.build("compress", settings.hash, inputs, out, _roles(out), metrics, facts)


def _search(settings: StageSettings, inputs: Mapping[str, Path]) -> Search:
    from tasks.compress.choose import Budget
    from tasks.compress.contest import batch_sizes_of, threads_of
    from tasks.compress.problem import Problem
    from tasks.compress.search import Search
    from tasks.compress.targets import together
    from tasks.compress.treatments import Treatments
    from tasks.compress.workshop import Workshop
    from tasks.core import resume
    from tasks.core.contracts import NETWORK_METHODS
    from tasks.core.original import Network

    own: Compress = settings.own
    target = together(own.targets)
    batch_sizes = batch_sizes_of(target, own)
    problem = Problem.read(settings, inputs, max(batch_sizes))
    folder = resume.folder(settings, "compress", inputs["tune"], _plugins(settings, inputs["tune"], problem.metric))
    shop = Workshop(problem, folder, target.device, target, threads_of(target, own))
    treatments = Treatments(shop, own.methods, own.magnitude, _TOLERANCE * problem.most)
    family = None
    wanted = set(NETWORK_METHODS) & set(own.methods) and own.budget_minutes != 0
    if wanted and isinstance(problem.model, Network) and problem.model.extra_outputs:
        log.info("compress: no smaller networks: what they would answer besides the logits could not be judged")
    elif wanted and isinstance(problem.model, Network):
        from tasks.compress.network.family import Family

        family = Family(settings, inputs, problem, shop)
    return Search(shop, treatments, family, batch_sizes, Budget.of(own, problem.most, target))


def _plugins(settings: StageSettings, tuned: Path, metric: Metric) -> list[object]:
    """Whose code decides what a candidate is and how it scores, apart from Assay's."""
    from tasks.core import original, plugins, workloads
    from tasks.core.contracts import METHODS

    workload = workloads.find(settings.base.workload)
    found: list[object] = [workload]
    spec = files.read_json(tuned / original.SPEC)
    if spec["kind"] == original.NETWORK:
        found.append(workloads.model(workload, spec["model"]))
    if metric.name in plugins.names(plugins.METRICS):
        found.append(plugins.load(plugins.METRICS, metric.name))
    return found + [plugins.load(plugins.COMPRESSORS, name) for name in settings.own.methods if name not in METHODS]


def _require_choices(
    artifacts: Path,
    out: Path,
    contests: Sequence[Contest],
    metric: Metric,
    measured: Mapping[str, list[dict[str, Any]]],
) -> None:
    """Every target has a candidate that keeps to the limits; else the tables are kept where the run was rejected."""
    from tasks.compress.choose import nearest_misses

    found = []
    for contest in contests:
        if contest.choice.chosen is None:
            where = f" for {contest.target}" if len(contests) > 1 else ""
            misses = nearest_misses(contest.candidates, contest.choice.reasons, metric, contest.budget)
            found.append(f"INFEASIBLE{where}: nearest are {'; '.join(misses)}")
        else:
            chosen = contest.choice.chosen
            log.info("compress: chose %s for %s: %s", chosen, contest.target, contest.choice.reasons[chosen])
    if found:
        for name, table in measured.items():
            files.write_json(out / f"{name}.json", table)
        kept = reports.publish_rejected(artifacts, "compress", out)
        raise NotProven(
            "a candidate must keep to the limits of compress",
            "\n           ".join(found),
            f"read {kept / 'candidates.json'}; widen the limits, allow more methods, or give more budget_minutes",
        )


def _write_variants(contests: Sequence[Contest], shop: Workshop, out: Path) -> Variants:
    """Write each choice as a folder that can be loaded, once, and ``variants.json`` that says whose it is."""
    from deploy.variants import NAME, Variant, Variants
    from tasks.compress.targets import TARGETS

    folders: dict[str, str] = {}
    made = []
    for contest in contests:
        chosen, target = str(contest.choice.chosen), TARGETS[contest.target]
        if chosen not in folders:
            folders[chosen] = f"variants/{contest.target}" if folders else "."
            (out / folders[chosen]).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(shop.path(chosen), out / folders[chosen] / "model.onnx")
            files.write_json(out / folders[chosen] / "signature.json", shop.problem.signature.as_dict())
        made.append(Variant(contest.target, folders[chosen], chosen, target.device, target.threads))
    variants = Variants.of(made)
    files.write_json(out / NAME, variants.as_dict())
    return variants


#: Role of each file but the candidates, by its name.
_ROLES = {"model.onnx": "model", "signature.json": "signature", "variants.json": "variants"}


def _roles(out: Path) -> dict[str, str]:
    paths = [path for path in out.rglob("*") if path.is_file()]
    other = {".onnx": "candidate", ".json": "report"}
    return {path.relative_to(out).as_posix(): _ROLES.get(path.name, other[path.suffix]) for path in paths}


def _row(built: Built, contests: Sequence[Contest]) -> dict[str, Any]:
    """One line of ``candidates.json``; what has no value is null. The choice and its reason are the first target's."""
    first = contests[0]
    candidate = _of(first, built.name)
    row = {
        "name": built.name,
        "network": built.origin,
        "method": built.method or "float",
        "value": _finite(candidate.score),
        "loss_bound": None if candidate.bound is None else _finite(candidate.bound),
        "size_kib": round(candidate.bytes / 1024, 1),
        "compressed_kib": round(built.compressed_bytes / 1024, 1),
        "parameters": built.parameters,
        "macs": built.macs,
        "providers": dict(built.providers),
        "report": built.report,
        **_outcome(built.name, first),
    }
    if len(contests) > 1:
        row["targets"] = {contest.target: _outcome(built.name, contest) for contest in contests[1:]}
    return row


def _outcome(name: str, contest: Contest) -> dict[str, Any]:
    """What a target made of a candidate."""
    return {
        "chosen": name == contest.choice.chosen,
        "reason": contest.choice.reasons[name],
    }


def _measured(name: str, contests: Sequence[Contest]) -> dict[str, Any]:
    """What was measured of a candidate, for the first target and, under ``measured``, for each further one."""
    first = _figures(_of(contests[0], name), contests[0])
    others = {contest.target: _figures(_of(contest, name), contest) for contest in contests[1:]}
    return first | ({"measured": others} if others else {})


def _figures(candidate: Candidate, contest: Contest) -> dict[str, Any]:
    """Times and memory of a candidate on one target."""
    return {
        "time": _finite(candidate.time),
        "latency": {str(batch): _rounded(asdict(lap)) for batch, lap in candidate.laps.items()},
        "peak_mib": _finite(candidate.peak_mib),
        "front": candidate.name in contest.choice.front,
    }


def _of(contest: Contest, name: str | None) -> Candidate:
    return next(candidate for candidate in contest.candidates if candidate.name == name)


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [round(item, 5) for item in value] if isinstance(value, tuple) else round(value, 5)
        for name, value in values.items()
    }


def _times(measured: Race) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {str(batch): _rounded(asdict(lap)) for batch, lap in by_batch.items()}
        for name, by_batch in measured.laps.items()
    }


def _metrics(contest: Contest, metric: Metric, prefix: str) -> dict[str, float]:
    fp32, chosen = contest.candidates[0], _of(contest, contest.choice.chosen)
    return {
        f"{prefix}.fp32_kib": round(fp32.bytes / 1024, 1),
        f"{prefix}.chosen_kib": round(chosen.bytes / 1024, 1),
        f"{prefix}.size_ratio": round(fp32.bytes / chosen.bytes, 3),
        f"{prefix}.fp32_validation_{metric.name}": fp32.score,
        f"{prefix}.chosen_validation_{metric.name}": chosen.score,
    }
