"""``mlbom.cdx.json``: the model, the data that it learnt from and what was measured, as a CycloneDX model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deploy.signature import Signature
from tasks.core import files
from tasks.core.manifest import Manifest
from tasks.core.settings import Base, Export
from tasks.export import cyclonedx

_TASKS = {"binary": "classification", "multiclass": "classification", "regression": "regression", "ranking": "ranking"}
_PURPOSES = {
    "train": "for training",
    "calibration": "of train, to calibrate quantization",
    "validation": "for choosing",
    "test": "for the verdict",
    "fresh": "that no stage has read",
}


def write(out: Path, base: Base, settings: Export, stages: Mapping[str, Manifest]) -> None:
    """Write the file from the evidence in the bundle.

    Args:
        out: the bundle's folder, with its model, signature and verdict.
        base: that section of the settings.
        settings: the stage's own section.
        stages: manifests by stage.
    """
    verdict = files.read_json(out / "verdict.json")
    signature = Signature.read(out / "signature.json")
    facts, tuned, compressed = (stages[stage].facts for stage in ("validate", "tune", "compress"))
    card = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": _TASKS[facts["task"]],
            "architectureFamily": base.workload,
            "modelArchitecture": f"{tuned['model']}, {compressed['chosen']}",
            "datasets": [_dataset(base, settings, facts, split) for split in facts["rows"]],
            "inputs": [{"format": _format(tensor)} for tensor in signature.inputs],
            "outputs": [{"format": _format(tensor)} for tensor in signature.outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": [*_judged(verdict), *_figures(verdict)]},
        "considerations": {
            "useCases": [settings.description or "No description was given."],
            "technicalLimitations": ["The figures hold for rows like those of the test split, and for no later data."],
        },
        "properties": [
            {"name": f"assay:{name}", "value": str(verdict[name])}
            for name in ("verdict", "reason", "method", "confidence", "provider")
        ],
    }
    description = settings.description or f"Predicts {base.target}."
    made = cyclonedx.of_model(base.name, files.sha256(out / "model.onnx"), description, card)
    files.write_json(out / cyclonedx.MLBOM, made)


def _dataset(base: Base, settings: Export, facts: Mapping[str, Any], split: str) -> dict[str, Any]:
    about = {"rows": facts["rows"][split], "snapshot": facts["content_hash"], "licence": settings.data_licence}
    return {
        "type": "dataset",
        "name": f"{base.name} {split}",
        "description": f"{facts['rows'][split]} rows {_PURPOSES.get(split, '')}".strip(),
        "contents": {"properties": [{"name": f"assay:{name}", "value": str(value)} for name, value in about.items()]},
    }


def _format(tensor: Any) -> str:
    return f"{tensor.name}: {tensor.datatype} {list(tensor.shape)}"


def _judged(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The metric that decides, of each file and its original, with n and interval."""
    for line in verdict["lines"]:
        for side in ("original", "shipped"):
            lower, upper = line[f"{side}_interval"]
            yield {
                "type": line["metric"],
                "value": str(line[side]),
                "slice": f"{side}, {line['variant']}, test, n={line['n']}",
                "confidenceInterval": {"lowerBound": str(lower), "upperBound": str(upper)},
            }


def _figures(verdict: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, pair in verdict["figures"].items():
        for side, value in pair.items():
            if value is not None:
                yield {"type": name, "value": str(value), "slice": f"{side}, test"}
