"""`assay models`: every model of a repository on one page: what serves, how old it is, what was last found of it.

The flows that change it leave it in Prefect as well (:func:`show_models`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.publish import report
from tasks.core import files, pages
from tasks.core.errors import AssayError, UsageError
from tasks.core.settings import Params, load
from tasks.promote import STAGES, moves
from tasks.promote.store import find

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas.objects import FlowRun

_NONE = "-"


@dataclass(frozen=True)
class Model:
    """A line of the page.

    Attributes:
        params: the params file, relative to where it was looked for.
        name: of the model; of a params file with mistakes the file's own.
        newest: the newest finished bundle; None before the first one.
        stages: stage -> version that serves there, and the moment since when it does.
        verdict: word and reason of the gate's last verdict, or None.
        retraining: word, moment and reason of the last retraining, or None.
        monitor: word, moment and reason of the last look at recent rows, or None.
        problem: why there is no more to say; empty if there is.
    """

    params: str
    name: str
    newest: str | None = None
    stages: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    verdict: tuple[str, str] | None = None
    retraining: tuple[str, str, str] | None = None
    monitor: tuple[str, str, str] | None = None
    problem: str = ""


def models(root: Path) -> list[Model]:
    """Every model whose params file lies in a folder or below it, by name.

    Such a file is called ``params.yaml`` and has a ``dvc.yaml`` beside it, or is an ``x.yaml`` beside a folder ``x``
    with one (see :mod:`flows.pipeline`).

    Raises:
        UsageError: if there is none.
    """
    root = root.resolve()
    found = sorted(_params_files(root))
    if not found:
        rule, way_out = "a model has a params file with its dvc.yaml", "name the folder of the repository"
        raise UsageError(rule, f"there is none in {root}", way_out)
    return sorted((_model(path, root) for path in found), key=lambda one: (one.name, one.params))


def _params_files(root: Path) -> Iterator[Path]:
    for path, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        folder = Path(path)
        if "dvc.yaml" not in names:
            continue
        for params in (folder / "params.yaml", folder.with_name(f"{folder.name}.yaml")):
            if params.is_file() and params.is_relative_to(root):
                yield params


def _model(path: Path, root: Path) -> Model:
    shown = path.relative_to(root).as_posix()
    try:
        settings = load(path)
    except AssayError as error:
        return Model(shown, shown, problem=f"{error.rule}: {error.found}")
    name = settings.base.name
    try:
        artifacts = path.parent / settings.base.artifacts_dir
        return Model(
            shown,
            name,
            newest=_newest(settings, path.parent),
            stages=_stages(settings, path.parent),
            verdict=_verdict(artifacts),
            retraining=_last(max(artifacts.glob("runs/retrain/*/record.json"), default=None)),
            monitor=_last(artifacts / "monitor" / "monitor.json"),
        )
    except AssayError as error:
        return Model(shown, name, problem=f"{error.rule}: {error.found}")


def _newest(settings: Params, root: Path) -> str | None:
    folders = (root / settings.base.dist_dir / settings.base.name).glob("[0-9]*-*")
    names = [folder.name for folder in folders if folder.is_dir() and folder.name.partition("-")[0].isdigit()]
    return max(names, key=lambda name: int(name.partition("-")[0]), default=None)


def _stages(settings: Params, root: Path) -> dict[str, tuple[str, datetime]]:
    state = moves.read(find(settings.promote.store, root), settings.base.name)
    served = {stage: state.serves(stage) for stage in STAGES}
    return {stage: (one.version, datetime.fromisoformat(one.when)) for stage, one in served.items() if one is not None}


def _verdict(artifacts: Path) -> tuple[str, str] | None:
    """The later one of a verdict that passed and one that did not."""
    found = [path for passed in (True, False) if (path := report(artifacts, "verify", passed)) is not None]
    if not found:
        return None
    told = files.read_json(max(found, key=lambda path: path.stat().st_mtime))
    return told["verdict"], told["reason"]


def _last(path: Path | None) -> tuple[str, str, str] | None:
    """Word, moment and reason in a record, if there is one."""
    told = files.read_json(path) if path is not None and path.is_file() else None
    return None if told is None else (told["word"], told["when"], told["reason"])


def table(found: list[Model], now: datetime | None = None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings, and a row of texts for each model."""
    moment = now or datetime.now(UTC)
    stages = (f"at {stage}" for stage in STAGES)
    heads = ("model", "params", "newest bundle", *stages, "last verdict", "last retraining", "last monitor")
    return heads, [_row(one, moment) for one in found]


def _row(one: Model, now: datetime) -> tuple[str, ...]:
    if one.problem:
        return (one.name, one.params, one.problem, *[_NONE] * (len(STAGES) + 3))
    stages = (one.stages.get(stage) for stage in STAGES)
    served = tuple(_NONE if at is None else f"{at[0]}, {_age(at[1], now)}" for at in stages)
    verdict = _NONE if one.verdict is None else one.verdict[0]
    last = (_NONE if at is None else f"{at[0]}, {_age(datetime.fromisoformat(at[1]), now)}"
            for at in (one.retraining, one.monitor))  # fmt: skip
    return (one.name, one.params, one.newest or _NONE, *served, verdict, *last)


def _age(since: datetime, now: datetime) -> str:
    days = (now - since).days
    return f"{days} day{'' if days == 1 else 's'} ago" if days > 0 else "today"


def page(found: list[Model], now: datetime | None = None) -> str:
    """The same as a page (HTML) that needs no network, with the reasons."""
    moment = now or datetime.now(UTC)
    heads, rows = table(found, moment)
    lines: list[dict[str, Any]] = [
        {
            "cells": row,
            "drift": one.monitor is not None and one.monitor[0] == "DRIFT",
            "problem": one.problem,
            "reasons": [told[-1] for told in (one.verdict, one.retraining, one.monitor) if told and told[-1]],
        }
        for one, row in zip(found, rows, strict=True)
    ]
    template = pages.environment("flows").get_template("models.html.j2")
    return template.render(heads=heads, lines=lines, when=moment.isoformat(timespec="seconds"))


def show_models(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 (Prefect's names)
    """Hook of a flow with a parameter `params`: the table of its repository as the artifact `assay-models`.

    A hook's errors are told in the run's log, and change nothing of the run.
    """
    from prefect.artifacts import create_table_artifact

    params = Path(flow_run.parameters.get("params", "params.yaml")).absolute()
    repository = next((above for above in params.parents if (above / ".dvc").is_dir()), params.parent)
    heads, rows = table(models(repository))
    # Prefect takes a cell for Markdown, and draws a lone dash as the dot of a list.
    lines = [dict(zip(heads, ("none" if cell == _NONE else cell for cell in row), strict=True)) for row in rows]
    create_table_artifact(lines, key="assay-models", description=f"The models of {repository}")
