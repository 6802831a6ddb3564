"""The house keeps its shape: one word in five places, imports downhill, nothing heavy before it is needed."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import deploy
import tasks
from tasks.core import errors
from tasks.core.settings import STAGES, Params, load
from tasks.core.stage import UPSTREAM, StageSettings

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch", "great_expectations", "optuna", "prefect", "dvc", "pandas", "pyarrow", "onnx", "onnxruntime", "scipy",
    "sklearn",
)  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh process holds after the code."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name, module in sys.modules.items() if module})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


#: The rooms that no stage of the DAG runs.
BEYOND = ("promote", "monitor", "retrain")


# One word, five places.


def test_a_stage_has_a_folder_with_one_door() -> None:
    folders = {path.name for path in (ROOT / "tasks").iterdir() if (path / "__init__.py").is_file()} - {"core"}
    assert folders == {*STAGES, *BEYOND}
    for stage in STAGES:
        assert callable(importlib.import_module(f"tasks.{stage}").run)


def test_a_room_beyond_the_dag_has_a_flow_of_its_name() -> None:
    for room in BEYOND:
        assert importlib.import_module(f"flows.{room}").__dict__[room].name == room
        assert importlib.import_module(f"tasks.{room}").__dict__[room]


def test_a_stage_has_a_section_of_its_name() -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    assert sections == {"base", *STAGES, *BEYOND}
    written = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    assert set(written) <= {"base", *STAGES, *BEYOND}
    params = load(ROOT / "params.yaml")
    for stage in STAGES:
        settings = StageSettings(params.base, params.section(stage), ROOT)
        assert set(settings.values) == {"base", stage}


def test_a_stage_is_a_stage_of_the_dag_with_its_command_section_and_folder() -> None:
    dag = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(dag) == list(STAGES)
    for stage, entry in dag.items():
        assert re.match(rf"python -P -m tasks {stage}( |$)", entry["cmd"])
        assert {"base", stage} <= set(entry["params"])
        outs = [name for out in entry["outs"] for name in (out if isinstance(out, dict) else [out])]
        assert outs == [f"${{base.artifacts_dir}}/{stage}"]
        upstream = {dep.rpartition("/")[2] for dep in entry["deps"] if dep.startswith("${base.artifacts_dir}/")}
        assert upstream == set(UPSTREAM[stage])
        assert {"tasks/core", f"tasks/{stage}"} <= set(entry["deps"])


def test_a_stage_of_the_command_line_is_a_stage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tasks", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert f"{{{','.join(STAGES)}}}" in done.stdout


# Nothing happens at import.


@pytest.mark.parametrize("package", ["tasks", "deploy"])
def test_importing_the_packages_loads_nothing_heavy(package: str) -> None:
    """Every room's door, the core and the serving package: the rest of a room is loaded by the run that needs it."""
    doors = [package, *(f"tasks.{room}" for room in (*STAGES, *BEYOND)), "tasks.core.stage", "tasks.core.settings"]
    if package == "deploy":
        doors = ["deploy", *(f"deploy.{module.name}" for module in pkgutil.iter_modules(deploy.__path__))]
    loaded = loaded_after("\n".join(f"import {door}" for door in doors))
    assert package in loaded
    assert not loaded & set(HEAVY)


def test_a_stage_that_is_refused_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tasks.__main__ import _run
assert _run("tune", Path({str(tmp_path / "none.yaml")!r})) == 2
"""
    assert not loaded_after(code) & set(HEAVY)


def test_preparing_torch_does_not_load_its_compiler() -> None:
    """It would cost every stage more than a second."""
    code = """
import sys, torch
from tasks.core import devices
from tasks.core.settings import Base
from tasks.core.workloads.tabular.network import Architecture, TabularNetwork
from tasks.core.workloads.tabular.encoder import Number, TabularEncoder
devices.prepare(Base(name="x", target="y", device="cpu", threads=1))
encoder = TabularEncoder((Number("a", (0.0, 1.0, 2.0)),), (), "y", "binary", (0, 1))
TabularNetwork(encoder, Architecture(8, 1, 0.0, 0.0, 4, 4)).eval()(torch.zeros(2, 1), torch.zeros(2, 0).long())
assert "torch._inductor" not in sys.modules and "torch._dynamo" not in sys.modules
"""
    assert "torch" in loaded_after(code)


def modules() -> list[Path]:
    return [path for package in (tasks, deploy) for path in Path(package.__path__[0]).rglob("*.py")]


def test_modules_only_define_things() -> None:
    """No call, loop or branch at the top of a module; what is there defines, imports, or guards a script."""
    allowed = (
        ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.AugAssign,
        ast.AsyncFunctionDef,
    )  # fmt: skip
    offenders = []
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            guard = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'")
            if not (isinstance(node, allowed) or docstring or guard):
                offenders.append(f"{path}:{node.lineno}: {ast.unparse(node)[:60]}")
    assert not offenders


def test_every_module_says_what_it_is_for() -> None:
    assert [str(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


# One tree of errors.


def tree(root: type[errors.AssayError]) -> list[type[errors.AssayError]]:
    return [root, *(found for child in root.__subclasses__() for found in tree(child))]


def test_the_tree_of_errors_is_the_one_that_its_docstring_draws() -> None:
    drawn = dict(re.findall(r"(\w+(?:Error|Rejected|Proven|Refused)) +(\d)", str(errors.__doc__)))
    ours = [kind for kind in tree(errors.AssayError) if kind.__module__ in ("deploy.errors", "tasks.core.errors")]
    assert {kind.__name__: str(kind.exit_code) for kind in ours} == drawn


def test_an_error_says_the_rule_what_was_found_and_the_way_out() -> None:
    for kind in tree(errors.AssayError):
        if kind is errors.SettingsError:
            continue
        text = str(kind("the rule", "a finding", "do this"))
        assert text == "the rule\n  found:   a finding\n  way out: do this"


def test_a_verdict_is_no_crash() -> None:
    assert {errors.DataRejected.exit_code, errors.NotProven.exit_code, errors.PromotionRefused.exit_code} == set(
        errors.VERDICT_CODES
    )


def test_an_error_survives_the_way_between_processes() -> None:
    import pickle

    for kind in (errors.MachineError, errors.NotProven, errors.IntegrityError):
        error = pickle.loads(pickle.dumps(kind("rule", "found", "way out")))  # noqa: S301 - made one line above
        assert (error.rule, error.found, error.way_out) == ("rule", "found", "way out")
