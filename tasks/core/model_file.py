"""What a shipped file must be, whatever it answers: whole, plain, small, and the one that was made."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tasks.core import files
from tasks.core.errors import IntegrityError
from tasks.core.measured import Measured

if TYPE_CHECKING:
    import onnx

#: What this project writes (tasks.core.workloads.onnx_export), and so what the runtimes that it ships to must read.
#: A user's own file may be newer; then its runtime is, too.
OPSET, IR_VERSION = 18, 10
SUFFIXES = (".json", ".npz", ".onnx")

_MODEL = "model.onnx"
#: The first byte of a pickle since protocol 2; no JSON, zip or ONNX file begins with it.
_PICKLE = b"\x80"
#: Operators that take NaN or infinity for what it is: a mark of a missing value, a mask, no bound.
_MARKS = ("Where", "Clip", "Min", "Max", "Pad")
#: onnx's checker is native code that some files end: it has a process of its own.
_CHECK = """
import json, sys
from pathlib import Path
from tasks.core.brought import door
path = Path(sys.argv[1])
print(json.dumps(door.problems(door.read(path), path.parent)))
"""


def measure(folder: Path, sha256: str | None = None, original: Path | None = None) -> list[Measured]:
    """Everything about the folder and its ``model.onnx`` that can be said without running it.

    Args:
        folder: holds ``model.onnx`` and ``signature.json``.
        sha256: what the manifest of the stage that made the file says; None if there is none.
        original: the original as ONNX, whose opset and IR version the file may have, too; None if there is none.

    Raises:
        IntegrityError: if the original is not readable.
    """
    path = folder / _MODEL
    lines = [_line("files of the folder", folder_problems(folder))]
    if sha256 is not None:
        lines.append(_line("the file that was made", _swapped(path, sha256)))
    opset, version = OPSET, IR_VERSION
    if original is not None:
        first = _read(original)
        opset, version = max(opset, _opset(first)), max(version, first.ir_version)
    return [*lines, *measure_graph(path, opset, version)]


def measure_graph(path: Path, opset: int = OPSET, version: int = IR_VERSION) -> list[Measured]:
    """What can be said of one ONNX file alone; ``opset`` and IR ``version`` are the newest that it may have."""
    try:
        model = _read(path)
    except IntegrityError as error:
        return [_line("a readable model", [error.found])]
    return [
        _line("onnx.checker and operators", checker_problems(path)),
        _line("opset and IR version", _too_new(model, opset, version)),
        _outside(model),
        _line("batch axis", batch_axis_problems(model)),
        _line("finite weights", weight_problems(model)),
    ]


def outside(path: Path) -> Measured:
    """Whether weights lie outside a file, where its hash does not reach.

    Raises:
        IntegrityError: if the file is not readable.
    """
    return _outside(_read(path), "external data of the file as it was given")


def folder_problems(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Links, and files that are not of the allowed types, by name and by content.

    Args:
        folder: looked through to the bottom; links are not followed.
        suffixes: of allowed files.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(f"{name} is a link")
        elif path.is_dir():
            continue
        elif not path.is_file() or path.suffix not in suffixes:
            found.append(f"{name} is none of {', '.join(suffixes)}")
        elif problem := _content_problem(path):
            found.append(f"{name} {problem}")
    return found


def checker_problems(path: Path) -> list[str]:
    """What ``onnx.checker`` (with type and shape inference) and :func:`tasks.core.brought.door.problems` refuse."""
    command = [sys.executable, "-P", "-c", _CHECK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip()[-300:]
        return [f"onnx.checker ends without an answer: exit code {done.returncode}: {said}"]
    problems: list[str] = json.loads(done.stdout)
    return problems


def batch_axis_problems(model: onnx.ModelProto) -> list[str]:
    """Inputs and outputs whose first axis is no free batch axis."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for item in (*model.graph.input, *model.graph.output):
        kind = item.type.tensor_type
        if item.name in constants or not kind.HasField("shape"):
            continue
        if not kind.shape.dim:
            found.append(f"{item.name} has no batch axis")
        elif kind.shape.dim[0].HasField("dim_value"):
            found.append(f"{item.name} has a fixed batch axis of {kind.shape.dim[0].dim_value}")
    return found


def weight_problems(model: onnx.ModelProto) -> list[str]:
    """Float constants with NaN or infinity, but for marks and masks.

    A mark of a missing value is read by ``Where``; no bound is read by ``Clip``, ``Min``, ``Max`` or ``Pad``; a mask
    is added and holds only zeros and negative infinity.
    """
    from onnx import numpy_helper

    from tasks.core.brought import door

    readers: dict[str, set[str]] = {}
    for node in door.all_nodes(model.graph):
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    found = []
    for name, tensor in _constants(model.graph):
        if not _is_float(tensor) or _is_external(tensor):
            continue
        values = numpy_helper.to_array(tensor).astype(np.float64)
        wrong = ~np.isfinite(values)
        is_mark = bool(readers.get(name)) and readers[name] <= set(_MARKS)
        is_mask = values.size > 1 and bool(np.isin(values, (0.0, -np.inf)).all())
        if wrong.any() and not is_mark and not is_mask:
            found.append(f"{name}: {int(wrong.sum())} of {values.size} weights are NaN or infinite")
    return found


def _line(name: str, problems: Sequence[str]) -> Measured:
    return Measured("mechanics", name, "nothing_found", 0, "ANOMALOUS", problems=tuple(problems))


def _content_problem(path: Path) -> str:
    """What is in a file of an allowed name that must not be."""
    from deploy.rows import read_npz

    with path.open("rb") as file:
        if file.read(1) == _PICKLE:
            return "is a pickle, whatever its name says"
    try:
        if path.suffix == ".json":
            files.read_json(path)
        if path.suffix == ".npz":
            read_npz(path)
    except Exception as error:  # noqa: BLE001 (whatever a reader says of a file, it is a problem of the file)
        return f"is not what its name says: {str(error)[:200]}"
    return ""


def _swapped(path: Path, sha256: str) -> list[str]:
    if not path.is_file():
        return [f"{path.name} is missing"]
    found = files.sha256(path)
    return [] if found == sha256 else [f"{path.name} has sha256 {found}, the manifest says {sha256}"]


def _read(path: Path) -> onnx.ModelProto:
    """The model without external data.

    Raises:
        IntegrityError: if it is not readable, or holds no nodes.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no operators")
    except Exception as error:  # protobuf's parsers raise types of their own
        found = f"{path.name}: {str(error)[:300]}"
        raise IntegrityError("a .onnx file must be readable", found, "save or fetch it anew") from error
    return model


def _too_new(model: onnx.ModelProto, opset: int, version: int) -> list[str]:
    found = []
    if _opset(model) > opset:
        found.append(f"opset {_opset(model)} is newer than {opset}, which runtimes are sure to have")
    if model.ir_version > version:
        found.append(f"IR version {model.ir_version} is newer than {version}, which runtimes are sure to have")
    return found


def _opset(model: onnx.ModelProto) -> int:
    return max((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), default=0)


def _outside(model: onnx.ModelProto, name: str = "external data") -> Measured:
    from tasks.core.brought import door

    names = door.external_files(model)
    said = f"weights lie outside the file, where its hash does not reach: {', '.join(map(repr, names))}"
    return _line(name, [said] if names else [])


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Constant tensors with the names by which they are read: initializers, and values of ``Constant``."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for item in node.attribute:
            if node.op_type == "Constant" and item.HasField("t"):
                yield node.output[0], item.t
            for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from _constants(inner)


def _is_float(tensor: onnx.TensorProto) -> bool:
    from onnx import TensorProto

    return tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _is_external(tensor: onnx.TensorProto) -> bool:
    from onnx.external_data_helper import uses_external_data

    return bool(uses_external_data(tensor))
