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

#: What the outputs lie beside (texts): what ran the model, and whose variant it is (empty: no bundle for several).
PROVIDER, TARGET = "assay.provider", "assay.target"
_FOREIGN = ("torch", "pandas", "pyarrow", "prefect", "dvc", "onnx", "tasks", "flows")


def main(arguments: list[str] | None = None) -> int:
    """Write every output of the model, :data:`PROVIDER` and :data:`TARGET`, to OUT.npz; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.score", description="Score rows with an exported model.")
    parser.add_argument("folder", type=Path, help="folder with model.onnx and signature.json")
    parser.add_argument("--bundle", action="store_true", help="it is a bundle: score what a server would serve of it")
    parser.add_argument("--target", help="of a bundle for several targets: whose variant")
    parser.add_argument("rows", type=Path, help=".npz of named columns")
    parser.add_argument("out", type=Path, help=".npz to write")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int)
    options = parser.parse_args(arguments)
    try:
        own = options.device, options.threads
        predictor = (
            Predictor.load(options.folder, *own, options.target)
            if options.bundle
            else Predictor.open(options.folder, *own)
        )
        answers = predictor.predict(read_npz(options.rows), options.batch)
        # Texts are Python objects to onnxruntime; a file without pickle holds them as fixed-width ones.
        plain: dict[str, Any] = {k: a.astype(np.str_) if a.dtype == object else a for k, a in answers.items()}
        about: dict[str, Any] = {PROVIDER: np.array(predictor.provider), TARGET: np.array(predictor.target or "")}
        np.savez(options.out, **about, **plain)
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
