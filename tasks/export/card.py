"""The model card: written from the evidence in the bundle, and from nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.signature import Signature
from deploy.variants import NAME, RULE, Variant, Variants
from tasks.core import files
from tasks.core.manifest import Manifest
from tasks.core.settings import Base, Export
from tasks.export.texts import render


def write(out: Path, base: Base, settings: Export, stages: Mapping[str, Manifest]) -> None:
    """Write ``README.md`` into the bundle from its ``metrics.json``, ``verdict.json`` and ``signature.json``."""
    verdict = files.read_json(out / "verdict.json")
    text = render(
        "card.md.j2",
        {"cell": _cell},
        base=base,
        settings=settings,
        metrics=files.read_json(out / "metrics.json")["metrics"],
        verdict=verdict,
        line=verdict["lines"][0],
        variants=_variants(out),
        rule=RULE,
        signature=Signature.read(out / "signature.json"),
        data=stages["validate"].facts,
        model=stages["tune"].facts["model"],
        brought=(brought := str(stages["tune"].facts.get("brought", {}).get("file", ""))),
        finished=brought if brought.endswith(".onnx") else "",
        chosen=stages["compress"].facts["chosen"],
        candidates=stages["compress"].facts["candidates"],
    )
    files.write_text(out / "README.md", text)


def _variants(out: Path) -> tuple[Variant, ...]:
    """Those of a bundle for several targets, in the order in which they are tried."""
    return Variants.read(out).order if (out / NAME).is_file() else ()


def _cell(value: object) -> str:
    """Text that cannot break out of a cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ").replace("`", "'").replace("<", "&lt;")
