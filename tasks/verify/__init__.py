"""Room `verify`: is the exported file as good as the original, on rows that nothing was trained or chosen on?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import files, manifest, reports
from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.verify.bootstrap import Comparison
    from tasks.verify.evidence import Evidence
    from tasks.verify.judge import Judgement


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``predictions.parquet`` (row, label, original, shipped) and ``verdict.json``, and the pipeline's metrics.

    Each variant of ``compress`` is judged alike; the verdict is an ACCEPT only if it is one of each.

    ``<artifacts>/metrics.json`` gathers the flat metrics of all stages; it is written only with an ACCEPT.

    Raises:
        NotProven: for any verdict but ACCEPT; the report lies in ``<artifacts>/rejected/verify``.
        IntegrityError: if the exported model cannot be scored.
    """
    import pyarrow.parquet as pq

    from tasks.verify import evidence as gather

    reports.forget_rejected(settings.artifacts, "verify")
    found = gather.collect(settings, inputs)
    for one in found:
        log.info("verify: %d test rows answered, the file for %s on %s", len(one.labels), one.variant, one.provider)
    if all(len(one.labels) == len(one.original) == len(one.shipped) for one in found):
        pq.write_table(gather.predictions(found), out / "predictions.parquet")
    judged = [_judge(settings, one) for one in found]
    judgement = _of_all(judged)
    files.write_json(out / "verdict.json", _verdict(settings, judgement, judged))
    log.info("verify: %s: %s", judgement.verdict, judgement.reason)
    if judgement.verdict != "ACCEPT":
        kept = reports.publish_rejected(settings.artifacts, "verify", out)
        raise NotProven(
            "the exported model must be shown to be as good as the original",
            f"{judgement.verdict}: {judgement.reason}",
            f"read {kept / 'verdict.json'}; give more test rows, a wider verify.margin, or fewer compress.methods",
        )
    metrics: dict[str, float] = {}
    for index, each in enumerate(judged):
        metrics |= _metrics(each, f"verify.{each.evidence.variant}" if index else "verify")
    _gather_metrics(settings.artifacts, inputs, metrics)
    roles = {"predictions.parquet": "predictions", "verdict.json": "verdict"}
    return manifest.build("verify", settings.hash, inputs, out, roles, metrics, {"verdict": judgement.verdict})


@dataclass(frozen=True)
class _Judged:
    """A variant's judgement, and what it rests on; an anomaly has no comparison. The margin is in the metric's unit."""

    evidence: Evidence
    judgement: Judgement
    comparison: Comparison | None = None
    margin: float | None = None


def _of_all(judged: Sequence[_Judged]) -> Judgement:
    """The first variant's judgement, or the first one that is no ACCEPT."""
    worst = next((one for one in judged if one.judgement.verdict != "ACCEPT"), judged[0])
    if worst is judged[0]:
        return worst.judgement
    return replace(worst.judgement, reason=f"{worst.evidence.variant}: {worst.judgement.reason}")


def _judge(settings: StageSettings, found: Evidence) -> _Judged:
    from tasks.core.margins import absolute
    from tasks.verify import bootstrap, judge

    own = settings.own
    if anomaly := _anomaly(found):
        return _Judged(found, judge.Judgement("ANOMALOUS", anomaly))
    comparison = bootstrap.compare(
        found.metric, found.labels, found.original, found.shipped, own.confidence, own.resamples, settings.base.seed
    )
    margin = absolute(own.margin, found.metric, comparison.original)
    most_gain = absolute(own.max_gain, found.metric, comparison.original) * (1 if own.max_gain else _TIMES)
    judgement = judge.judge(comparison, margin, most_gain, own.confidence, found.metric)
    return _Judged(found, judgement, comparison, margin)


#: A gain of so many usual margins is implausible, where params say nothing else.
_TIMES = 10


def _anomaly(found: Evidence) -> str:
    import numpy as np

    counts = (len(found.labels), len(found.original), len(found.shipped))
    if len(set(counts)) > 1:
        return f"every test row needs an answer of each model: {counts[0]} labels, {counts[1]} and {counts[2]} answers"
    if found.original.shape != found.shipped.shape:
        return f"answers must have one shape: {found.original.shape} and {found.shipped.shape}"
    if found.metric.support(found.labels) == 0:
        return f"{found.metric.name} has no value on the {counts[0]} rows of test: a class may be absent"
    for name, answers in (("original", found.original), ("exported", found.shipped)):
        if answers.dtype.kind == "f" and not np.isfinite(answers).all():
            return f"{int((~np.isfinite(answers)).sum())} answers of the {name} model are not finite"
    return ""


def _verdict(settings: StageSettings, judgement: Judgement, judged: Sequence[_Judged]) -> dict[str, Any]:
    """``verdict.json``: a line for each variant that could be compared; all else is about the first one."""
    from tasks.verify import evidence as gather

    first = judged[0]
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "lines": [_line(one, one.comparison) for one in judged if one.comparison is not None],
        "figures": {} if first.comparison is None else _all_finite(gather.figures(first.evidence)),
        "confidence": settings.own.confidence,
        "resamples": settings.own.resamples,
        "method": "paired percentile bootstrap over rows, one-sided bound on the loss",
        "provider": first.evidence.provider,
        "model_sha256": first.evidence.model_sha256,
    }


def _line(judged: _Judged, comparison: Comparison) -> dict[str, Any]:
    figures = {key: _finite(value) for key, value in asdict(comparison).items()}
    kept = ("original", "original_interval", "shipped", "shipped_interval", "drop", "lower", "n")
    evidence = judged.evidence
    return {key: figures[key] for key in kept} | {
        "metric": evidence.metric.name,
        "bound": figures["upper"],
        "margin": judged.margin,
        "verdict": judged.judgement.verdict,
        "reason": judged.judgement.reason,
        "variant": evidence.variant,
        "model_sha256": evidence.model_sha256,
        "provider": evidence.provider,
    }


def _all_finite(figures: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    return {name: {side: _finite(value) for side, value in pair.items()} for name, pair in figures.items()}


def _finite(value: Any) -> Any:
    """The figure, or None where there is none: JSON has no NaN."""
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None


def _metrics(judged: _Judged, prefix: str) -> dict[str, float]:
    comparison, name = judged.comparison, judged.evidence.metric.name
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
