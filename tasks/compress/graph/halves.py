"""Half precision: fp16 or bf16 arithmetic between float32 borders, or float32 arithmetic on weights stored as fp16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from tasks.compress.graph import Treated
from tasks.compress.graph import rows as feeding
from tasks.compress.graph.compact import compact
from tasks.compress.graph.nodes import Wiring, copied, keep, opened, opset, subgraphs
from tasks.core.errors import UsageError

Kind = Literal["fp16", "bf16"]

_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_FLOAT = TensorProto.FLOAT
#: Below this many numbers the operator that widens a constant takes more bytes than its halving saves.
_LEAST = 128


def convert(
    core: onnx.ModelProto,
    calibration: Mapping[str, np.ndarray] | None = None,  # noqa: ARG001
    *,
    kind: Kind = "fp16",
) -> Treated:
    """Compute in half precision wherever the operator's definition allows it; inputs and outputs stay float32.

    Numbers beyond fp16's range become its largest. No calibration needed.

    Raises:
        UsageError: if weights are not finite, or the provider here has no kernels for it.
    """
    model = opened(core)
    if model.functions or any(True for node in model.graph.node for _ in subgraphs(node)):
        return Treated(copied(core), {"kept": {}, "nothing": "the model has functions or subgraphs"})
    model = onnx.shape_inference.infer_shapes(model)
    conversion = _Conversion(model, _TYPES[kind])
    conversion.run()
    report = {"converted": conversion.converted, "kept": conversion.kept}
    if not conversion.converted:
        return Treated(copied(core), report | {"nothing": f"no operator computes in {kind}"})
    small = compact(model)
    _loads(small, kind)
    return Treated(small, report)


def store(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray] | None = None) -> Treated:  # noqa: ARG001
    """Store float32 constants as fp16 and widen them when the model is loaded: half the file, the speed of float32.

    Constants with numbers beyond fp16's range stay as they are. No calibration needed.

    Raises:
        UsageError: if weights are not finite.
    """
    model = opened(core)
    wiring = Wiring(model.graph)
    casts, kept = [], {}
    largest = float(np.finfo(np.float16).max)
    for name in [item.name for item in model.graph.initializer if item.data_type == _FLOAT]:
        values = wiring.array(name)
        if values.size < _LEAST or name in wiring.outputs:
            continue
        if not (np.abs(values) <= largest).all():
            kept[name] = "beyond the range of fp16"
            continue
        stored = f"{name}:fp16"
        wiring.put(stored, values.astype(np.float16))
        keep(model.graph.initializer, [item for item in model.graph.initializer if item.name != name])
        casts.append(helper.make_node("Cast", [stored], [name], f"{name}:float32", to=_FLOAT))
    if not casts:
        return Treated(copied(core), {"kept": kept, "nothing": f"no float32 constant of {_LEAST} numbers or more"})
    keep(model.graph.node, [*casts, *model.graph.node])
    return Treated(compact(model), {"stored": [node.output[0] for node in casts], "kept": kept})


@dataclass
class _Conversion:
    """Rewrites a graph of float32 into one of a half type, with casts wherever the two meet."""

    model: onnx.ModelProto
    half: int

    def __post_init__(self) -> None:
        self.wiring = Wiring(self.model.graph)
        self.converted: list[str] = []
        self.kept: dict[str, str] = {}
        graph = self.model.graph
        typed = (*graph.value_info, *graph.input, *graph.output)
        self._floats = {item.name for item in typed if item.type.tensor_type.elem_type == _FLOAT}
        self._floats |= {item.name for item in graph.initializer if item.data_type == _FLOAT}
        #: float32 tensor -> its half, written so far; and the other way round.
        self._halved: dict[str, str] = {}
        self._widened = set(self._floats & ({item.name for item in graph.input} | set(self.wiring.constants)))

    def run(self) -> None:
        """Rewrite all nodes in the graph's order, then leave float32 at the outputs."""
        nodes: list[onnx.NodeProto] = []
        for node in self.model.graph.node:
            reason = self._reason(node)
            if not reason:
                self.converted.append(node.name)
            elif any(name in self._floats for name in node.output):
                self.kept[node.name] = reason
            nodes.extend(self._in_float(node) if reason else self._in_half(node))
        for name in sorted(self.wiring.outputs & self._floats):
            nodes.extend(self._wide(name))
        keep(self.model.graph.node, nodes)

    def _reason(self, node: onnx.NodeProto) -> str | None:
        """Why a node stays as it is, or None."""
        if not any(name in self._floats for name in node.output):
            return "it gives no float32"
        if not defs.has(node.op_type, opset(self.model), node.domain):
            return "it is no operator of ONNX"
        schema = defs.get_schema(node.op_type, opset(self.model), node.domain)
        allowed = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
        wanted = f"tensor({TensorProto.DataType.Name(self.half).lower()})"
        slots = [*_slots(schema.inputs, node.input), *_slots(schema.outputs, node.output)]
        for name, kind in slots:
            if name in self._floats and wanted not in allowed.get(kind, [kind]):
                return f"{node.op_type} does not take {wanted}"
        followed = {item.type_str for item in schema.inputs}
        if node.op_type != "Cast" and any(item.type_str not in followed for item in schema.outputs[:1]):
            return "its result has a type of its own"
        return None

    def _in_half(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for at, name in enumerate(node.input):
            if name in self._floats:
                if name not in self._halved:
                    yield from self._narrow(name)
                node.input[at] = self._halved[name]
        for at, name in enumerate(node.output):
            if name in self._floats:
                node.output[at] = self._halved[name] = f"{name}:half"
        for item in node.attribute:
            if item.name == "to" and item.i == _FLOAT:
                item.i = self.half
            if item.type == onnx.AttributeProto.TENSOR and item.t.data_type == _FLOAT:
                item.t.CopyFrom(_half_tensor(item.t, self.half))
        yield node

    def _in_float(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        for name in node.input:
            if name in self._floats:
                yield from self._wide(name)
        self._widened |= self._floats & set(node.output)
        yield node

    def _narrow(self, name: str) -> Iterator[onnx.NodeProto]:
        half = self._halved[name] = f"{name}:half"
        if name in self.wiring.constants:
            tensor = _half_tensor(self.wiring.constants[name], self.half)
            tensor.name = half
            self.model.graph.initializer.append(tensor)
        else:
            yield helper.make_node("Cast", [name], [half], f"{name}:narrow", to=self.half)

    def _wide(self, name: str) -> Iterator[onnx.NodeProto]:
        if name not in self._widened:
            self._widened.add(name)
            yield helper.make_node("Cast", [self._halved[name]], [name], f"{name}:wide", to=_FLOAT)


def _slots(formal: Sequence[defs.OpSchema.FormalParameter], actual: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each tensor of a node with the name of its type; the last formal parameter may stand for any number."""
    for at, name in enumerate(actual):
        yield name, formal[min(at, len(formal) - 1)].type_str


def _half_tensor(tensor: onnx.TensorProto, half: int) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    if half == TensorProto.FLOAT16:
        largest = np.finfo(np.float16).max
        return numpy_helper.from_array(np.clip(values, -largest, largest).astype(np.float16), tensor.name)
    return helper.make_tensor(
        tensor.name, half, values.shape, values.astype(helper.tensor_dtype_to_np_dtype(half)).tobytes(), raw=True
    )


def _loads(model: onnx.ModelProto, kind: str) -> None:
    """Check that the provider has kernels.

    Raises:
        UsageError: if not.
    """
    try:
        feeding.session_of(model)
    except Exception as error:  # onnxruntime raises a dozen types, all meaning "not loadable"
        raise UsageError(
            f"{kind} needs a provider with kernels for it",
            str(error)[:300],
            f"leave {kind} out of the methods, or use fp16_weights, which computes in float32",
        ) from error
