"""What a stage leaves in Prefect: a table of its metrics, links to its log and its page, the verdict in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core import files, manifest
from tasks.core.log import log_file
from tasks.core.reports import rejected_folder

_REPORTS = {"validate": "report.html", "verify": "verdict.json"}


def report(artifacts: Path, stage: str, passed: bool) -> Path | None:
    """A stage's report, if it has one: among its outputs, or apart from them if it rejected what it was given."""
    folder = artifacts / stage if passed else rejected_folder(artifacts, stage)
    path = folder / _REPORTS[stage] if stage in _REPORTS else None
    return path if path and path.is_file() else None


def publish(artifacts: Path, stage: str, passed: bool) -> None:
    """Create the artifacts of one stage, for the Prefect task run that is active.

    Args:
        artifacts: folder of all stages' outputs.
        stage: the stage's name.
        passed: False for a stage that ended with a verdict against its input: its report is published, too.
    """
    from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

    if passed and (metrics := files.read_json(artifacts / stage / manifest.NAME)["metrics"]):
        table: list[dict[str, Any]] = [{"metric": name, "value": value} for name, value in sorted(metrics.items())]
        create_table_artifact(table, key=f"{stage}-metrics", description=f"Metrics of {stage}")
    page = report(artifacts, stage, passed)
    if page and page.suffix == ".html":
        create_link_artifact(page.resolve().as_uri(), key=f"{stage}-page", link_text=f"{stage}: {page.name}")
    elif page:
        markdown = verdict_markdown(files.read_json(page))
        create_markdown_artifact(markdown, key=f"{stage}-verdict", description=f"Verdict of {stage}")
        if (drawn := page.with_name("report.html")).is_file():
            create_link_artifact(drawn.resolve().as_uri(), key=f"{stage}-page", link_text=f"{stage}: {drawn.name}")
    log = log_file(artifacts, stage)
    if log.is_file():
        create_link_artifact(log.resolve().as_uri(), key=f"{stage}-log", link_text=f"{stage}: log")


_COLUMNS = {"metric": "metric", "original": "original", "shipped": "shipped", "drop": "drop",
            "bound": "bound on the drop", "margin": "margin", "n": "rows", "verdict": "verdict"}  # fmt: skip


def verdict_markdown(verdict: dict[str, Any]) -> str:
    """The verdict as Markdown: the word, the reason, and a row per metric."""
    rows = [[_cell(line[key]) for key in _COLUMNS] for line in verdict["lines"]]
    table = [list(_COLUMNS.values()), ["---"] * len(_COLUMNS), *rows] if rows else []
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    return f"## {verdict['verdict']}\n\n{verdict['reason']}\n\n{text}\n"


def _cell(value: Any) -> str:
    return f"{value:.5f}" if isinstance(value, float) else "-" if value is None else str(value)
