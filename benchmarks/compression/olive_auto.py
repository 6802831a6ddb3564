"""Olive's automatic command for a finished ONNX file: `python benchmarks/compression/olive_auto.py INPUTS OUT`.

`olive optimize` for int8 on the CPU comes first. Whatever the model, it calibrates with a text corpus that it downloads
and takes no other rows; it fails here, and the report has its last line. `olive auto-opt`, its predecessor, needs no
data: it quantizes dynamically.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import onnx
import peer

_COMMANDS = ("optimize", "auto-opt")


def quantize(given: peer.Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The first command's file that there is, and what the commands before it said."""
    failures: dict[str, str] = {}
    for command in _COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            done = _olive(command, given.model.resolve(), Path(folder))
            result = Path(folder) / "out" / "model.onnx"
            if done.returncode == 0 and result.is_file():
                return onnx.load(result), {"command": f"olive {command}", "failed": failures}
            failures[f"olive {command}"] = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
    raise RuntimeError(f"no command of Olive gives a file: {failures}")


def _olive(command: str, model: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    olive = Path(sys.executable).with_name("olive")
    target = ["--provider", "CPUExecutionProvider", "--device", "cpu", "--precision", "int8"]
    arguments = [olive, command, "-m", model, *target, "-o", folder / "out", "--disable_telemetry"]
    quiet = os.environ | {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(arguments, cwd=folder, env=quiet, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    peer.run("olive_auto", __doc__, quantize)
