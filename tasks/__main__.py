"""`python -m tasks <stage> [--params FILE]`: one stage as a process. This is what DVC calls."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tasks.core import process


def main(arguments: list[str] | None = None) -> int:
    """Run the stage that the arguments name; return the exit code (see :mod:`tasks.core.errors`)."""
    with process.dying_of_interrupt():  # while modules load, there is nothing to clean up
        from tasks.core.stage import UPSTREAM

        parser = argparse.ArgumentParser(prog="python -m tasks", description="Run one stage of the pipeline.")
        parser.add_argument("stage", choices=UPSTREAM)
        parser.add_argument(
            "--params", type=Path, default=Path("params.yaml"), help="params file (default: params.yaml)"
        )
        options = parser.parse_args(arguments)
        process.stop_on_terminate()
        process.die_with_driver()
    return _run(options.stage, options.params)


def _run(stage: str, path: Path) -> int:
    from tasks.core.errors import AssayError
    from tasks.core.files import machine_errors
    from tasks.core.log import log, log_file, logging_to
    from tasks.core.settings import load
    from tasks.core.stage import exit_code, only_one, run_stage

    root = path.parent
    try:
        params = load(path)
        artifacts = root / params.base.artifacts_dir
        # The lock comes before the log, which a second run of the stage would otherwise empty.
        with machine_errors(artifacts), only_one(stage, artifacts), logging_to(log_file(artifacts, stage)):
            try:
                run_stage(stage, params, root)
            except AssayError as error:
                log.error("%s: %s", stage, error)
                return error.exit_code
            except KeyboardInterrupt as error:
                log.error("%s: interrupted; the previous artifacts are untouched", stage)
                return exit_code(error)
            except Exception as error:  # noqa: BLE001 (told with its traceback, to the log as well)
                log.exception("%s: a bug; the previous artifacts are untouched", stage)
                return exit_code(error)
    except AssayError as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as error:  # before there was a log
        return exit_code(error)
    return 0


if __name__ == "__main__":
    # Telemetry of every library is off unless the user says otherwise.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # Read when OpenMP loads. Threads that wait by spinning take the core from those they wait for: with one other busy
    # process on two cores, a training step took 273 ms on average instead of 26.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
