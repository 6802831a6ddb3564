"""A trained network with its head as plain float ONNX: opset 18, IR 10, symbolic batch, no trace of its making."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import nn

OPSET = 18
IR_VERSION = 10


class WithHead(nn.Module):
    """A network and what turns its logits into answers: ``forward(*inputs)`` -> tuple of tensors.

    Of a network that returns several values the first are the logits; the others follow the head's answers.
    """

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.network(*inputs)
        logits, *others = found if isinstance(found, tuple) else (found,)
        return (*self.head(logits, *inputs), *others)


def export_core(
    model: nn.Module, example: Sequence[np.ndarray], inputs: Sequence[str], outputs: Sequence[str], free: Sequence[str]
) -> onnx.ModelProto:
    """Export ``model`` in evaluation mode, on the CPU; the model itself is left as it is.

    Args:
        model: ``forward(*inputs)`` -> tuple of tensors.
        example: inputs of two rows or more, each [rows, ...].
        inputs: their names; one that the graph does not read, or of no columns, is not in it.
        outputs: the answers' names.
        free: names of inputs whose second axis is of any length, too.
    """
    import copy

    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch, 1: torch.export.Dim(f"{name}_length")} if name in free else {0: batch} for name in inputs)
    with _quiet():
        program = torch.onnx.export(
            copy.deepcopy(model).cpu().eval(),
            tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes={"inputs": shapes},
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch's ONNX exporter returned nothing")
    empty = {name for name, array in zip(inputs, example, strict=True) if 0 in array.shape[1:]}
    return _without_traces(_without_inputs(program.model_proto, empty))


def finish(model: onnx.ModelProto, metadata: dict[str, str]) -> onnx.ModelProto:
    """Set what every shipped file has (IR version, producer, texts), and check it.

    Raises:
        onnx.checker.ValidationError: if it is not a whole model.
    """
    model.ir_version = min(model.ir_version, IR_VERSION)
    model.producer_name = "assay"
    model.producer_version = ""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    return model


def _without_inputs(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Drop inputs of no columns: nobody could feed them."""
    kept = [item for item in model.graph.input if item.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the exporter's notes: they hold source paths, and would differ between two equal runs."""
    del model.metadata_props[:]
    for item in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.doc_string = ""
        del item.metadata_props[:]
    del model.graph.value_info[:]
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks about packages that are not installed and about its own deprecations; nothing to act on."""
    logger: Any = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
