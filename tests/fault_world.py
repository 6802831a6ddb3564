"""Tools that seed faults into a finished pipeline, and a world of coloured pictures beside the tiny one."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper

from tasks.core import files, manifest
from tasks.core.settings import Params, parse
from tasks.core.stage import run_stage

_CALL = re.compile(r"(\w+)(?::(\w+))?\(([\w, ]*)\)(?: -> (\w+))?")

Change = Callable[[onnx.ModelProto], object]


def nodes(steps: str, last: str) -> list[onnx.NodeProto]:
    """Nodes of a text such as ``Mul(x, two) -> a; Cast:FLOAT(a)``; the last one gives ``last``.

    After the colon stands the type of a Cast or the axis of a Gather.
    """
    found = []
    for step in filter(None, (each.strip() for each in steps.split(";"))):
        kind, setting, inputs, output = _CALL.fullmatch(step).groups()  # type: ignore[union-attr]
        own: dict[str, Any] = {}
        if setting is not None:
            own = {"to": getattr(TensorProto, setting)} if kind == "Cast" else {"axis": int(setting)}
        given = [name.strip() for name in inputs.split(",")]
        output = f"seeded/{output}" if output else last
        found.append(helper.make_node(kind, given, [output], **own))
    inner = {node.output[0].removeprefix("seeded/"): node.output[0] for node in found[:-1]}
    for node in found:
        node.input[:] = [inner.get(name, name) for name in node.input]
    return found


def constant(model: onnx.ModelProto, constants: Mapping[str, Any]) -> None:
    """Add constants by name."""
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def answer(steps: str, **constants: Any) -> Change:
    """Nodes between what the model answered, ``raw``, and its first output."""

    def change(model: onnx.ModelProto) -> None:
        output = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["raw" if name == output else name for name in node.output]
            node.input[:] = ["raw" if name == output else name for name in node.input]
        constant(model, constants)
        model.graph.node.extend(nodes(steps, output))

    return change


def feed(name: str, steps: str, **constants: Any) -> Change:
    """Nodes between an input and everything that reads it."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["seeded/fed" if item == name else item for item in node.input]
        constant(model, constants)
        rest = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes(steps, "seeded/fed"), *rest])

    return change


def rewrite(root: Path, change: Change, file: str = "model.onnx") -> None:
    """Let `compress` have left a changed model, with a manifest that says so."""
    path = root / "artifacts/compress" / file
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    signed(root, "compress")


def signed(root: Path, stage: str, metrics: Mapping[str, float] | None = None, **params: Any) -> None:
    """Write a stage's manifest anew, as that stage would for the files that are there now.

    Args:
        root: the pipeline's folder.
        stage: its name.
        metrics: what it says that it measured; None leaves what it said.
        params: sections of the settings that it says it ran with, key by key.
    """
    folder = root / "artifacts" / stage
    before = files.read_json(folder / manifest.NAME)
    (folder / manifest.NAME).unlink()
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    roles = {name: before["files"].get(name, {"role": "candidate"})["role"] for name in there}
    upstream = {name: root / "artifacts" / name for name in before["upstream"]}
    measured = before["metrics"] if metrics is None else dict(metrics)
    anew = manifest.build(stage, before["settings"], upstream, folder, roles, measured, before["facts"])
    told = copy.deepcopy(before["params"])
    for section, values in params.items():
        told.setdefault(section, {}).update(values)
    manifest.write(replace(anew, params=told), folder)


def table(root: Path, split: str, rows: pa.Table | None = None) -> pa.Table:
    """A split's rows; if ``rows`` are given, they take its place, and all manifests agree with them."""
    path = root / "artifacts/validate" / f"{split}.parquet"
    if rows is None:
        return pq.read_table(path)
    pq.write_table(rows, path)
    for stage in ("validate", "tune", "compress"):
        signed(root, stage)
    return rows


@dataclass(frozen=True)
class Picture:
    """A finished pipeline of pictures, and its params."""

    root: Path
    raw: Mapping[str, Any]

    def settings(self, changes: Mapping[str, Mapping[str, Any]]) -> Params:
        """The params with some keys of some sections replaced."""
        raw = copy.deepcopy(dict(self.raw))
        for section, values in changes.items():
            raw.setdefault(section, {}).update(values)
        return parse(raw)


def pictures(root: Path) -> Picture:
    """Pictures with three channels, of which one is bright: which one is the class; from a file to `verify`."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 1500)
    pixels = random.integers(0, 90, (1500, 3, 8, 8))
    pixels[np.arange(1500), labels, 2:6, 2:6] += 100
    np.savez(root / "pictures.npz", x=pixels.astype(np.uint8), y=np.array(["a", "b", "c"])[labels])
    (root / "suite.yaml").write_text("checks:\n  - expect: expect_table_row_count_to_be_between\n    min_value: 1\n")
    raw = {
        "base": {"name": "tiny", "target": "y", "workload": "array", "threads": 1, "device": "cpu"},
        "ingest": {"source": "pictures.npz"},
        "validate": {"suite": "suite.yaml", "split": {"by": "random", "test": 0.4}, "calibration_rows": 64},
        "tune": {
            "trials": 1, "epochs": 5, "batch_size": 64, "top_k": 1, "precision": "fp32",
            "space": {"width": 8, "stages": 1, "learning_rate": 0.01},
        },
        "compress": {
            "methods": ["int8"], "max_metric_drop": 0.2, "max_slowdown": 1000.0, "rounds": 20, "batch_sizes": [1],
            "pick": "smallest",
        },
        "verify": {"margin": 0.02, "checks": [], "resamples": 300},
    }  # fmt: skip
    settings = parse(raw)
    for stage in ("ingest", "validate", "tune", "compress"):
        run_stage(stage, settings, root)
    return Picture(root, raw)
