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
    import numpy as np
    import pyarrow as pa

    from tasks.verify.bootstrap import Comparison
    from tasks.verify.judge import Judgement


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave ``predictions.parquet`` (row, label, original, shipped) and ``verdict.json``, and the pipeline's metrics.

    ``<artifacts>/metrics.json`` gathers the flat metrics of all stages; it is written only with an ACCEPT.

    Raises:
        NotProven: for any verdict but ACCEPT; the report lies in ``<artifacts>/rejected/verify``.
        IntegrityError: if the exported model cannot be scored.
    """
    import pyarrow.parquet as pq

    from tasks.core import devices
    from tasks.core.scoring import score_exported
    from tasks.core.workloads.tabular.model import load_original
    from tasks.verify import bootstrap, judge

    own, base = settings.own, settings.base
    reports.forget_rejected(settings.artifacts, "verify")
    rows = pq.read_table(inputs["validate"] / "test.parquet")
    original = load_original(inputs["tune"], devices.prepare(base))
    labels = original.preprocess.labels(rows, manifest.read(inputs["validate"]).facts["target"])
    torch_scores = original.probabilities(rows)
    exported = score_exported(inputs["compress"], original.preprocess, rows, base.device)
    log.info("verify: %d test rows scored, the exported file on %s", len(labels), exported.provider)

    if len(labels) == len(torch_scores) == len(exported.probabilities):
        pq.write_table(_predictions(rows, labels, torch_scores, exported.probabilities), out / "predictions.parquet")
    judgement, evidence = _anomaly(labels, torch_scores, exported.probabilities), None
    if judgement is None:
        evidence = bootstrap.compare(
            labels, torch_scores, exported.probabilities, own.confidence, own.resamples, base.seed
        )
        judgement = judge.judge(evidence, own.margin, own.max_gain, own.confidence)
    model = manifest.read(inputs["compress"]).files["model.onnx"].sha256
    verdict = _verdict(settings, judgement, evidence, exported.provider, model)
    files.write_json(out / "verdict.json", verdict)
    log.info("verify: %s: %s", judgement.verdict, judgement.reason)
    if judgement.verdict != "ACCEPT" or evidence is None:
        kept = reports.publish_rejected(settings.artifacts, "verify", out)
        raise NotProven(
            "the exported model must be shown to be as good as the original",
            f"{judgement.verdict}: {judgement.reason}",
            f"read {kept / 'verdict.json'}; give more test rows, a wider verify.margin, or fewer compress.methods",
        )
    metrics = _metrics(evidence)
    _gather_metrics(settings.artifacts, inputs, metrics)
    roles = {"predictions.parquet": "predictions", "verdict.json": "verdict"}
    return manifest.build("verify", settings.hash, inputs, out, roles, metrics, {"verdict": judgement.verdict})


def _predictions(rows: pa.Table, labels: np.ndarray, original: np.ndarray, shipped: np.ndarray) -> pa.Table:
    import pyarrow as pa

    return pa.table({"row": rows["row"], "label": labels.astype("int8"), "original": original, "shipped": shipped})


def _anomaly(labels: np.ndarray, original: np.ndarray, shipped: np.ndarray) -> Judgement | None:
    import numpy as np

    from tasks.verify.judge import Judgement

    if not len(labels) == len(original) == len(shipped):
        counts = f"{len(labels)} labels, {len(original)} and {len(shipped)} scores"
        return Judgement("ANOMALOUS", f"every test row needs a score of each model: {counts}")
    if len(np.unique(labels)) < 2:
        return Judgement("ANOMALOUS", f"test needs rows of both classes: its {len(labels)} rows have not")
    for name, scores in (("original", original), ("exported", shipped)):
        if not np.isfinite(scores).all():
            return Judgement(
                "ANOMALOUS", f"{int((~np.isfinite(scores)).sum())} scores of the {name} model are not finite"
            )
    return None


def _verdict(
    settings: StageSettings, judgement: Judgement, evidence: Comparison | None, provider: str, model: str
) -> dict[str, Any]:
    own = settings.own
    lines = []
    if evidence is not None:
        figures = {key: _finite(value) for key, value in asdict(evidence).items()}
        line = {key: figures[key] for key in ("original", "original_interval", "shipped", "shipped_interval", "drop")}
        line |= {"metric": "auc", "lower": figures["lower"], "bound": figures["upper"], "margin": own.margin}
        lines.append(line | {"n": evidence.n, "verdict": judgement.verdict, "reason": judgement.reason})
    return {
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "lines": lines,
        "confidence": own.confidence,
        "resamples": own.resamples,
        "method": "paired percentile bootstrap over rows, one-sided bound on the drop",
        "provider": provider,
        "model_sha256": model,
    }


def _finite(value: Any) -> Any:
    """The figure, or None where there is none: JSON has no NaN."""
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return value if math.isfinite(value) else None


def _metrics(evidence: Comparison) -> dict[str, float]:
    return {
        "verify.original_auc": evidence.original,
        "verify.shipped_auc": evidence.shipped,
        "verify.auc_drop": evidence.drop,
        "verify.auc_drop_bound": evidence.upper,
        "verify.rows": evidence.n,
    }


def _gather_metrics(artifacts: Path, inputs: Mapping[str, Path], own: Mapping[str, float]) -> None:
    gathered = dict(own)
    for folder in inputs.values():
        gathered |= manifest.read(folder).metrics
    files.write_json(artifacts / "metrics.json", gathered)
