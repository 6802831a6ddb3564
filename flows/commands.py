"""The commands of scheduled retraining: `assay retrain`, `up` and `down`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the console script."""
    for command in (retrain,):
        app.command()(command)


def retrain(
    params: Annotated[Path, typer.Option("--params", help="Params file of the pipeline.")] = Path("params.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Train without a reason, whatever the data look like.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(help="Moment of the snapshot (default: the last midnight in UTC).")
    ] = None,
    because: Annotated[str | None, typer.Option(help="Why, for the record; a reason to train.")] = None,
) -> None:
    """Take a new snapshot, and train, prove and register a new version if there is a reason to.

    It works on the present commit, in a worktree of its own, and leaves a branch `retrain/NAME/DATE`. A flow run where
    PREFECT_API_URL names a server. Exit codes: 0 done, or nothing to do; 2 usage or the machine; 3 the data, 4 the
    candidate, 6 the champion said no.
    """
    from flows.retraining import Wanted, error_of, told
    from flows.session import retrain as conduct
    from tasks.core.process import stop_on_terminate

    stop_on_terminate()
    record = conduct(Wanted(params, force, as_of, because))
    if (error := error_of(record)) is not None:
        raise error
    typer.echo(told(record))
