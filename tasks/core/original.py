"""The original model as `tune` left it: what every later stage compares with, exports, and feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.core import files, workloads
from tasks.core.settings import Base

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import pyarrow as pa
    import torch

    from tasks.core.workloads.contract import Encoder

#: What `tune` writes for :func:`load`.
SPEC, ENCODER = "original.json", "encoder.json"
_BATCH = 1024
_EXAMPLE_ROWS = 3


class Original(Protocol):
    """A model that later stages compress and are judged against.

    Attributes:
        encoder: rows to inputs, labels and answers.
        task: ``binary``, ``multiclass``, ``regression`` or ``ranking``.
    """

    @property
    def encoder(self) -> Encoder: ...

    def predict(self, rows: pa.Table) -> np.ndarray:
        """The answers that the metric judges, [rows, ...], by the original itself."""

    def core(self, rows: pa.Table) -> onnx.ModelProto:
        """The model as float ONNX without its preprocessing; ``rows`` are an example of its input."""


@dataclass(frozen=True)
class Network:
    """An original trained here: a torch network between its encoder and its head."""

    encoder: Encoder
    network: torch.nn.Module
    head: torch.nn.Module

    def predict(self, rows: pa.Table) -> np.ndarray:
        """The answers by torch alone."""
        return self.predict_encoded(self.encoder.encode(rows))

    def predict_encoded(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """The answers to what the encoder made of rows, each [rows, ...]."""
        import numpy as np
        import torch

        from tasks.core.workloads.onnx_export import WithHead

        device = next(self.network.parameters()).device
        model = WithHead(self.network, self.head.to(device)).eval()
        parts = []
        with torch.no_grad():
            for start in range(0, max(1, len(inputs[0])), _BATCH):
                chunk = [torch.from_numpy(array[start : start + _BATCH]).to(device) for array in inputs]
                parts.append([answer.cpu().numpy() for answer in model(*chunk)])
        core = {
            name: np.concatenate([part[index] for part in parts])
            for index, name in enumerate(self.encoder.core_outputs)
        }
        return next(iter(self.encoder.answers(core).values()))

    def core(self, rows: pa.Table) -> onnx.ModelProto:
        """Export network and head."""
        from tasks.core.workloads.onnx_export import WithHead, export_core

        encoder = self.encoder
        example = encoder.encode(rows.slice(0, _EXAMPLE_ROWS))
        free = getattr(encoder, "free_axes", ())
        return export_core(WithHead(self.network, self.head), example, encoder.input_names, encoder.core_outputs, free)


def metric_name(base: Base, task: str) -> str:
    """Name of the metric that decides."""
    return base.metric or workloads.find(base.workload).default_metric(task)


def write(out: Path, base: Base, encoder: Encoder, model: str, checkpoint: str, values: dict[str, Any]) -> None:
    """Write what :func:`load` reads, apart from the checkpoint."""
    files.write_json(out / ENCODER, encoder.as_dict())
    spec = {"workload": base.workload, "model": model, "checkpoint": checkpoint, "values": values}
    files.write_json(out / SPEC, spec)


def load_encoder(tuned: Path) -> Encoder:
    """The original's encoder, without its weights."""
    spec = files.read_json(tuned / SPEC)
    return workloads.find(spec["workload"]).restore(files.read_json(tuned / ENCODER))


def load(tuned: Path, device: torch.device | None = None) -> Original:
    """The original out of the folder of a finished tune stage."""
    spec = files.read_json(tuned / SPEC)
    workload = workloads.find(spec["workload"])
    encoder = workload.restore(files.read_json(tuned / ENCODER))
    from safetensors.torch import load_file

    network = workloads.model(workload, spec["model"]).build(encoder, spec["values"])
    network.load_state_dict(load_file(tuned / spec["checkpoint"]))
    return Network(encoder, network.to(device or "cpu").eval(), workload.head(encoder))
