"""What is asked of somebody else's ONNX file before anything is done with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from tasks.core.errors import IntegrityError, UsageError

#: Domains of operators that every onnxruntime has. Those of com.microsoft differ by version and build: loading tells.
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
#: protobuf's limit of one message.
_MOST_BYTES = (1 << 31) - 1


def read(path: Path) -> onnx.ModelProto:
    """The file as it is, external data not yet loaded.

    Raises:
        UsageError: if there is no such file.
        IntegrityError: if it is no ONNX file.
    """
    if not path.is_file():
        raise UsageError("tune.start_from must name a file", f"{path} does not exist", "correct the path")
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's parsers raise types of their own
        raise IntegrityError("a .onnx file must be readable", f"{path}: {error}", "save or fetch it anew") from error


def problems(model: onnx.ModelProto, folder: Path) -> list[str]:
    """What forbids to use a file, all of it; its external data is loaded into ``model`` if nothing does.

    Args:
        model: as :func:`read` gave it.
        folder: where the file lies.
    """
    found = [*_strange_operators(model), *_bad_external_data(model, folder)]
    if found:
        return found
    try:
        load_external_data_for_model(model, str(folder))
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        return [f"onnx.checker refuses it: {' '.join(str(error).split())[:500]}"]
    return []


def keep(path: Path, model: onnx.ModelProto, out: Path) -> None:
    """Leave the user's file as ``out``, byte for byte; with its external data inside, if it has any.

    Args:
        path: the user's file.
        model: the same with its data loaded.
        out: the file to write.

    Raises:
        UsageError: if onnxruntime does not load it.
    """
    from deploy.runtime import open_session

    if external_files(read(path)):
        onnx.save(model, out)
    else:
        shutil.copyfile(path, out)
    try:
        open_session(out, "cpu")
    except IntegrityError as error:
        raise UsageError(
            "a finished .onnx file must load in onnxruntime",
            error.found.removeprefix(f"{out}: "),
            "export it with operators that this onnxruntime has (those of com.microsoft differ by version)",
        ) from error


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold a model's external data, sorted, as the model writes them."""
    return sorted({ExternalDataInfo(tensor).location for tensor in _tensors(model) if uses_external_data(tensor)})


def _strange_operators(model: onnx.ModelProto) -> list[str]:
    """Operators that are neither standard nor defined by a function of the model itself."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in _within(function.node))]
    strange = {
        f"{node.domain}.{node.op_type}"
        for node in nodes
        if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own
    }
    if not strange:
        return []
    return [
        f"custom operators, which nobody else's runtime has: {', '.join(sorted(strange))} "
        "(export with the operators of ai.onnx and ai.onnx.ml)"
    ]


def _bad_external_data(model: onnx.ModelProto, folder: Path) -> list[str]:
    found, total, home = [], model.ByteSize(), folder.resolve()
    for name in external_files(model):
        place = (folder / name).resolve()
        absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute()
        if not name or absolute or not place.is_relative_to(home):
            found.append(f"external data outside the file's own folder: {name!r} (save the model with it beside)")
        elif not place.is_file():
            found.append(f"external data that is not there: {name!r} (put it beside the file)")
        else:
            total += place.stat().st_size
    if not found and total > _MOST_BYTES:
        found.append(f"{total >> 20} MiB with its external data; one ONNX file holds less than 2 GiB")
    return found


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph, and those of the graphs inside them (branches, bodies of loops)."""
    return _within(graph.node)


def _within(nodes: object) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them (branches, bodies of loops)."""
    for node in nodes:  # type: ignore[attr-defined]  # a repeated field of protobuf
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from all_nodes(graph)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a model holds."""
    nodes = [*all_nodes(model.graph), *(node for function in model.functions for node in _within(function.node))]
    attributes = [attribute for node in nodes for attribute in node.attribute]
    graphs = [model.graph, *(graph for item in attributes for graph in ([item.g] if item.HasField("g") else []))]
    graphs += [graph for item in attributes for graph in item.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
