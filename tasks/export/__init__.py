"""Room `export`: the verified file and its evidence become a bundle that explains itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import files, manifest
from tasks.core.errors import IntegrityError, NotProven
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from deploy.variants import Variants
    from tasks.core.workloads.contract import Encoder

#: Largest difference between the bundled file's and the verified file's answers.
_TOLERANCE = 1e-6


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave the bundle's reproducible files; publish ``<dist_dir>/<name>/<version>/`` with records, hashes, signature.

    Raises:
        NotProven: without an ACCEPT of exactly this model file, and of those of all variants.
        UsageError: if the key that is to sign the bundle is none.
        IntegrityError: if a bundled file does not answer as the verified one on every test row, or what was made is
            not what a server would take.
    """
    import pyarrow.parquet as pq

    from deploy import bundle
    from deploy.variants import Variants
    from tasks.core import original
    from tasks.export import card, contents, drift, golden, key, mlbom, records, triton
    from tasks.export.publish import publish, sign

    base = settings.base
    signing_key = key.find(settings)
    stages = {stage: manifest.read(settings.artifacts / stage) for stage in ("ingest", *inputs)}
    variants = Variants.read(inputs["compress"])
    folders = list({one.folder: one for one in reversed(variants.distinct())}.values())
    _require_accept(inputs, stages["compress"], variants)
    encoder = original.load_encoder(inputs["tune"])
    rows = pq.read_table(inputs["validate"] / "test.parquet")
    predictions = pq.read_table(inputs["verify"] / "predictions.parquet")

    contents.copy_verified(inputs["compress"], inputs["verify"], out)
    for one in folders:
        golden.write(out, one, encoder.raw_inputs(rows.slice(0, golden.MEASURED_ROWS)), settings.own.golden_rows)
        triton.write(out, base.name, one)
    drift.write(out, inputs["validate"], encoder, variants.first)
    contents.write_metrics(out, stages)
    card.write(out, base, settings.own, stages)
    mlbom.write(out, base, settings.own, stages)

    def prove(folder: Path) -> None:
        bundle.verify(folder, None)
        for one in folders:
            golden.prove(folder, one)
        for one in variants.distinct():
            column = "shipped" if one is variants.first else f"shipped_{one.target}"
            answers = contents.as_array(predictions[column])
            _prove_same_answers(folder / one.folder, encoder, rows, answers, one.device)

    digest = bundle.digest(bundle.hashes(out))
    dist = settings.root / base.dist_dir / base.name
    version = publish(dist, out, digest, records.collect(settings, stages, digest), prove)
    inside = version.is_relative_to(settings.root)
    settings.measured["bundle"] = (version.relative_to(settings.root) if inside else version).as_posix()
    if signing_key is not None:
        sign(version, signing_key, key.password())
    log.info("export: %s, %s", settings.measured["bundle"], "signed" if signing_key else "not signed: no key is named")
    roles = {path.relative_to(out).as_posix(): "bundle" for path in out.rglob("*") if path.is_file()}
    return manifest.build("export", settings.hash, inputs, out, roles, {}, {"name": base.name, "digest": digest})


def _require_accept(inputs: Mapping[str, Path], compressed: Manifest, variants: Variants) -> None:
    verdict = files.read_json(inputs["verify"] / "verdict.json")
    model = compressed.files["model.onnx"].sha256
    if verdict["verdict"] != "ACCEPT" or verdict["model_sha256"] != model:
        raise NotProven(
            "only a model with an ACCEPT verdict is exported",
            f"{verdict['verdict']} for model {verdict['model_sha256'][:12]}; the chosen file is {model[:12]}",
            "run `dvc repro verify`",
        )
    judged = {line["variant"]: line["model_sha256"] for line in verdict["lines"]}
    chosen = {one.target: compressed.files[one.model].sha256 for one in variants.distinct()}
    if judged != chosen:
        differ = sorted(name for name in judged | chosen if judged.get(name) != chosen.get(name))
        raise NotProven(
            "each variant that is exported has been judged", f"not the files for {differ}", "run `dvc repro verify`"
        )


def _prove_same_answers(folder: Path, encoder: Encoder, rows: pa.Table, verified: np.ndarray, device: str) -> None:
    import numpy as np

    from tasks.core.scoring import score_exported

    answers = score_exported(folder, encoder, rows, device).answers.reshape(len(verified), -1)
    verified = verified.reshape(len(verified), -1)
    if answers.shape != verified.shape:
        worst = float("inf")
    elif answers.dtype.kind == "f":
        worst = float(np.max(np.abs(answers - verified), initial=0.0))
    else:
        worst = float(np.count_nonzero(answers != verified))
    if not worst <= _TOLERANCE:
        raise IntegrityError(
            f"the bundled file must answer as the verified file did, within {_TOLERANCE}",
            f"{len(answers)} answers to {len(verified)} test rows, largest difference {worst}",
            "verify on the machine that exports: run `dvc repro --force verify`",
        )
