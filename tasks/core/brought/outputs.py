"""What a graph answers: which output is judged, whether it is probabilities or logits, and the judged form of it.

The judged form is that of every model here: probability [rows, 1] of the second class, probabilities [rows, classes],
or value [rows, 1]. A file whose output has another form (logits, [rows], two columns for two classes) is shipped with
one more output, behind its own ones, that has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tasks.core.brought.bind import FLOATS, Value
from tasks.core.log import log

_NAMES = {"binary": "probability", "multiclass": "probabilities", "regression": "value"}
_NODE = "assay/answer"
#: How far rounding may carry probabilities, and their sum, out of range.
_ROUNDING, _SUM = 1e-5, 1e-2
_OPSET = 13


@dataclass(frozen=True)
class Reading:
    """How the judged output is read.

    Attributes:
        output: its name.
        kind: ``probabilities``, ``logits`` or ``values``.
        width: values a row.
        flat: whether it is [rows], without a second axis.
        answer: name of the output of the judged form: ``output`` itself if it has that form.
    """

    output: str
    kind: str
    width: int
    flat: bool
    answer: str

    def judged(self, array: np.ndarray, task: str) -> np.ndarray:
        """The judged form, of the output [rows] or [rows, width]; float32 unless it has that form already."""
        if self.answer == self.output:
            return array
        values: np.ndarray = array.astype(np.float32).reshape(len(array), self.width)
        if self.kind == "logits":
            values = _softmax(values) if self.width > 1 else 1 / (1 + np.exp(-np.clip(values, -80, 80)))
        return values[:, 1:2] if task == "binary" and self.width == 2 else values


def problems(outputs: Sequence[Value], wanted: str | None) -> list[str]:
    """What is wrong with the declared outputs, and with the choice of the one that is judged."""
    found = [
        f"output `{value.name}` is no tensor (of sklearn models: convert with options={{'zipmap': False}})"
        for value in outputs
        if not value.datatype
    ]
    found += [
        f"output `{value.name}` has no batch axis (leave it out)" for value in outputs if value.shape is not None
        and (not value.shape or value.shape[0] != -1)
    ]  # fmt: skip
    floats = [value.name for value in outputs if value.datatype in FLOATS]
    if wanted is not None and wanted not in floats:
        return [*found, f"tune.output is `{wanted}`, and the float outputs are {', '.join(floats) or 'none'}"]
    if wanted is None and len(floats) != 1 and not found:
        named = f"has {len(floats)} float outputs ({', '.join(floats)}): name one under tune.output"
        found.append(f"the graph {named if floats else 'has no float output to judge'}")
    return found


def misfits(shape: tuple[int, ...] | None, task: str, classes: Sequence[Any]) -> list[str]:
    """What forbids to read an output of a shape (-1 and None: unknown) as answers to the task."""
    if shape is None or -1 in shape[1:]:
        return []
    width = 1 if len(shape) == 1 else shape[1]
    wanted = {"binary": (1, 2), "multiclass": (len(classes),), "regression": (1,)}[task]
    if len(shape) <= 2 and width in wanted:
        return []
    needed = " or ".join(map(str, wanted))
    about = f" ({len(classes)} classes in the data: {list(classes)[:20]})" if classes else ""
    return [f"the judged output has shape {list(shape)}, and {task} needs {needed} values a row{about}"]


def read(name: str, answers: np.ndarray, task: str, taken: set[str], datatype: str) -> tuple[Reading | None, str]:
    """How to read what an output answers to real rows; or None and what is wrong with it.

    Numbers between 0 and 1 that add to 1 over the classes are probabilities; anything else is logits, except numbers
    between 0 and 1 that do not add to 1: these would be read wrongly either way.

    Args:
        name: the output.
        answers: to the validation rows, [rows] or [rows, width].
        task: kind of problem.
        taken: names in the graph.
        datatype: of the output.
    """
    if not np.isfinite(answers).all():
        return None, f"{int((~np.isfinite(answers)).sum())} of its answers to the validation rows are not finite"
    width = 1 if answers.ndim == 1 else answers.shape[1]
    kind = "values" if task == "regression" else "logits"
    if kind == "logits" and answers.min(initial=0) >= -_ROUNDING and answers.max(initial=0) <= 1 + _ROUNDING:
        kind = "probabilities"
        if width > 1 and np.abs(answers.astype(np.float64).sum(axis=1) - 1).max(initial=0) > _SUM:
            return (
                None,
                "it answers numbers between 0 and 1 that do not add to 1 over the classes (end the graph with \
a Softmax, or give its logits)",
            )
        if width == 1:
            log.warning(
                "tune: `%s` answers numbers between 0 and 1, and is taken for the probability of the second class; "
                "if these are logits, end the graph with a Sigmoid", name,
            )  # fmt: skip
    return as_kind(kind, name, answers, task, taken, datatype), ""


def as_kind(kind: str, name: str, answers: np.ndarray, task: str, taken: set[str], datatype: str) -> Reading:
    """An output read as ``probabilities``, ``logits`` or ``values``; the rest as for :func:`read`."""
    flat, width = answers.ndim == 1, 1 if answers.ndim == 1 else answers.shape[1]
    fits = not flat and kind != "logits" and datatype in ("FP32", "FP64") and (task != "binary" or width == 1)
    return Reading(name, kind, width, flat, name if fits else _free(_NAMES[task], taken))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name = f"judged_{name}"
    return name


def with_answer(model: onnx.ModelProto, reading: Reading, task: str) -> onnx.ModelProto:
    """The model with the output of the judged form behind its own ones; the same model if it has it already."""
    if reading.answer == reading.output:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    if all(item.domain not in ("", "ai.onnx") for item in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", _OPSET))
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]
    steps.append(("Reshape", [f"{_NODE}/shape"], {}))
    if reading.kind == "logits":
        steps.append(("Softmax", [], {"axis": 1}) if reading.width > 1 else ("Sigmoid", [], {}))
    if task == "binary" and reading.width == 2:
        steps.append(("Gather", [f"{_NODE}/second"], {"axis": 1}))
    for name, values in (("shape", [-1, reading.width]), ("second", [1])):
        tensor = helper.make_tensor(f"{_NODE}/{name}/value", TensorProto.INT64, [len(values)], values)
        result.graph.node.append(
            helper.make_node("Constant", [], [f"{_NODE}/{name}"], f"{_NODE}/{name}/op", value=tensor)
        )
    last = reading.output
    for index, (operator, more, attributes) in enumerate(steps):
        output = reading.answer if index == len(steps) - 1 else f"{_NODE}/{operator}"
        result.graph.node.append(
            helper.make_node(operator, [last, *more], [output], f"{_NODE}/{operator}/op", **attributes)
        )
        last = output
    width = 1 if task != "multiclass" else reading.width
    result.graph.output.append(helper.make_tensor_value_info(reading.answer, TensorProto.FLOAT, ["batch", width]))
    return result


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result
