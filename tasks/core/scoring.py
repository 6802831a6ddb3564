"""Scores of the exported file on test, in a process that holds nothing but deploy's code."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deploy.rows import read_npz
from deploy.score import PROVIDER, TARGET
from deploy.signature import Signature
from tasks.core.errors import IntegrityError, MachineError

if TYPE_CHECKING:
    import pyarrow as pa

    from tasks.core.workloads.contract import Encoder


@dataclass(frozen=True)
class Exported:
    """Answers of an exported model (its first output, [rows, ...]), what ran it, and, of a bundle, whose variant."""

    answers: np.ndarray
    provider: str
    target: str | None = None


def score_exported(folder: Path, encoder: Encoder, rows: pa.Table, device: str) -> Exported:
    """:func:`score` for the rows of a table."""
    return score(folder, encoder.raw_inputs(rows), device)


def score(
    folder: Path, columns: Mapping[str, np.ndarray], device: str, batch: int | None = None, threads: int | None = None
) -> Exported:
    """Score raw rows with ``folder/model.onnx`` in a separate process.

    Args:
        folder: holds ``model.onnx`` and ``signature.json``.
        columns: name -> array [rows, ...].
        device: see :func:`deploy.runtime.open_session`.
        batch: rows given to the model at once; None leaves the choice to the predictor.
        threads: inside an operator; None leaves the choice to onnxruntime.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if the process fails in another way, with what it said.
    """
    given = {"--device": device, "--batch": batch, "--threads": threads}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    return _scored(folder, columns, options)


def score_served(folder: Path, columns: Mapping[str, np.ndarray], target: str | None) -> Exported:
    """:func:`score` with what a server would serve of a bundle that is started for ``target`` (None: for none)."""
    return _scored(folder, columns, ["--bundle", *(["--target", target] if target else [])])


def _scored(folder: Path, columns: Mapping[str, np.ndarray], options: Sequence[str]) -> Exported:
    with tempfile.TemporaryDirectory() as scratch:
        given, answers = Path(scratch) / "rows.npz", Path(scratch) / "answers.npz"
        np.savez(given, **cast("dict[str, Any]", columns))
        # -P: a deploy.py in the current folder is the user's, not ours.
        command = [sys.executable, "-P", "-m", "deploy.score", str(folder), str(given), str(answers), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == MachineError.exit_code:
            raise MachineError(
                "the exported model must score the test rows in a process of its own",
                done.stderr.strip()[-2000:],
                "give base.device what this machine has, and TMPDIR some room",
            )
        if done.returncode != 0:
            raise IntegrityError(
                "the exported model must score the test rows in a process of its own",
                f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}",
                "run `dvc repro --force compress` to export it anew",
            )
        result = read_npz(answers)
    first = Signature.read(folder / "signature.json").outputs[0].name
    return Exported(result[first], str(result[PROVIDER]), str(result[TARGET]) or None)
