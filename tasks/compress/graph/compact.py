"""The same model in fewer bytes: short names, equal constants once, no notes."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterable, Iterator

import onnx

from tasks.compress.graph.nodes import copied, keep, reads, subgraphs

#: Domains whose operators onnx knows.
_INFERRED = ("", "ai.onnx", "ai.onnx.ml")
_LETTERS = string.ascii_letters + string.digits + "_"


def compact(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without whatever a runtime does not read.

    Tensors get short names (a graph's inputs and outputs and a function's interface keep theirs), nodes none; doc
    strings, value infos, metadata of parts, unused constants, unused domains go; equal constants are stored once.
    In a small model names and notes are a real share of the file. What operators outside ONNX write keeps its value
    info: nobody could infer it, and onnx's checker crashes on some models without.
    """
    small = copied(model)
    _share(small.graph)
    _rename(small.graph.node, _Names(item.name for item in (*small.graph.input, *small.graph.output)), small.graph)
    for function in small.functions:
        _rename(function.node, _Names((*function.input, *function.output)), None)
        function.doc_string = ""
        del function.value_info[:], function.metadata_props[:]
    small.graph.name = small.graph.name[:1] or "g"
    small.doc_string = ""
    forget_unused_domains(small)
    return small


def forget_unused_domains(model: onnx.ModelProto) -> None:
    """Drop opset imports of domains that no node is of: onnxruntime writes every one that it knows."""
    used = {node.domain for nodes in (model.graph, *model.functions) for node in _deep(nodes.node)} | {"", "ai.onnx"}
    keep(model.opset_import, [item for item in model.opset_import if item.domain in used])


def _deep(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from _deep(graph.node)


def _share(graph: onnx.GraphProto) -> None:
    """Store equal constants once and unused ones not at all."""
    fixed = {item.name for item in (*graph.input, *graph.output)}
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    for tensor in graph.initializer:
        name = tensor.name
        if name in fixed:
            continue
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.name = bare.doc_string = ""
        same[name] = first.setdefault(bare.SerializeToString(deterministic=True), name)
    for node in _deep(graph.node):
        node.input[:] = [same.get(name, name) for name in node.input]
        for inner in subgraphs(node):
            for item in inner.output:
                item.name = same.get(item.name, item.name)
    used = {name for node in graph.node for name in reads(node)} | fixed
    keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])


class _Names:
    """Old name -> new name, made on first asking; kept names and "" stay."""

    def __init__(self, kept: Iterable[str]) -> None:
        self._new = {"": ""} | {name: name for name in kept}
        taken = set(self._new)
        words = ("".join(word) for size in itertools.count(1) for word in itertools.product(_LETTERS, repeat=size))
        self._free = (word for word in words if word not in taken)

    def __getitem__(self, name: str) -> str:
        if name not in self._new:
            self._new[name] = next(self._free)
        return self._new[name]


def _rename(nodes: Iterable[onnx.NodeProto], names: _Names, graph: onnx.GraphProto | None) -> None:
    """Rename through nodes, their subgraphs and, unless it is a function's body, the graph that holds them."""
    for node in nodes:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        for inner in subgraphs(node):
            _rename(inner.node, names, inner)
    if graph is None:
        return
    graph.doc_string = ""
    del graph.metadata_props[:], graph.quantization_annotation[:]
    foreign = {name for node in graph.node if node.domain not in _INFERRED for name in node.output}
    keep(graph.value_info, [item for item in graph.value_info if names[item.name] in foreign])
    for item in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.name = names[item.name]
        item.doc_string = ""
        del item.metadata_props[:]
    for sparse in graph.sparse_initializer:
        sparse.values.name = names[sparse.values.name]
