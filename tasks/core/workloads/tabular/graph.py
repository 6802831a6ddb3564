"""The network as ONNX, with its preprocessing inside: the artifact takes raw rows, one named input a column.

Named inputs cost about 35 microseconds a call over two packed tensors (27 columns, batch 1, one thread), and make it
impossible to feed columns in the wrong order.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, compose, helper

from deploy.signature import Signature, Tensor
from tasks.core.workloads.tabular.preprocess import OUTPUT, Category, Preprocess

if TYPE_CHECKING:
    from tasks.core.workloads.tabular.network import TabularNetwork

OPSET = 18
IR_VERSION = 10
#: Put before the names of the network's own tensors, so that no column can have the same name.
_CORE = "core/"
_ML_DOMAIN, _ML_OPSET = "ai.onnx.ml", 3
_ELEMENT = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "BYTES": TensorProto.STRING}


def export_network(network: TabularNetwork, preprocess: Preprocess) -> onnx.ModelProto:
    """(numbers float32 [batch, F], codes int64 [batch, C]) -> probability float32 [batch, 1], opset 18, IR 10."""
    import torch

    class WithProbability(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.network(numbers, codes)).unsqueeze(1)

    batch = torch.export.Dim("batch")
    example = (
        torch.zeros(4, len(preprocess.numbers)),
        torch.zeros(4, len(preprocess.categories), dtype=torch.int64),
    )
    with _quiet():
        program = torch.onnx.export(
            WithProbability().cpu().eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["numbers", "codes"],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch}, {0: batch}),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch's ONNX exporter returned nothing")
    return _without_traces(_without_empty_inputs(program.model_proto, preprocess))


def with_preprocessing(core: onnx.ModelProto, preprocess: Preprocess, metadata: dict[str, str]) -> onnx.ModelProto:
    """Put the raw columns in front of an exported network (fp32 or quantized).

    Args:
        core: what :func:`export_network` made, or a quantized form of it.
        preprocess: the columns.
        metadata: texts to store in the file.
    """
    core = compose.add_prefix(core, _CORE, rename_outputs=False)
    nodes = [
        _encoder(column, offset) for column, offset in zip(preprocess.categories, preprocess.offsets, strict=False)
    ]
    for name, parts in (
        ("numbers", [column.name for column in preprocess.numbers]),
        ("codes", [_code_name(column) for column in preprocess.categories]),
    ):
        if parts:
            nodes.append(helper.make_node("Concat", parts, [_CORE + name], f"pack_{name}", axis=1))
    inputs = [
        helper.make_tensor_value_info(tensor.name, _ELEMENT[tensor.datatype], ["batch", 1])
        for tensor in signature(preprocess).inputs
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])
    graph = helper.make_graph([*nodes, *core.graph.node], "model", inputs, [output], core.graph.initializer)
    used = {node.domain for node in graph.node}
    opsets = {e.domain: e.version for e in core.opset_import if e.domain in used} | {"": OPSET, _ML_DOMAIN: _ML_OPSET}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(opsets.items())],
        ir_version=IR_VERSION,
        producer_name="assay",
        functions=core.functions,
    )
    helper.set_model_props(model, dict(sorted(metadata.items())))
    onnx.checker.check_model(model, full_check=True)
    return model


def signature(preprocess: Preprocess) -> Signature:
    """What the exported model takes and gives."""
    numbers = [
        Tensor(column.name, "FP32", (-1, 1), "number; NaN where missing", (column.edges[0], column.edges[-1]))
        for column in preprocess.numbers
    ]
    categories = [
        Tensor(column.name, "BYTES", (-1, 1), "category; empty where missing")
        if column.kind == "text"
        else Tensor(column.name, "INT64", (-1, 1), "category; -9223372036854775808 where missing")
        for column in preprocess.categories
    ]
    output = Tensor(OUTPUT, "FP32", (-1, 1), "probability of the second label", (0.0, 1.0), preprocess.classes)
    return Signature((*numbers, *categories), (output,))


def _code_name(column: Category) -> str:
    return f"{_CORE}code/{column.name}"


def _encoder(column: Category, offset: int) -> onnx.NodeProto:
    values: dict[str, Any] = {"keys_strings" if column.kind == "text" else "keys_int64s": list(column.values)}
    if not column.values:  # an encoder needs a key; this one maps it where every other value goes as well
        values = {"keys_strings": ["\0"]} if column.kind == "text" else {"keys_int64s": [0]}
    codes = [offset + 1 + index for index in range(len(column.values))] or [offset]
    return helper.make_node(
        "LabelEncoder",
        [column.name],
        [_code_name(column)],
        f"encode_{column.name}",
        domain=_ML_DOMAIN,
        values_int64s=codes,
        default_int64=offset,
        **values,
    )


def _without_empty_inputs(model: onnx.ModelProto, preprocess: Preprocess) -> onnx.ModelProto:
    """Drop the input of a kind of column that the model does not have: nobody could feed it."""
    used = {"numbers": bool(preprocess.numbers), "codes": bool(preprocess.categories)}
    kept = [item for item in model.graph.input if used[item.name]]
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
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
