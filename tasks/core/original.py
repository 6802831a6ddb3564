"""The original model as `tune` left it: what every later stage compares with, exports, and feeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from tasks.core import files, workloads
from tasks.core.errors import UsageError
from tasks.core.settings import Base

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import pyarrow as pa
    import torch

    from deploy.signature import Signature
    from tasks.core.workloads.contract import Encoder

#: What `tune` writes for :func:`load`.
SPEC, ENCODER = "original.json", "encoder.json"
#: Kinds of original: a network trained here, or a user's finished file.
NETWORK, ONNX = "network", "onnx"
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
    """An original trained here: a torch network between its encoder and its head.

    ``extra_outputs`` are the names of what the network answers besides its logits.
    """

    encoder: Encoder
    network: torch.nn.Module
    head: torch.nn.Module
    extra_outputs: tuple[str, ...] = ()

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
                judged = model(*chunk)[: len(self.encoder.core_outputs)]
                parts.append([answer.cpu().numpy() for answer in judged])
        core = {
            name: np.concatenate([part[index] for part in parts])
            for index, name in enumerate(self.encoder.core_outputs)
        }
        return next(iter(self.encoder.answers(core).values()))

    def core(self, rows: pa.Table) -> onnx.ModelProto:
        """Export network and head.

        Raises:
            UsageError: if the network does not answer as many values as its model names.
        """
        from tasks.core.workloads.onnx_export import WithHead, export_core

        encoder = self.encoder
        example = encoder.encode(rows.slice(0, _EXAMPLE_ROWS))
        free = getattr(encoder, "free_axes", ())
        model, names = WithHead(self.network, self.head), (*encoder.core_outputs, *self.extra_outputs)
        _check_count(model, example, names)
        return export_core(model, example, encoder.input_names, names, free)


def _check_count(model: torch.nn.Module, example: Sequence[np.ndarray], names: tuple[str, ...]) -> None:
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        found = len(model.eval()(*(torch.tensor(array, device=device) for array in example)))
    if found != len(names):
        raise UsageError(
            "a network answers its logits and one tensor for each of its model's `extra_outputs`",
            f"{found} outputs with the head's, and the names {', '.join(names)}",
            "name all of them in the model plug-in, in order",
        )


def metric_name(base: Base, task: str) -> str:
    """Name of the metric that decides."""
    return base.metric or workloads.find(base.workload).default_metric(task)


def write(out: Path, base: Base, encoder: Encoder, model: str, checkpoint: str, values: dict[str, Any]) -> None:
    """Write what :func:`load` reads, apart from the checkpoint."""
    files.write_json(out / ENCODER, encoder.as_dict())
    spec = {"workload": base.workload, "model": model, "checkpoint": checkpoint, "values": values}
    files.write_json(out / SPEC, spec | {"kind": NETWORK})


def write_onnx(out: Path, encoder: Encoder, file: str) -> None:
    """Write what :func:`load` reads of a user's finished file, apart from the file itself."""
    files.write_json(out / ENCODER, encoder.as_dict())
    files.write_json(out / SPEC, {"kind": ONNX, "file": file})


def load_encoder(tuned: Path) -> Encoder:
    """The original's encoder, without its weights."""
    spec, raw = files.read_json(tuned / SPEC), files.read_json(tuned / ENCODER)
    if spec["kind"] == ONNX:
        from tasks.core.brought import encoder

        return encoder.restore(raw)
    return workloads.find(spec["workload"]).restore(raw)


def load(tuned: Path, device: torch.device | None = None) -> Original:
    """The original out of the folder of a finished tune stage."""
    spec, encoder = files.read_json(tuned / SPEC), load_encoder(tuned)
    if spec["kind"] == ONNX:
        from tasks.core.brought.encoder import BroughtEncoder
        from tasks.core.brought.original import Brought

        return Brought(cast("BroughtEncoder", encoder), tuned / spec["file"], device.type if device else "cpu")
    from safetensors.torch import load_file

    workload = workloads.find(spec["workload"])
    model = workloads.model(workload, spec["model"])
    network = model.build(encoder, spec["values"])
    network.load_state_dict(load_file(tuned / spec["checkpoint"]))
    extra = tuple(getattr(model, "extra_outputs", ()))
    return Network(encoder, network.to(device or "cpu").eval(), workload.head(encoder), extra)


def signature(encoder: Encoder, core: onnx.ModelProto) -> Signature:
    """What the exported model takes and gives: the encoder's words, then the extra outputs of the core."""
    from deploy.signature import Signature, Tensor
    from tasks.core.brought import bind

    known = encoder.signature()
    others = [bind.declared(info) for info in core.graph.output if info.name not in encoder.core_outputs]
    extra = tuple(Tensor(value.name, value.datatype, (-1, *(value.shape or (-1,))[1:])) for value in others)
    return Signature(known.inputs, (*known.outputs, *extra))
