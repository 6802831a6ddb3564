"""`assay doctor`: does this machine have what a run needs? One line per check, and the way out where it fails."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.core.errors import AssayError, MachineError

_GIB = 1 << 30
_DISK_GIB = 2.0
_MEMORY_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """One finding: ``fail`` forbids a run, ``warn`` is worth knowing."""

    what: str
    grade: Literal["ok", "warn", "fail"]
    found: str
    way_out: str = ""


def examine(params: Path) -> None:
    """Print the table of all checks.

    Raises:
        MachineError: if something that a run needs is missing.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "", "found")
    failed = []
    for check in checks(params):
        told = f"{check.found}\n-> {check.way_out}" if check.way_out and check.grade != "ok" else check.found
        table.add_row(check.what, Text(check.grade, colours[check.grade]), Text(told))
        failed += [check.what] if check.grade == "fail" else []
    Console().print(table)
    if failed:
        raise MachineError("a run needs every check without `fail`", ", ".join(failed), "follow the arrows above")


def checks(params: Path) -> Iterator[Check]:
    """All checks, one after the other."""
    for check in (_python, _packages, _command, _git, lambda: _project(params), _onnxruntime, _cuda,
                  lambda: _disk(params.absolute().parent), _memory, _threads, _prefect):  # fmt: skip
        yield check()


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    grade: Literal["ok", "fail"] = "ok" if sys.version_info >= (3, 11) else "fail"
    return Check("Python", grade, f"{version} ({sys.executable})", "install Python 3.11 or newer")


def _packages() -> Check:
    from packaging.requirements import Requirement

    wrong = []
    for text in importlib.metadata.requires("assay") or []:
        required = Requirement(text)
        if required.marker and not required.marker.evaluate({"extra": ""}):
            continue
        found = _installed(required.name)
        if found is None or not required.specifier.contains(found, prereleases=True):
            wrong.append(f"{required.name}{required.specifier}: {found or 'missing'}")
    if wrong:
        return Check("packages", "fail", "; ".join(wrong), "run `make run`, or `pip install -e .`")
    return Check("packages", "ok", "all within the ranges of pyproject.toml")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _command() -> Check:
    """A stage's command is `python -m tasks`: with plain `dvc repro`, the first python on PATH must be this one."""
    found = shutil.which("python")
    if found and Path(found).parent == Path(sys.executable).parent:
        return Check("python on PATH", "ok", found)
    way_out = f"source {Path(sys.executable).parent / 'activate'} before `dvc repro` (`assay run` does not need it)"
    return Check("python on PATH", "warn", f"{found or 'none'}: not this environment's", way_out)


def _git() -> Check:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return Check("git", "fail", str(error), "install Git")
    return Check("git", "ok", done.stdout.strip().removeprefix("git version "))


def _project(params: Path) -> Check:
    from flows.pipeline import inspect

    try:
        pipeline = inspect(params)
    except AssayError as error:
        return Check("project", "fail", f"{error.rule}: {error.found}", error.way_out)
    return Check("project", "ok", f"{params.name}, {pipeline.dvc_yaml}")


def _onnxruntime() -> Check:
    import onnxruntime

    return Check("onnxruntime", "ok", f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}")


def _cuda() -> Check:
    """A listed provider may not load; only a session tells."""
    import onnx

    from deploy.runtime import open_session, provider

    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", tensors[:1], tensors[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "identity.onnx")
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
        used = provider(open_session(path, "auto"))
    if used == "CUDAExecutionProvider":
        return Check("CUDA", "ok", "loads")
    return Check("CUDA", "ok", f"not used here: models run on {used}")


def _disk(folder: Path) -> Check:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    way_out = f"free some space: less than {_DISK_GIB:.0f} GiB may not hold a run and DVC's cache"
    return Check("disk", "ok" if free >= _DISK_GIB else "warn", f"{free:.1f} GiB free at {folder}", way_out)


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available / _GIB
    way_out = f"less than {_MEMORY_GIB:.0f} GiB may not suffice: close other programs"
    return Check("memory", "ok" if free >= _MEMORY_GIB else "warn", f"{free:.1f} GiB available", way_out)


def _threads() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check("threads", "ok", f"{usable} of {os.cpu_count()} processors usable (set base.threads to choose)")


def _prefect() -> Check:
    from prefect.settings import PREFECT_API_URL

    from flows.session import check_answers

    url = PREFECT_API_URL.value()
    if not url:
        return Check("Prefect", "ok", "PREFECT_API_URL is not set: each run starts a server of its own")
    try:
        check_answers(url)
    except MachineError as error:
        return Check("Prefect", "fail", error.found, error.way_out)
    return Check("Prefect", "ok", f"{url} answers")
