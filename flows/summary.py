"""The end of a run in a few lines: original and shipped model side by side, the verdict, where the bundle lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy import signing
from flows.bundles import bundle
from flows.pipeline import Pipeline
from flows.publish import report
from tasks.core import files, manifest, record

_ABSENT = "not measured here"
_REFERENCE = "fp32"


def show(pipeline: Pipeline, passed: bool = True) -> None:
    """Print the summary of the last run to standard output.

    Args:
        pipeline: what was run, up to ``compress`` at least.
        passed: False if ``verify`` refused the candidate: its report is shown, and no bundle.
    """
    from rich.console import Console
    from rich.table import Table

    verdict = files.read_json(_verdict_file(pipeline.artifacts, passed))
    facts = manifest.read(pipeline.artifacts / "compress").facts
    table = Table("", "original", f"{'shipped' if passed else 'candidate'} ({facts['chosen']})")
    for row in rows(verdict, facts, _measured(pipeline.artifacts, "compress"), _measured(pipeline.artifacts, "tune")):
        table.add_row(*row)
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"verdict: {verdict['verdict']}: {verdict['reason']}", markup=False, highlight=False)
    folder = bundle(pipeline) if passed else None
    console.print(f"bundle:  {_from_here(folder) if folder else 'none'}", markup=False, highlight=False)
    if folder is not None and not signing.signature_path(folder).is_file():
        told = f"unsigned: nothing proves who made it (`assay sign {_from_here(folder)} --key KEY`)"
        console.print(f"         {told}", markup=False, highlight=False)


def show_refusal(pipeline: Pipeline, since: float) -> None:
    """:func:`show` the candidate that ``verify`` refused, if it did so after ``since`` (seconds since the epoch)."""
    path = report(pipeline.artifacts, "verify", passed=False)
    if path and path.stat().st_mtime >= since:
        show(pipeline, passed=False)


def _verdict_file(artifacts: Path, passed: bool) -> Path:
    if passed:
        manifest.read(artifacts / "verify")
    path = report(artifacts, "verify", passed)
    if path is None:
        raise FileNotFoundError(f"verify left no verdict under {artifacts}")
    return path


def _measured(artifacts: Path, stage: str) -> dict[str, Any]:
    run = record.read(artifacts, stage)
    return {} if run is None else {"seconds": run["seconds"]} | run["measured"]


def rows(
    verdict: Mapping[str, Any], facts: Mapping[str, Any], compress: Mapping[str, Any], tune: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """The table's rows: label, original, shipped.

    Args:
        verdict: ``verdict.json`` of ``verify``.
        facts: the facts of ``compress``.
        compress: what ``compress`` measured here; empty if it ran elsewhere.
        tune: what ``tune`` measured here; empty if it ran elsewhere.
    """
    chosen = facts["chosen"]
    sizes = {candidate["name"]: candidate["size_kib"] for candidate in facts["candidates"]}
    variants = facts["variants"]
    each = {target: f", {target} ({candidate})" if len(variants) > 1 else "" for target, candidate in variants.items()}
    table = [
        (
            f"{line['metric'].upper()} on test{each[line['variant']]}",
            _with_interval(line, "original"),
            _with_interval(line, "shipped"),
        )
        for line in verdict["lines"]
    ]
    table += [
        (f"size of the ONNX file{each[target]}", f"{sizes[_REFERENCE]:.0f} KiB", f"{sizes[candidate]:.0f} KiB")
        for target, candidate in variants.items()
    ]
    race = compress.get("race", {})
    for batch in race.get(_REFERENCE, {}):
        laps = race[_REFERENCE][batch], race[chosen][batch]
        table.append((f"p50 / p99, batch {batch}", _latency(laps[0]), _latency(laps[1])))
    if not race:
        table.append(("latency", _ABSENT, _ABSENT))
    training = f"{tune['training_seconds']:.1f} s" if tune else _ABSENT
    table.append(("training time", training, f"+ {compress['seconds']:.1f} s to compress" if compress else _ABSENT))
    return table


def _with_interval(line: Mapping[str, Any], side: str) -> str:
    figures = (line[side], *line[f"{side}_interval"])
    value, low, high = ("-" if figure is None else f"{figure:.4f}" for figure in figures)
    return f"{value} [{low}, {high}]"


def _latency(lap: Mapping[str, float]) -> str:
    return f"{lap['p50_ms']:.3f} / {lap['p99_ms']:.3f} ms"


def _from_here(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
