"""``python -m deploy.server FOLDER --key assay.pub``: serves a bundle; the image of the server runs this."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.errors import AssayError, UsageError
from deploy.server import sources
from deploy.server.settings import Limits, Predictions, Serving, Settings


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; return the exit code: 0 stopped, 2 usage or machine, 5 a bundle that is not right."""
    options = _parser().parse_args(arguments)
    try:
        source = _source(options)
        settings = _settings(options, source.name)
        from deploy.server.process import serve

        serve(source, settings)
    except AssayError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    limits, settings = Limits(), Settings(Serving("", None))
    parser = argparse.ArgumentParser(prog="python -m deploy.server", description="Serve a bundle over HTTP.")
    add = parser.add_argument
    add("folder", type=Path, nargs="?", help="dist/NAME/VERSION, or dist/NAME for its newest version and each new one")
    add("--store", type=Path, help="instead of a folder: a store of promoted bundles, with --name and --stage")
    add("--name", help="name of the model (default: that of the folder)")
    add("--stage", help="stage of the store whose version serves")
    add("--key", type=Path, help="public key that every bundle must be signed with")
    add("--unsigned", action="store_true", help="serve bundles without checking who made them")
    add("--token-file", type=Path, help="one accepted bearer token a line; read again when it changes")
    add("--host", default=settings.host)
    add("--port", type=int, default=settings.port, help="0 is any free one")
    add("--device", default="auto", choices=("auto", "cpu", "cuda", "tensorrt"))
    add("--target", help="whose variant to take out of a bundle for several targets")
    add("--threads", type=int, default=1, help="inside an operator")
    add("--workers", type=int, default=settings.workers, help="models that run at once (default: the cores)")
    add("--max-body", type=int, default=limits.body, help="bytes")
    add("--max-rows", type=int, default=limits.rows, help="of a request")
    add("--max-concurrency", type=int, default=limits.concurrency, help="requests under way")
    add("--max-seconds", type=float, default=limits.seconds, help="of a request")
    add("--poll", type=float, default=settings.poll, help="seconds between two looks for a new version")
    add("--access-log", action="store_true", help="a line for each request")
    add("--prediction-log", type=Path, help="folder that keeps bins and answers of a sample of the rows")
    add("--prediction-sample", type=float, default=Predictions.sample, help="share of the rows, above 0 and at most 1")
    add("--prediction-mib", type=int, default=Predictions.most_bytes >> 20, help="size of that folder at most")
    return parser


def _source(options: argparse.Namespace) -> sources.Source:
    stored = (options.store, options.name, options.stage)
    if options.folder is not None and options.store is None and options.stage is None:
        return sources.local(options.folder, options.name)
    if options.folder is None and None not in stored:
        return sources.Stage(*stored)
    found = " ".join(sys.argv[1:]) or "neither"
    raise UsageError("the server takes a folder, or --store with --name and --stage", found, "see --help")


def _settings(options: argparse.Namespace, name: str) -> Settings:
    limits = Limits(options.max_body, options.max_rows, options.max_concurrency, options.max_seconds)
    serving = Serving(name, signing_key(options.key, options.unsigned), options.device, options.threads, options.target)
    return Settings(
        serving, limits, options.host, options.port, options.token_file, options.workers, options.poll,
        options.access_log, _predictions(options),
    )  # fmt: skip


def _predictions(options: argparse.Namespace) -> Predictions | None:
    """Where rows are kept; None if that was not asked for.

    Raises:
        UsageError: if the share is none, or the folder's size is nothing.
    """
    if options.prediction_log is None:
        return None
    if not 0 < options.prediction_sample <= 1 or options.prediction_mib < 1:
        found = f"{options.prediction_sample:g} of the rows, {options.prediction_mib} MiB"
        rule = "a prediction log keeps a share of the rows above 0 and at most 1, in a folder of 1 MiB or more"
        raise UsageError(rule, found, "correct --prediction-sample or --prediction-mib")
    return Predictions(options.prediction_log, options.prediction_sample, options.prediction_mib << 20)


def signing_key(key: Path | None, unsigned: bool) -> Path | None:
    """The key to check bundles with; None only if that was asked for in words.

    Raises:
        UsageError: if neither or both were said.
    """
    if (key is None) != unsigned:
        found = "neither" if key is None else "both"
        raise UsageError("bundles are checked with --key, or served --unsigned", found, "say one of them")
    return key


if __name__ == "__main__":
    sys.exit(main())
