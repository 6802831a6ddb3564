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
from flows import commands

_DEBUG = "ASSAY_DEBUG"
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
}

app = typer.Typer(name="assay", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

keys = typer.Typer(no_args_is_help=True, help="Keys that sign bundles.")
app.add_typer(keys, name="keys")


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


@app.command()
def serve(
    what: Annotated[
        str, typer.Argument(help="dist/NAME/VERSION, dist/NAME (follows its newest version), or NAME@STAGE.")
    ],
    store: Annotated[Path | None, typer.Option("--store", help="Store of promoted bundles, for NAME@STAGE.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Public key that bundles must be signed with.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Serve without checking who made a bundle.")] = False,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="One accepted bearer token a line.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any free one.")] = 8080,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or tensorrt.")] = "auto",
    target: Annotated[str | None, typer.Option(help="Whose variant to serve, of a bundle for several targets.")] = None,
    prediction_log: Annotated[
        Path | None, typer.Option(help="Folder that keeps bins and answers of a sample of the rows, for `monitor`.")
    ] = None,
    prediction_sample: Annotated[float, typer.Option(help="Share of the rows that are kept there.")] = 0.1,
) -> None:
    """Serve a bundle over HTTP (`python -m deploy.server --help` has every limit).

    Exit codes: 0 stopped, 2 usage or the machine, 5 a bundle that is not what its signature or golden answers say.
    """
    from deploy.server.__main__ import main

    name, at, stage = what.partition("@")
    given: dict[str, object] = {"--store": store, "--name": name, "--stage": stage} if at and store else {}
    given |= {"--key": key, "--token-file": token_file, "--host": host, "--port": port, "--device": device}
    given |= {"--target": target}
    given |= {"--prediction-log": prediction_log, "--prediction-sample": prediction_sample}
    options = [f"{option}={value}" for option, value in given.items() if value is not None]
    raise typer.Exit(main([*([] if at and store else [what]), *options, *(["--unsigned"] if unsigned else [])]))


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


_PARAMS = typer.Option("--params", help="Params file of the pipeline.")
_STAGE = typer.Option("--to", help="staging or prod.")
_NAME = typer.Argument(help="Name of the model.")


@app.command()
def promote(
    name: Annotated[str, _NAME],
    version: Annotated[str, typer.Argument(help="Version of the bundle: its folder under dist.")],
    to: Annotated[str, _STAGE],
    params: Annotated[Path, _PARAMS] = Path("params.yaml"),
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Overrule gates, but for `bundle` and `approval`; needs --reason.")
    ] = False,
    approve_with: Annotated[
        Path | None, typer.Option(help="Approve for prod with this private key of an approver.")
    ] = None,
    approval: Annotated[Path | None, typer.Option(help="Approval for prod that `assay approve` wrote.")] = None,
    audit_report: Annotated[
        Path | None, typer.Option(help="What `pip-audit --strict -f cyclonedx-json` wrote where there is a network.")
    ] = None,
) -> None:
    """Put a finished bundle through the gates, and let a stage serve it.

    A flow run where PREFECT_API_URL names a server. Exit codes: 0 done, 2 usage, 5 a broken store, 6 refused.
    """
    from flows.promotion import Wanted
    from flows.session import promote as conduct

    typer.echo(conduct(Wanted(name, version, to, params, reason, force, approve_with, approval, audit_report)))


@app.command()
def approve(
    name: Annotated[str, _NAME],
    version: Annotated[str, typer.Argument(help="Version of the bundle.")],
    key: Annotated[Path, typer.Option(help="Private key of an approver (PEM; Ed25519 or EC).")],
    to: Annotated[str, _STAGE] = "prod",
    params: Annotated[Path, _PARAMS] = Path("params.yaml"),
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("approval.json"),
) -> None:
    """Sign that a bundle may go to a stage, for whoever promotes it."""
    from flows.promotion import approve as sign

    typer.echo(sign(name, version, to, params, key, out))


@app.command()
def rollback(
    name: Annotated[str, _NAME],
    to: Annotated[str, _STAGE],
    version: Annotated[str | None, typer.Argument(help="Version to go back to (default: the one before).")] = None,
    params: Annotated[Path, _PARAMS] = Path("params.yaml"),
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Let a stage serve an earlier version again, after the gates `bundle` and `server`.

    Exit codes: 0 done, 2 usage, 5 a broken store, 6 refused.
    """
    from flows.promotion import rollback as go_back

    typer.echo(go_back(name, to, version, params, reason))


@app.command()
def history(
    name: Annotated[str, _NAME],
    params: Annotated[Path, _PARAMS] = Path("params.yaml"),
) -> None:
    """Show who moved which stage, when and why, after verifying the audit log's chain.

    Exit codes: 0 the chain holds, 2 usage, 5 it is broken.
    """
    from flows.promotion import history as lines

    for line in lines(name, params):
        typer.echo(line)


@app.command()
def monitor(
    params: Annotated[Path, _PARAMS] = Path("params.yaml"),
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="What rows are held against (default: what serves).")
    ] = None,
    fail_on_drift: Annotated[bool, typer.Option("--fail-on-drift", help="End with code 3 if it is drift.")] = False,
) -> None:
    """Hold recent rows against those that the model learnt from, and leave a page.

    A flow run where PREFECT_API_URL names a server. Exit codes: 0 whatever was found, 2 usage, 3 rows that do not fit
    the model (or drift, with --fail-on-drift), 5 a broken log or bundle.
    """
    from flows.monitoring import refuse, said
    from flows.session import monitor as conduct

    outcome = conduct(params, bundle)
    typer.echo(said(outcome))
    if fail_on_drift:
        refuse(outcome)


@app.command()
def models(
    folder: Annotated[Path, typer.Argument(help="Folder of the repository, or a part of it.")] = Path(),
    out: Annotated[Path | None, typer.Option("--out", help="Also write the page, with reasons, to this file.")] = None,
) -> None:
    """Show every model of a repository: its bundles, what serves and since when, the last verdict, the last monitor.

    Exit codes: 0 done, 2 no model there, or the page cannot be written.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from flows.models import models as find
    from flows.models import page, table
    from tasks.core import files

    found = find(folder)
    heads, rows = table(found)
    shown = Table(*(Column(head, overflow="fold") for head in heads))
    for row in rows:
        shown.add_row(*row)
    Console(soft_wrap=True).print(shown, markup=False)
    if out is not None:
        with files.machine_errors(out.parent):
            files.write_text(out, page(found))


@keys.command("new")
def new_keys(
    folder: Annotated[Path, typer.Argument(help="Where assay.key and assay.pub are written.")] = Path(),
) -> None:
    """Make a key pair that signs bundles. ASSAY_SIGNING_PASSWORD, if it is set, encrypts the private one."""
    from deploy import signing
    from tasks.core.files import machine_errors
    from tasks.export.key import password

    secret = password()
    with machine_errors(folder):
        private, public = signing.new_keys(folder, secret)
    typer.echo(f"{private}: private, {'encrypted' if secret else 'not encrypted'}; keep it out of the repository")
    typer.echo(f"{public}: public, for whoever gets a bundle")


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    key: Annotated[Path, typer.Option("--key", help="Private key.", envvar="ASSAY_SIGNING_KEY")],
) -> None:
    """Sign a bundle, after checking all of it. The key's password is read from ASSAY_SIGNING_PASSWORD."""
    from deploy import signing
    from deploy.bundle import verify
    from tasks.core.files import machine_errors
    from tasks.export.key import password

    verify(bundle, None)
    with machine_errors(bundle):
        typer.echo(signing.sign(bundle, key, password()))


@app.command("verify-bundle")
def verify_bundle(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    key: Annotated[Path | None, typer.Option("--key", help="Public key of whoever must have signed it.")] = None,
) -> None:
    """Check everything about a bundle that can be known without running it. Exit code 5 names all that is wrong."""
    from deploy.bundle import verify

    verify(bundle, key)
    if key is None:
        typer.echo(f"{bundle} is whole, and its files agree")
        typer.echo("warning: nothing was proven about who made it: give --key", err=True)
    else:
        typer.echo(f"{bundle} is whole, its files agree, and it was signed with the other half of {key}")


@app.command()
def doctor(
    params: Annotated[Path, typer.Option("--params", help="Params file of the pipeline.")] = Path("params.yaml"),
) -> None:
    """Check that this machine has what a run needs."""
    from flows.doctor import examine

    examine(params)


commands.add_to(app)


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
