"""`assay`, the one console script. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from deploy.errors import AssayError, UsageError

_DEBUG = "ASSAY_DEBUG"
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
}

app = typer.Typer(name="assay", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an unexpected error.")] = False,
) -> None:
    """Raw data in; a small, fast, proven ONNX model out."""
    if debug:
        os.environ[_DEBUG] = "1"


@app.command()
def run(
    params: Annotated[Path, typer.Option("--params", help="Params file of the pipeline.")] = Path("params.yaml"),
    force: Annotated[str | None, typer.Option(help="Run this stage even if nothing changed.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Try a crashed stage again, so often. Verdicts stand.")] = 0,
) -> None:
    """Run the pipeline: whatever is not up to date, as one Prefect flow over DVC.

    Exit codes: 0 done, 1 a bug, 2 settings or usage, 3 data rejected, 4 not proven as good, 5 a broken artifact.
    """
    from flows import summary
    from flows.pipeline import prepare
    from tasks.core.errors import NotProven
    from tasks.core.process import stop_on_terminate
    from tasks.core.settings import STAGES

    if force is not None and force not in STAGES:
        raise UsageError("--force names a stage", force, f"choose one of {', '.join(STAGES)}")
    stop_on_terminate()
    started = time.time()
    pipeline = prepare(params)

    from flows.session import conduct

    try:
        outcomes = conduct(pipeline, force, retries)
    except NotProven:
        summary.show_refusal(pipeline, since=started)
        raise
    except KeyboardInterrupt:
        print("interrupted; the previous artifacts are untouched", file=sys.stderr)
        raise typer.Exit(130) from None
    summary.show(pipeline)
    if set(outcomes.values()) == {"unchanged"}:
        typer.echo("All stages are up to date.")
    else:
        lock = os.path.relpath(pipeline.dvc_yaml.with_name("dvc.lock"))
        typer.echo(f"Commit {lock} to keep this run: its data and results can then be had back from DVC.")


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    rows: Annotated[Path, typer.Argument(help="CSV file with a header, or .npz of arrays.")],
    out: Annotated[Path | None, typer.Option("--out", help="CSV file to write (default: standard output).")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, tensorrt or auto (default: that of --target, or cpu).")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Whose variant to take, in a bundle for several targets.")] = None,
) -> None:
    """Predict rows with a bundle, after checking its hashes."""
    from deploy.predictor import Predictor
    from deploy.rows import read, write_csv
    from tasks.core.files import machine_errors

    if out is not None and not out.parent.is_dir():
        raise UsageError("--out names a file in a folder that exists", f"{out.parent} does not", f"mkdir {out.parent}")
    with machine_errors(out.parent if out else Path.cwd()):
        predictor = Predictor.load(bundle, device or ("auto" if target else "cpu"), target=target)
        outputs = predictor.predict(read(rows, predictor.signature))
        with TemporaryDirectory(dir=out.parent if out else None, prefix=".assay-") as folder:
            path = Path(folder, "outputs.csv")
            write_csv(path, outputs)
            if out is None:
                sys.stdout.write(path.read_text(encoding="utf-8"))
            else:
                path.replace(out)


@app.command("verify-model")
def verify_model(
    original: Annotated[Path, typer.Argument(help="ONNX file that the candidate must be as good as.")],
    candidate: Annotated[Path, typer.Argument(help="ONNX file that would be shipped.")],
    data: Annotated[Path, typer.Option("--data", help="Labelled rows: .csv, .parquet, or .npz of arrays.")],
    label: Annotated[str, typer.Option(help="Column or array of the labels.")] = "y",
    task: Annotated[str, typer.Option(help="auto, binary, multiclass or regression.")] = "auto",
    classes: Annotated[int | None, typer.Option(min=2, help="Labels are the integers below this.")] = None,
    metric: Annotated[str | None, typer.Option(help="What decides (default: auc, accuracy or rmse).")] = None,
    output: Annotated[str | None, typer.Option(help="Output that is judged (default: the only one of floats).")] = None,
    margin: Annotated[str | None, typer.Option(help="Largest acceptable loss: 0.002, or a share such as 1%.")] = None,
    group: Annotated[str | None, typer.Option(help="Column of the rows that belong together.")] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="Column that is no input.")] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help="Column that cuts the rows into slices.")] = None,
    device: Annotated[str, typer.Option(help="Where the candidate is judged: auto, cpu, cuda or tensorrt.")] = "auto",
    out: Annotated[Path, typer.Option("--out", help="Folder for verdict.json and report.html.")] = Path("verdict"),
) -> None:
    """Judge any ONNX file against another one on labelled rows, outside a pipeline.

    Exit codes: 0 accepted, 2 usage, 3 rows rejected, 4 not shown to be as good, 5 a broken file.
    """
    from tasks.core.errors import NotProven
    from tasks.core.settings import verify_section
    from tasks.verify.two_models import Question, judge

    if task not in ("auto", "binary", "multiclass", "regression"):
        raise UsageError("--task is auto, binary, multiclass or regression", task, "choose one of them")
    own = verify_section({"margin": margin, "slices": slices or []})
    asked = Question(original, candidate, data, label, task, classes, metric, output, group, tuple(drop or ()), device)
    told = judge(asked, own, out)
    typer.echo(f"{told['verdict']}: {told['reason']}\n{out / 'report.html'}")
    if told["verdict"] != "ACCEPT":
        raise NotProven(
            "the candidate must be shown to be as good as the original",
            f"{told['verdict']}: {told['reason']}",
            f"read {out / 'report.html'}; give more rows or a wider --margin",
        )


@app.command()
def doctor(
    params: Annotated[Path, typer.Option("--params", help="Params file of the pipeline.")] = Path("params.yaml"),
) -> None:
    """Check that this machine has what a run needs."""
    from flows.doctor import examine

    examine(params)


def main() -> None:
    """Run the command line, and end with its exit code (see :mod:`tasks.core.errors`)."""
    for name, value in _NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except AssayError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 (the last resort: it is told and kept, not swallowed)
        print(f"a bug: {type(error).__name__}: {error}\n{_keep_traceback()}", file=sys.stderr)
        sys.exit(1)


def _keep_traceback() -> str:
    """Where the traceback of the present exception is now, or the traceback itself."""
    text = traceback.format_exc()
    if os.environ.get(_DEBUG):
        return text
    try:
        import platformdirs

        folder = Path(platformdirs.user_log_dir("assay", appauthor=False))
        path = folder / f"traceback-{os.getpid()}.log"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except (OSError, ImportError):
        return text
    return f"its traceback is in {path} (or shown with `assay --debug ...`)"


if __name__ == "__main__":
    main()
