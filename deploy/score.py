"""`python -m deploy.score FOLDER ROWS.npz OUT.npz [--device D] [--threads N] [--batch N]`: score rows on its own.

The verifier judges the exported file with this: nothing but numpy and onnxruntime is in the process, and it says so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from deploy.errors import AssayError, MachineError
from deploy.predictor import Predictor
from deploy.rows import read_npz

_FOREIGN = ("torch", "pandas", "pyarrow", "prefect", "dvc", "onnx", "tasks", "flows")


def main(arguments: list[str] | None = None) -> int:
    """Write every output of the model, and ``provider`` (text), to OUT.npz; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.score", description="Score rows with an exported model.")
    parser.add_argument("folder", type=Path, help="folder with model.onnx and signature.json")
    parser.add_argument("rows", type=Path, help=".npz of named columns")
    parser.add_argument("out", type=Path, help=".npz to write")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int)
    options = parser.parse_args(arguments)
    try:
        predictor = Predictor.open(options.folder, options.device, options.threads)
        answers = predictor.predict(read_npz(options.rows), options.batch)
        # Texts are Python objects to onnxruntime; a file without pickle holds them as fixed-width ones.
        plain: dict[str, Any] = {k: a.astype(np.str_) if a.dtype == object else a for k, a in answers.items()}
        np.savez(options.out, provider=np.array(predictor.provider), **plain)
    except AssayError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(error, file=sys.stderr)
        return MachineError.exit_code
    foreign = [name for name in _FOREIGN if name in sys.modules]
    if foreign:
        print(f"the scoring process must hold deploy's code only; found {foreign}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
