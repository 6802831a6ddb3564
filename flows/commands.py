"""The commands of scheduled retraining: `assay retrain`, `up` and `down`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the commands to the console script."""
    for command in (retrain, up, down):
        app.command()(command)


def retrain(
    params: Annotated[Path, typer.Option("--params", help="Params file of the pipeline.")] = Path("params.yaml"),
    force: Annotated[
        bool,
        typer.Option("--force", help="Train without a reason, however the data differ from before. The suite stands."),
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


def up(
    params: Annotated[
        list[Path] | None, typer.Option("--params", help="Params file of a pipeline; may be given again.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the server, on the loopback address.")] = 4200,
) -> None:
    """Start a Prefect server and a worker for this project, and register its deployments (deploy/prefect.yaml).

    The server asks for a password if PREFECT_SERVER_API_AUTH_STRING is set (USER:PASSWORD).
    """
    from flows import services

    services.up(params or [Path("params.yaml")], port, typer.echo)


def down(
    params: Annotated[Path, typer.Option("--params", help="Params file of a pipeline.")] = Path("params.yaml"),
) -> None:
    """End the server and the worker that `assay up` started, and nothing else."""
    from flows import services

    services.down(params, typer.echo)
