"""The pipeline of any params file, made from the project's own ``dvc.yaml``: there is one DAG, written once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from tasks.core.sections import read_yaml

TEMPLATE = Path(__file__).resolve().parents[1] / "dvc.yaml"

_ARTIFACTS = "${base.artifacts_dir}"


def text(params: Path, dvc_yaml: Path, model_files: Sequence[str] = ()) -> str:
    """The pipeline of ``params``, to be stored as ``dvc_yaml``, as YAML; for ``model_files`` see :func:`derive`."""
    from ruamel.yaml import YAML

    template = read_yaml(TEMPLATE, "Assay's own pipeline", "install Assay from a clone: `pip install -e .`")
    yaml = YAML()
    yaml.width = 4096
    stream = StringIO()
    yaml.dump(derive(template, params, dvc_yaml, model_files), stream)
    return stream.getvalue()


def derive(template: Any, params: Path, dvc_yaml: Path, model_files: Sequence[str] = ()) -> dict[str, Any]:
    """The pipeline of ``params``, to be stored as ``dvc_yaml``, made from the project's own (a parsed ``dvc.yaml``).

    Stages work in the params file's folder; what is code is looked up where Assay's code lies; plots and artifacts
    are relative to ``dvc_yaml`` itself, as DVC wants them. ``model_files``, relative to the params file's folder, are
    what `tune` reads of a model that the user brings.
    """
    root, home = params.parent, dvc_yaml.parent
    beside = root == home
    document: dict[str, Any] = {} if beside else {"vars": [_relative(params, home)]}
    document["stages"] = {
        name: ({} if beside else {"wdir": _relative(root, home)}) | _stage(stage, params, beside)
        for name, stage in template["stages"].items()
    }
    document["stages"]["tune"]["deps"] += list(model_files)

    def from_home(text: str) -> str:
        return text.replace(_ARTIFACTS, Path(_relative(root, home), _ARTIFACTS).as_posix())

    for section in ("plots", "artifacts"):
        document[section] = _each_text(template[section], from_home)
    return document


def code_of(params: Path) -> Path:
    """The folder of the code that a pipeline watches: the clone or worktree that it lies in, else Assay's own."""
    clones = (folder for folder in params.parents if (folder / "tasks" / "core" / "stage.py").is_file())
    return next(clones, TEMPLATE.parent)


def _stage(stage: dict[str, Any], params: Path, beside: bool) -> dict[str, Any]:
    code = _relative(code_of(params), params.parent)

    def from_root(dep: str) -> str:
        return dep if dep.startswith("${") else Path(code, dep).as_posix()

    derived = stage | {"deps": [from_root(dep) for dep in stage["deps"]]}
    if not beside:
        derived["cmd"] = f"{stage['cmd']} --params {shlex.quote(params.name)}"
        derived["params"] = [{params.name: stage["params"]}]
    return derived


def _each_text(node: Any, change: Callable[[str], str]) -> Any:
    if isinstance(node, dict):
        return {_each_text(key, change): _each_text(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_each_text(value, change) for value in node]
    return change(node) if isinstance(node, str) else node


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()
