"""A finished ONNX file as the original: admitted once by `tune`, then run as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from deploy.predictor import Predictor
from deploy.runtime import open_session
from deploy.signature import Tensor
from tasks.core.brought import bind, door, outputs
from tasks.core.brought.encoder import BroughtEncoder
from tasks.core.brought.outputs import Reading
from tasks.core.errors import AssayError, UsageError
from tasks.core.log import log

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tasks.core.settings import Tune


@dataclass(frozen=True)
class Brought:
    """See :class:`tasks.core.original.Original`; ``path`` is the file, ``device`` where to run it."""

    encoder: BroughtEncoder
    path: Path
    device: str = "cpu"

    def predict(self, rows: pa.Table) -> np.ndarray:
        """The answers of the untouched file, in the judged form."""
        predictor = Predictor(open_session(self.path, self.device), self.encoder.file_signature)
        return self.encoder.answers(predictor.predict(self.encoder.raw_inputs(rows)))[self.encoder.reading.answer]

    def core(self, rows: pa.Table) -> onnx.ModelProto:  # noqa: ARG002 (the contract's)
        """The file itself."""
        return onnx.load(self.path)


def admit(
    path: Path, facts: Mapping[str, Any], tune: Tune, validation: pa.Table, out: Path, kind: str | None = None
) -> Brought:
    """Check a file against the data, keep it as ``out``, and see how its answers are to be read.

    Args:
        path: the user's file.
        facts: of `validate`.
        tune: the section; ``output`` names the output to judge, ``features.drop`` columns that are not packed.
        validation: rows whose answers tell probabilities from logits.
        out: where the file is kept.
        kind: how its answers are to be read (see :class:`Reading`), whatever they are; None lets them tell.

    Raises:
        UsageError: with everything that is wrong with the file, as far as it can be seen.
        IntegrityError: if it is no ONNX file.
        DataRejected: if rows cannot be fed to it.
    """
    task, classes = facts["task"], tuple(facts["classes"])
    if task == "ranking":
        raise UsageError(
            "a finished .onnx file must classify or estimate",
            "base.workload is recommender",
            "bring the network as a model plug-in, with its weights under tune.start_from",
        )
    model = door.read(path)
    problems = door.problems(model, path.parent)
    inputs, wrong = bind.bind(bind.fed(model), _in_file_order(facts, validation), tune.features.drop)
    given = [bind.declared(info) for info in model.graph.output]
    judged = _judged(given, tune.output)
    problems += [*wrong, *outputs.problems(given, tune.output)]
    problems += outputs.misfits(judged.shape, task, classes) if judged else []
    if problems or judged is None:
        raise _refusal(path, problems)
    door.keep(path, model, out)
    found = _answers(out, inputs, given, validation)
    reading = _reading(path, judged, found[judged.name], (task, classes), _names(model), kind)
    log.info("tune: output `%s` of %s is read as %s", judged.name, path.name, reading.kind)
    shapes = tuple(_shaped(value, found[value.name]) for value in given)
    return Brought(BroughtEncoder(tuple(inputs), shapes, reading, facts["target"], task, classes), out)


def _judged(given: list[bind.Value], wanted: str | None) -> bind.Value | None:
    """The output of that name, or the first one of floats."""
    named = (value for value in given if value.name == wanted)
    return next(named, None) or next((value for value in given if value.datatype in bind.FLOATS), None)


def _reading(
    path: Path,
    judged: bind.Value,
    answers: np.ndarray,
    about: tuple[str, tuple[Any, ...]],
    taken: set[str],
    kind: str | None,
) -> Reading:
    """How the judged output is read, by ``kind`` or by its answers to real rows; ``about`` is the task and its classes.

    Raises:
        UsageError: if it cannot be read as answers.
    """
    if problems := outputs.misfits(answers.shape, *about):
        raise _refusal(path, problems)
    if kind is not None:
        return outputs.as_kind(kind, judged.name, answers, about[0], taken, judged.datatype)
    reading, problem = outputs.read(judged.name, answers, about[0], taken, judged.datatype)
    if reading is None:
        raise _refusal(path, [f"output `{judged.name}`: {problem}"])
    return reading


def _in_file_order(facts: Mapping[str, Any], rows: pa.Table) -> dict[str, Any]:
    """The facts with columns in the order of the rows: in a manifest they are sorted by name."""
    columns = facts["columns"]
    return dict(facts) | {"columns": {name: columns[name] for name in rows.column_names if name in columns}}


def _refusal(path: Path, problems: list[str]) -> UsageError:
    return UsageError(
        "a finished .onnx file must be complete, standard, and fit the data",
        f"{path}: " + "".join(f"\n    - {problem}" for problem in problems),
        "export it anew with that corrected, or correct the data and tune.output",
    )


def _answers(path: Path, inputs: list[bind.Input], given: list[bind.Value], rows: pa.Table) -> dict[str, np.ndarray]:
    """Every output's answers to the rows.

    Raises:
        UsageError: if onnxruntime fails at it, or an output is not one answer a row.
    """
    reading = Reading("", "values", 1, False, "")
    encoder = BroughtEncoder(tuple(inputs), tuple(_shaped(value, None) for value in given), reading, "", "", ())
    predictor = Predictor(open_session(path, "cpu"), encoder.file_signature)
    raw = encoder.raw_inputs(rows)
    try:
        found = predictor.predict(raw)
    except AssayError:
        raise
    except Exception as error:  # onnxruntime raises a dozen types, all meaning that the graph cannot take these inputs
        raise _refusal(path, [f"onnxruntime cannot run it on the validation rows: {error}"]) from error
    wrong = [name for name, array in found.items() if array.ndim < 1 or len(array) != rows.num_rows]
    if wrong:
        raise _refusal(path, [f"output `{name}` must answer every row, along its first axis" for name in wrong])
    return found


def _shaped(value: bind.Value, answers: np.ndarray | None) -> Tensor:
    """An output as its client sees it: declared lengths where the declaration holds, the answers' own rank."""
    shape = value.shape or (-1,)
    if answers is not None and len(shape) != answers.ndim:
        shape = (-1,) * answers.ndim
    return Tensor(value.name, value.datatype, (-1, *shape[1:]))


def _names(model: onnx.ModelProto) -> set[str]:
    graph = model.graph
    named = [item.name for item in (*graph.input, *graph.output, *graph.initializer)]
    return {*named, *(name for node in graph.node for name in node.output)}
