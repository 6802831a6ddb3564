"""Room `verify`: is the exported file as good as the original, on rows that nothing was trained or chosen on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tasks.core import files, manifest, record, reports
from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.core.measured import Measured
    from tasks.core.uses import Past
    from tasks.verify.evidence import Evidence
    from tasks.verify.gate import Judged


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``predictions.parquet`` (row, label, original, shipped), ``verdict.json`` and ``report.html``.

    What differs from run to run (times and memory of `compress`, uses of the test set) is no part of an ACCEPT's files:
    ``<artifacts>/runs/verify.html`` is the same page with it, ``runs/verify.json`` has its figures.

    Each variant of ``compress`` is judged alike; the verdict is an ACCEPT only if it is one of each.

    ``<artifacts>/metrics.json`` gathers the flat metrics of all stages; it is written only with an ACCEPT.

    Raises:
        NotProven: for any verdict but ACCEPT; the report lies in ``<artifacts>/rejected/verify``.
        IntegrityError: if the exported model cannot be scored.
        UsageError: if a column that slices test is not there.
    """
    import pyarrow.parquet as pq

    from tasks.verify import evidence as gather
    from tasks.verify import gate, published, report

    past = _past(settings, inputs)
    reports.forget_rejected(settings.artifacts, "verify")
    with TemporaryDirectory(prefix="assay-") as scratch:
        found = gather.collect(settings, inputs, Path(scratch))
        for one in found:
            log.info("verify: %d test rows answered, the file for %s on %s", len(one.rows), one.variant, one.provider)
        if not any(gate.shape_anomaly(one.case) for one in found):
            pq.write_table(gather.predictions(found), out / "predictions.parquet")
        known = _known(settings, inputs)
        judged = [_judge(settings, inputs, one, known, past) for one in found]
        told = _verdict(settings, judged, _test(inputs))
    timed = report.render(settings.base.name, told, found[0].case, _raced(settings, inputs))
    log.info("verify: %s: %s", told["verdict"], told["reason"])
    if told["verdict"] != "ACCEPT":
        files.write_json(out / "verdict.json", told)  # nothing is made of these: they may differ from run to run
        files.write_text(out / "report.html", timed)
        kept = reports.publish_rejected(settings.artifacts, "verify", out)
        raise NotProven(
            "the exported model must be shown to be as good as the original",
            f"{told['verdict']}: {told['reason']}",
            f"read {kept / 'report.html'}; give more test rows, a wider verify.margin, or fewer compress.methods",
        )
    settings.measured.update(published.varying(told))
    told = published.steady(told)
    files.write_json(out / "verdict.json", told)
    files.write_text(out / "report.html", report.render(settings.base.name, told, found[0].case))
    record.write_page(settings.artifacts, "verify", timed)
    metrics: dict[str, float] = {}
    for index, each in enumerate(judged):
        metrics |= _metrics(each, f"verify.{each.evidence.variant}" if index else "verify")
    _gather_metrics(settings.artifacts, inputs, metrics)
    roles = {"predictions.parquet": "predictions", "verdict.json": "verdict", "report.html": "report"}
    return manifest.build("verify", settings.hash, inputs, out, roles, metrics, {"verdict": told["verdict"]})


@dataclass(frozen=True)
class _Judged:
    """A variant, what was made of it, and the number of that judgement on the test set."""

    evidence: Evidence
    judged: Judged
    number: int


def _known(settings: StageSettings, inputs: Mapping[str, Path]) -> list[Measured]:
    """What does not depend on the variant."""
    from tasks.verify import disjoint

    if "data" not in settings.own.checks:
        return []
    return disjoint.measure(inputs["validate"], manifest.read(inputs["validate"]).facts, settings.own.limits.known)


def _test(inputs: Mapping[str, Path]) -> str:
    """Hash of the test split."""
    return manifest.read(inputs["validate"]).files["test.parquet"].sha256


def _past(settings: StageSettings, inputs: Mapping[str, Path]) -> Past:
    """Judgements on this test set that other evidence tells of: the last verdicts, run records, and bundles."""
    from tasks.core import uses

    last = [settings.artifacts / name for name in ("verify/verdict.json", "rejected/verify/verdict.json")]
    kept = (settings.root / settings.base.dist_dir / settings.base.name).glob("*/*.json")
    bundled = sorted(path for path in kept if path.name in ("verdict.json", "provenance.json"))
    return uses.seen(_test(inputs), [*last, record.record_file(settings.artifacts, "verify"), *bundled])


def _judge(
    settings: StageSettings,
    inputs: Mapping[str, Path],
    one: Evidence,
    known: Sequence[Measured],
    past: Past,
) -> _Judged:
    from tasks.core import model_file, uses
    from tasks.verify import gate

    own = settings.own
    limits = own.warn_after_uses, own.refuse_after_uses
    used = uses.count(settings.artifacts, _test(inputs), (one.model_sha256, settings.hash), *limits, past)
    log.info("verify: %s", used.note)
    own_lines = [used, *_budgets(settings, inputs, one)]
    if "file" in own.checks:
        own_lines += model_file.measure(one.folder, one.model_sha256, inputs["compress"] / "fp32.onnx")
    return _Judged(one, gate.decide(one.case, own, [*known, *own_lines], one.slices, one.members), used.n)


def _budgets(settings: StageSettings, inputs: Mapping[str, Path], one: Evidence) -> list[Measured]:
    """The limits of `compress`, for the file that led its search."""
    from deploy.variants import Variants
    from tasks.verify.mechanics import budgets

    first = Variants.read(inputs["compress"]).first
    table = settings.artifacts / "runs" / "candidates.json"
    if one.variant != first.target:
        return []
    candidates = files.read_json(table) if table.is_file() else []
    limits = manifest.read(inputs["compress"]).params.get("compress", {})
    return budgets.measure(limits, candidates, "fp32", first.candidate)


def _raced(settings: StageSettings, inputs: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Times of the original and the first variant's file, by batch size: for the page alone, they differ by run."""
    from deploy.variants import Variants

    table = settings.artifacts / "runs" / "candidates.json"
    rows = {row["name"]: row.get("latency") or {} for row in (files.read_json(table) if table.is_file() else [])}
    original, shipped = (rows.get(name, {}) for name in ("fp32", Variants.read(inputs["compress"]).first.candidate))
    return {batch: {"original": original[batch], "shipped": lap} for batch, lap in shipped.items() if batch in original}


def _verdict(settings: StageSettings, judged: Sequence[_Judged], test: str) -> dict[str, Any]:
    """``verdict.json``: lines and checks of all variants; all else is about the first one.

    The word is the gravest one, of several alike the first.
    """
    from tasks.core import uses
    from tasks.core.verdict import GRAVITY
    from tasks.verify.published import told_of

    told = {
        (found := one.evidence).variant: told_of(
            found.variant, found.model_sha256, found.provider, found.case, one.judged, settings.own
        )
        for one in judged
    }
    first, *_ = told.values()
    variant, worst = min(told.items(), key=lambda each: GRAVITY.index(each[1]["verdict"]))
    gathered = {key: [row for each in told.values() for row in each[key]] for key in ("lines", "checks")}
    reason = worst["reason"] if worst is first else f"{variant}: {worst['reason']}"
    about = uses.told(test, settings.hash, {one.evidence.model_sha256: one.number for one in judged})
    return first | gathered | {"verdict": worst["verdict"], "reason": reason, "test": about}


def _metrics(one: _Judged, prefix: str) -> dict[str, float]:
    comparison, name = one.judged.comparison, one.evidence.case.metric.name
    if comparison is None:
        return {}
    return {
        f"{prefix}.original_{name}": comparison.original,
        f"{prefix}.shipped_{name}": comparison.shipped,
        f"{prefix}.{name}_drop": comparison.drop,
        f"{prefix}.{name}_drop_bound": comparison.upper,
        f"{prefix}.rows": comparison.n,
    }


def _gather_metrics(artifacts: Path, inputs: Mapping[str, Path], own: Mapping[str, float]) -> None:
    gathered = dict(own)
    for folder in inputs.values():
        gathered |= manifest.read(folder).metrics
    files.write_json(artifacts / "metrics.json", gathered)
