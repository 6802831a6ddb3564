"""Versions of the tiny bundle, a server in its own process, and the server's parts around any model in a thread."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import uvicorn
from graph_world import model, node
from onnx import TensorProto

from deploy import bundle, signing
from deploy.predictor import Predictor
from deploy.server.door import Door
from deploy.server.drift import Drift
from deploy.server.lineup import Loaded
from deploy.server.metrics import Metrics
from deploy.server.pages import pages
from deploy.server.settings import Serving, Settings
from deploy.server.version import Version
from deploy.signature import Signature, Tensor

ROOT = Path(__file__).parents[1]
KINDS = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "INT8": TensorProto.INT8, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip


def publish(
    tiny: Path, dist: Path, number: int, key: Path | None, change: Callable[[Path], None] | None = None
) -> Path:
    """Put a copy of the tiny bundle under ``dist`` as another version, changed and signed, the way `export` does."""
    (made,) = (path for path in (tiny / "dist" / "tiny").iterdir() if path.is_dir())
    partial = dist.parent / f".partial-{number}"
    shutil.copytree(made, partial)
    if change is not None:
        change(partial)
    digest = bundle.digest(bundle.hashes(partial))
    folder = dist / f"{number}-{digest[:12]}"
    provenance = json.loads((partial / "provenance.json").read_text())
    (partial / "provenance.json").write_text(json.dumps(provenance | {"version": folder.name, "digest": digest}))
    bundle.write_manifest(partial)
    dist.mkdir(exist_ok=True)
    if key is not None:  # the signature does not hold the folder's name, and must be there when the folder appears
        signing.sign(partial, key).rename(signing.signature_path(folder))
    partial.rename(folder)
    return folder


class Process:
    """``python -m deploy.server`` with its lines of log; ``ready`` is the one that says where it listens."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-P", "-m", "deploy.server", *map(str, arguments), "--port", "0"]
        self.running = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT)}
        )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.ready = self.wait("ready")

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.lines.append(json.loads(line))

    def wait(self, event: str, seconds: float = 60, **facts: Any) -> dict[str, Any]:
        """The first line of an event with these facts."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                if line["event"] == event and facts.items() <= line.items():
                    return line
            if self.running.poll() is not None and not self._reader.is_alive():
                assert self.running.stderr is not None
                raise AssertionError(f"exit code {self.running.returncode}: {self.running.stderr.read()}")
            time.sleep(0.02)
        raise AssertionError(f"no {event} {facts} in {self.lines}")

    @property
    def port(self) -> int:
        return int(self.ready["url"].rpartition(":")[2])

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.running.terminate()
        return self.running.wait(30)


def echo(folder: Path) -> Path:
    """A model that gives back what it takes, in every datatype; names are those of the datatypes in small letters."""
    nodes = [node("Identity", kind.lower(), f"same_{kind.lower()}") for kind in KINDS]
    inputs = {kind.lower(): (number, ["N", 2]) for kind, number in KINDS.items()}
    outputs = {f"same_{kind.lower()}": (number, ["N", 2]) for kind, number in KINDS.items()}
    return write_model(folder, model(nodes, inputs, outputs, {}), tuple(
        Tensor(kind.lower(), kind, (-1, 2)) for kind in KINDS), tuple(
        Tensor(f"same_{kind.lower()}", kind, (-1, 2)) for kind in KINDS))  # fmt: skip


def slow(folder: Path) -> Path:
    """A model that multiplies for some seconds, in many nodes, and cannot do anything with a second axis of three."""
    steps = 1500
    names = ["x", *(f"m{i}" for i in range(1, steps)), "product"]
    nodes = [node("MatMul", f"{a} w", b) for a, b in pairwise(names)]
    made = model(nodes, {"x": (TensorProto.FLOAT, ["N", "M"])}, {"product": (TensorProto.FLOAT, ["N", "M"])},
                 {"w": np.eye(256, dtype=np.float32)})  # fmt: skip
    return write_model(folder, made, (Tensor("x", "FP32", (-1, -1)),), (Tensor("product", "FP32", (-1, -1)),))


def write_model(folder: Path, made: onnx.ModelProto, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> Path:
    folder.mkdir()
    onnx.save(made, folder / "model.onnx")
    (folder / "signature.json").write_text(json.dumps(Signature(inputs, outputs).as_dict()))
    return folder


@contextmanager
def in_thread(folder: Path, settings: Settings) -> Iterator[tuple[str, Version]]:
    """Serve a model that is no bundle, here; yields the address."""
    name = settings.serving.name
    version = Version(name, folder, "", Predictor.open(folder, "cpu", 1))
    metrics = Metrics(name)
    drift = Drift(metrics)
    lineup: Any = SimpleNamespace(loaded=Loaded(version))
    app = pages(name, "test", lineup, metrics, drift, lambda: False)
    door = Door(app, lineup, settings, None, metrics, drift)
    config = uvicorn.Config(door, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}", version
        finally:
            server.should_exit = True
            thread.join(30)


def settings_of(name: str, **changes: Any) -> Settings:
    return Settings(Serving(name, None), **changes)
