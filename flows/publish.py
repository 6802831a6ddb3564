"""What a stage leaves in Prefect: metrics, candidates, its verdict in words, drawings, links to its page and log.

Nothing of it changes what became of a run: what cannot be shown has happened all the same (:func:`shown`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from flows import pictures
from tasks.core import files, manifest
from tasks.core.log import log_file
from tasks.core.reports import rejected_folder

_REPORTS = {"validate": "report.html", "verify": "verdict.json"}


def report(artifacts: Path, stage: str, passed: bool) -> Path | None:
    """A stage's report, if it has one: among its outputs, or apart from them if it rejected what it was given."""
    path = _folder(artifacts, stage, passed) / _REPORTS[stage] if stage in _REPORTS else None
    return path if path and path.is_file() else None


def _folder(artifacts: Path, stage: str, passed: bool) -> Path:
    return artifacts / stage if passed else rejected_folder(artifacts, stage)


@contextmanager
def shown(what: str) -> Iterator[None]:
    """Around the making of artifacts: what goes wrong is told in the log of the run that is active, and no more."""
    from prefect import get_run_logger

    try:
        yield
    except Exception as error:  # noqa: BLE001 (whatever a server or its client raises is told, with its traceback)
        get_run_logger().exception("%s cannot be shown in Prefect", what)
        print(f"{what} cannot be shown in Prefect: {type(error).__name__}: {error}", file=sys.stderr)


def publish(artifacts: Path, stage: str, passed: bool, links: bool = True) -> None:
    """Create the artifacts of one stage, for the Prefect task run that is active.

    Args:
        artifacts: folder of all stages' outputs.
        stage: the stage's name.
        passed: False for a stage that ended with a verdict against its input: its report is published, too.
        links: whether its page and its log stay where they are, so that links may lead there.
    """
    with shown(f"what {stage} left"):
        _publish(artifacts, stage, passed)
        if links:
            _link(artifacts, stage, passed)


def _publish(artifacts: Path, stage: str, passed: bool) -> None:
    from prefect.artifacts import create_markdown_artifact, create_table_artifact

    folder = _folder(artifacts, stage, passed)
    if passed and (metrics := files.read_json(artifacts / stage / manifest.NAME)["metrics"]):
        table: list[dict[str, Any]] = [{"metric": name, "value": value} for name, value in sorted(metrics.items())]
        create_table_artifact(table, key=f"{stage}-metrics", description=f"Metrics of {stage}")
    if (candidates := folder / "candidates.json").is_file():
        rows = _flat(files.read_json(candidates))
        create_table_artifact(rows, key=f"{stage}-candidates", description=f"Candidates of {stage}")
    if (verdict := folder / "verdict.json").is_file():
        markdown = verdict_markdown(files.read_json(verdict))
        create_markdown_artifact(markdown, key=f"{stage}-verdict", description=f"Verdict of {stage}")
    draw(folder / "report.html", stage)


def _link(artifacts: Path, stage: str, passed: bool) -> None:
    page = _folder(artifacts, stage, passed) / "report.html"
    for what, path in (("page", page), ("log", log_file(artifacts, stage))):
        if path.is_file():
            link(path, f"{stage}-{what}", f"{stage}: {path.name}")


def draw(page: Path, of: str) -> None:
    """The drawings of a page, if it is there and has any."""
    from prefect.artifacts import create_markdown_artifact

    if page.is_file() and (drawn := pictures.markdown(page.read_text(encoding="utf-8"))):
        create_markdown_artifact(drawn, key=f"{of}-drawings", description=f"Drawings of {of}")


def link(path: Path, key: str, text: str) -> None:
    """A link to a file. No browser follows it from a page of Prefect: its path stands there as well, to be copied."""
    from prefect.artifacts import create_link_artifact

    there = path.resolve()
    create_link_artifact(there.as_uri(), key=key, link_text=text, description=f"`{there}`")


def _flat(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without the columns that hold more than a value."""
    return [{name: value for name, value in row.items() if not isinstance(value, dict | list)} for row in rows]


class Progress:
    """How far a flow run is, as an artifact `stages` of it.

    Args:
        stages: those that it brings up to date, in their order.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages
        self._artifact: UUID | None = None
        self._show(0, "begun")

    def ended(self, stage: str, how: str) -> None:
        """Tell that a stage ended, and how; it counts as done."""
        self._show(self._stages.index(stage) + 1, f"{stage}: {how}")

    def _show(self, done: int, last: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        share, told = 100 * done / len(self._stages), f"{done} of {len(self._stages)} stages; {last}"
        with shown("the progress"):
            if self._artifact is None:
                made: Any = create_progress_artifact(share, key="stages", description=told)
                self._artifact = made
            else:
                update_progress_artifact(self._artifact, share, told)


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
