"""Room `verify`: is the exported file as good as the original, on rows that nothing was trained or chosen on?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import files, manifest, reports
from tasks.core.errors import NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    from tasks.core.metrics import Metric
    from tasks.verify.bootstrap import Comparison
    from tasks.verify.evidence import Evidence
    from tasks.verify.judge import Judgement


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``predictions.parquet`` (row, label, original, shipped) and ``verdict.json``, and the pipeline's metrics.

    ``<artifacts>/metrics.json`` gathers the flat metrics of all stages; it is written only with an ACCEPT.

    Raises:
        NotProven: for any verdict but ACCEPT; the report lies in ``<artifacts>/rejected/verify``.
        IntegrityError: if the exported model cannot be scored.
    """
    import pyarrow.parquet as pq

    from tasks.verify import evidence as gather

    reports.forget_rejected(settings.artifacts, "verify")
    found = gather.collect(settings, inputs)
    log.info("verify: %d test rows answered, the exported file on %s", len(found.labels), found.provider)
    if len(found.labels) == len(found.original) == len(found.shipped):
        pq.write_table(gather.predictions(found), out / "predictions.parquet")
    judgement, comparison, margin = _judge(settings, found)
    verdict = _verdict(settings, judgement, comparison, found, margin)
    verdict["model_sha256"] = manifest.read(inputs["compress"]).files["model.onnx"].sha256
    files.write_json(out / "verdict.json", verdict)
    log.info("verify: %s: %s", judgement.verdict, judgement.reason)
    if judgement.verdict != "ACCEPT" or comparison is None:
        kept = reports.publish_rejected(settings.artifacts, "verify", out)
        raise NotProven(
            "the exported model must be shown to be as good as the original",
            f"{judgement.verdict}: {judgement.reason}",
            f"read {kept / 'verdict.json'}; give more test rows, a wider verify.margin, or fewer compress.methods",
        )
    metrics = _metrics(comparison, found.metric)
    _gather_metrics(settings.artifacts, inputs, metrics)
    roles = {"predictions.parquet": "predictions", "verdict.json": "verdict"}
    return manifest.build("verify", settings.hash, inputs, out, roles, metrics, {"verdict": judgement.verdict})


def _judge(settings: StageSettings, found: Evidence) -> tuple[Judgement, Comparison | None, float | None]:
    """The judgement, what it rests on, and the margin in the metric's unit."""
    from tasks.core.margins import absolute
    from tasks.verify import bootstrap, judge

    own = settings.own
    if anomaly := _anomaly(found):
        return judge.Judgement("ANOMALOUS", anomaly), None, None
    comparison = bootstrap.compare(
        found.metric, found.labels, found.original, found.shipped, own.confidence, own.resamples, settings.base.seed
    )
    margin = absolute(own.margin, found.metric, comparison.original)
    most_gain = absolute(own.max_gain, found.metric, comparison.original) * (1 if own.max_gain else _TIMES)
    judgement = judge.judge(comparison, margin, most_gain, own.confidence, found.metric)
    return judgement, comparison, margin


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


def _verdict(
    settings: StageSettings,
    judgement: Judgement,
    comparison: Comparison | None,
    found: Evidence,
    margin: float | None,
) -> dict[str, Any]:
    from tasks.verify import evidence as gather

    lines = []
    if comparison is not None:
        figures = {key: _finite(value) for key, value in asdict(comparison).items()}
        line = {key: figures[key] for key in ("original", "original_interval", "shipped", "shipped_interval", "drop")}
        line |= {"metric": found.metric.name, "lower": figures["lower"], "bound": figures["upper"], "margin": margin}
        lines.append(line | {"n": comparison.n, "verdict": judgement.verdict, "reason": judgement.reason})
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "lines": lines,
        "figures": {} if comparison is None else _all_finite(gather.figures(found)),
        "confidence": settings.own.confidence,
        "resamples": settings.own.resamples,
        "method": "paired percentile bootstrap over rows, one-sided bound on the loss",
        "provider": found.provider,
    }


def _all_finite(figures: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    return {name: {side: _finite(value) for side, value in pair.items()} for name, pair in figures.items()}


def _finite(value: Any) -> Any:
    """The figure, or None where there is none: JSON has no NaN."""
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None


def _metrics(comparison: Comparison, metric: Metric) -> dict[str, float]:
    return {
        f"verify.original_{metric.name}": comparison.original,
        f"verify.shipped_{metric.name}": comparison.shipped,
        f"verify.{metric.name}_drop": comparison.drop,
        f"verify.{metric.name}_drop_bound": comparison.upper,
        "verify.rows": comparison.n,
    }


def _gather_metrics(artifacts: Path, inputs: Mapping[str, Path], own: Mapping[str, float]) -> None:
    gathered = dict(own)
    for folder in inputs.values():
        gathered |= manifest.read(folder).metrics
    files.write_json(artifacts / "metrics.json", gathered)
