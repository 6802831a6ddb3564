"""Whether int8 has crushed a model: activations beyond the range of their scale, or one answer for everything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.signature import Signature, Tensor
from tasks.core import files
from tasks.core.measured import Measured
from tasks.verify.case import Case
from tasks.verify.mechanics.asking import Failure, ask, taken

if TYPE_CHECKING:
    import onnx

_ROWS = 256
#: Calibration by percentile or entropy cuts off some percent on purpose; a scale that cuts off half is none.
_MOST_CLIPPED = 0.5
_OUTPUT = "saturation/shares"


def measure(case: Case) -> list[Measured]:
    """Two lines: whether the answers vary at all, and the largest share that a ``QuantizeLinear`` clips.

    Raises:
        MachineError: if the device or the disk refuses.
        IntegrityError: if the exported file has no readable ``signature.json``.
    """
    return [_constant(case), _clipped(case)]


def with_shares(model: onnx.ModelProto) -> int:
    """Make a model answer, in place of its outputs, what share its int8 conversions clip; return how many they are.

    A value is clipped if what is read back lies more than a step of the scale away. Where the range begins at zero, a
    Relu is folded into it: only positive values count there. The output is float32 [1, conversions].
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shares: list[str] = []
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(_conversions(graph, set(constants))):
        scale, zero = node.input[1], node.input[2] if len(node.input) > 2 else ""
        offset = constants.get(zero, np.uint8(0))
        if constants.get(scale, np.empty(0)).size != 1:
            continue
        name = f"saturation/{number}"
        nodes += _share(node, name, bool(offset == np.iinfo(offset.dtype).min))
        shares.append(f"{name}/share")
    if shares:
        width = numpy_helper.from_array(np.array([1, len(shares)]), "saturation/shape")
        one = numpy_helper.from_array(np.array(1, np.float32), "saturation/one")
        nothing = numpy_helper.from_array(np.array(0, np.float32), "saturation/zero")
        single = numpy_helper.from_array(np.array([1]), "saturation/single")
        graph.initializer.extend([width, one, nothing, single])
        graph.node.extend(nodes)
        graph.node.append(helper.make_node("Concat", shares, ["saturation/flat"], axis=0))
        graph.node.append(helper.make_node("Reshape", ["saturation/flat", "saturation/shape"], [_OUTPUT]))
        del graph.output[:]
        graph.output.append(helper.make_tensor_value_info(_OUTPUT, TensorProto.FLOAT, [1, len(shares)]))
    return len(shares)


def _conversions(graph: onnx.GraphProto, constants: set[str]) -> Iterator[onnx.NodeProto]:
    """``QuantizeLinear`` of what is no constant."""
    for node in graph.node:
        if node.op_type == "Constant":
            constants.add(node.output[0])
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants:
            yield node


def _share(node: onnx.NodeProto, name: str, folded: bool) -> Iterator[onnx.NodeProto]:
    """Nodes that compute ``<name>/share``, float32 [1], for one conversion."""
    from onnx import TensorProto, helper

    value, scale = node.input[0], node.input[1]

    def step(kind: str, inputs: list[str], output: str, **settings: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{name}/{output}"], f"{name}/{output}", **settings)

    yield helper.make_node(
        "DequantizeLinear", [node.output[0], *node.input[1:]], [f"{name}/back"], f"{name}/back", domain=node.domain
    )
    yield step("Sub", [value, f"{name}/back"], "error")
    yield step("Abs", [f"{name}/error"], "size")
    yield step("Greater", [f"{name}/{'error' if folded else 'size'}", scale], "beyond")
    yield step("Cast", [f"{name}/beyond"], "clipped", to=TensorProto.FLOAT)
    yield step("Cast", [value], "value", to=TensorProto.FLOAT)
    counted = ("Greater", [f"{name}/value", "saturation/zero"]) if folded else ("Equal", [f"{name}/value"] * 2)
    yield step(*counted, "counts")
    yield step("Cast", [f"{name}/counts"], "counted", to=TensorProto.FLOAT)
    for what in ("clipped", "counted"):
        yield step("ReduceSum", [f"{name}/{what}"], f"{what}_sum", keepdims=0)
    yield step("Max", [f"{name}/counted_sum", "saturation/one"], "total")
    yield step("Div", [f"{name}/clipped_sum", f"{name}/total"], "ratio")
    yield step("Reshape", [f"{name}/ratio", "saturation/single"], "share")


def _constant(case: Case) -> Measured:
    problems: tuple[str, ...] = ()
    if _is_constant(case.shipped) and not _is_constant(case.original):
        problems = (f"the exported file answers all {len(case.shipped)} rows alike, the original does not",)
    return Measured(
        "mechanics", "answers that vary", "nothing_found", len(case.shipped), "ANOMALOUS", problems=problems
    )


def _is_constant(answers: np.ndarray) -> bool:
    if len(answers) == 0:
        return True
    return bool((answers == answers[0]).all())


def _clipped(case: Case) -> Measured:
    import onnx

    name, folder = "share of an activation that int8 clips", case.shipped_file.folder
    rows = np.random.default_rng([case.seed, 2]).permutation(len(case.original))[:_ROWS]
    signature = Signature.read(folder / "signature.json")
    try:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
    except Exception as error:  # noqa: BLE001 (protobuf's parsers raise types of their own)
        return _problem(name, f"the file is not readable: {str(error)[:300]}")
    count = with_shares(model)
    if not count:
        return Measured("mechanics", name, "nothing_found", 0, "ANOMALOUS", note="no activation is converted to int8")
    with TemporaryDirectory() as scratch:
        probe = Path(scratch)
        onnx.save(model, probe / "model.onnx")
        output = Tensor(_OUTPUT, "FP32", (-1, count))
        files.write_json(probe / "signature.json", replace(signature, outputs=(output,)).as_dict())
        found = ask(replace(case.shipped_file, folder=probe), taken(case.columns, rows), batch=max(1, len(rows)))
    if isinstance(found, Failure):
        return _problem(name, f"its int8 conversions cannot be looked at: {found.said}")
    most = float(found.max(initial=0.0))
    if not math.isfinite(most):
        return _problem(name, "its int8 conversions are given NaN")
    note = f"the largest of {count} conversions"
    return Measured("mechanics", name, "at_most", len(rows), "ANOMALOUS", loss=most, margin=_MOST_CLIPPED, note=note)


def _problem(name: str, problem: str) -> Measured:
    return Measured("mechanics", name, "nothing_found", 0, "ANOMALOUS", problems=(problem,))
