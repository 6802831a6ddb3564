"""Gate `graph`: every ONNX file of the bundle is one that the serving runtimes are sure to read."""

from __future__ import annotations

from pathlib import Path

from tasks.core import model_file
from tasks.promote.words import Said, judged


def ask(folder: Path, max_opset: int, max_ir_version: int) -> Said:
    """Ask onnx.checker (in a process of its own) and look at opset, IR version, operators, axes and weights.

    Args:
        folder: the bundle.
        max_opset: newest opset that will be read.
        max_ir_version: newest IR version.
    """
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.onnx"))
    problems = [
        f"{name}: {problem}"
        for name in found
        for line in model_file.measure_graph(folder / name, max_opset, max_ir_version)
        for problem in line.problems
    ]
    names = [name.as_posix() for name in found]
    fine = f"{', '.join(names)}: opset at most {max_opset}, IR version at most {max_ir_version}"
    return judged(problems if found else ["there is no .onnx file"], fine, {"files": names})
