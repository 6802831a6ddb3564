"""`tune.start_from`: a trained model brought by the user is the original; there is no search."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core import devices, files, manifest, original, workloads
from tasks.core.errors import IntegrityError, NotProven, UsageError
from tasks.core.log import log
from tasks.core.manifest import Manifest
from tasks.core.metrics import Metric, find
from tasks.core.settings import Tune
from tasks.core.space import Choice, FloatRange
from tasks.core.stage import StageSettings

if TYPE_CHECKING:
    import torch

    from tasks.core.original import Original
    from tasks.core.workloads.contract import Encoder

_CHECKPOINT = "brought.safetensors"
#: Hyperparameters of the training alone.
_OF_TRAINING = ("learning_rate", "weight_decay")

#: An original, its model's name, files of the stage by role, hyperparameters, and the number of trained values.
Taken = tuple["Original", dict[str, str], dict[str, Any], int]


def run(settings: StageSettings, inputs: Mapping[str, Path], out: Path) -> Manifest:
    """Leave the same files as a search, with one line in ``trials.csv``.

    Raises:
        UsageError: with everything that does not fit.
        IntegrityError: if the file is broken.
        DataRejected: if the data cannot be fed to the model.
        NotProven: if its metric on validation is no number.
    """
    import pyarrow.parquet as pq

    path = settings.root / str(settings.own.start_from)
    facts = manifest.read(inputs["validate"]).facts
    metric = find(original.metric_name(settings.base, facts["task"]), facts["task"])
    take = _take_onnx if path.suffix == ".onnx" else _take_weights
    model, roles, values, parameters = take(settings, facts, inputs["validate"], path, out)
    rows = pq.read_table(inputs["validate"] / "validation.parquet")
    score = _score(metric, model, rows)
    log.info("tune: %s: %s %.4f on %d rows of validation", path.name, metric.name, score, rows.num_rows)
    _write_trial(out, score)
    file = next(name for name, role in roles.items() if role == "checkpoint")
    files.write_json(out / "models.json", [{"file": file, "trial": 0, "score": score, "values": values}])
    files.write_json(out / "best.json", {"trial": 0, "params": {}})
    settings.measured["training_seconds"] = 0.0
    roles |= {"trials.csv": "trials", "best.json": "hyperparameters", "models.json": "spec"}
    roles |= {original.ENCODER: "encoder", original.SPEC: "spec"}
    metrics = {f"tune.validation_{metric.name}": score, "tune.parameters": parameters}
    brought = {"file": path.name, "sha256": files.sha256(path)}
    kind = files.read_json(out / original.SPEC).get("model")
    told = {"features": model.encoder.columns, "metric": metric.name, "model": kind, "brought": brought}
    return manifest.build("tune", settings.hash, inputs, out, roles, metrics, told)


def _score(metric: Metric, model: Original, rows: Any) -> float:
    import numpy as np

    answers = model.predict(rows)
    finite = answers.dtype.kind != "f" or bool(np.isfinite(answers).all())
    score = metric(model.encoder.labels(rows), answers) if finite else math.nan
    if not math.isfinite(score):
        raise NotProven(
            "a model that is brought must have a figure on validation",
            f"{metric.name} is {score}" if finite else "some of its answers are not finite",
            "look at the file's answers to these rows, or at base.metric",
        )
    return score


def _write_trial(out: Path, score: float) -> None:
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["trial", "state", "value", "best", "epochs"], [0, "brought", score, score, 0]])


def _take_onnx(settings: StageSettings, facts: Mapping[str, Any], splits: Path, path: Path, out: Path) -> Taken:
    import onnx
    import pyarrow.parquet as pq

    from tasks.core.brought import FILE
    from tasks.core.brought import original as brought

    model = brought.admit(path, facts, settings.own, pq.read_table(splits / "validation.parquet"), out / FILE)
    original.write_onnx(out, model.encoder, FILE)
    parameters = sum(math.prod(tensor.dims) for tensor in onnx.load(out / FILE).graph.initializer)
    return model, {FILE: "checkpoint"}, {}, parameters


def _take_weights(settings: StageSettings, facts: Mapping[str, Any], splits: Path, path: Path, out: Path) -> Taken:
    import pyarrow.parquet as pq
    from safetensors.torch import save_file

    base, own = settings.base, settings.own
    values = fixed_values(own)
    state = read_state(path)
    device = devices.prepare(base)
    workload = workloads.find(base.workload)
    kind = own.model or workload.default_model
    model = workloads.model(workload, kind)
    encoder: Encoder = workload.fit(pq.read_table(splits / "train.parquet"), facts, own)
    network = model.build(encoder, values)
    if found := misfits(state, network.state_dict()):
        raise UsageError(
            f"tune.start_from must hold the weights of tune.model ({kind}) for these columns and this tune.space",
            f"{path}: " + "".join(f"\n    - {problem}" for problem in found),
            "set tune.space to the trained network's values and tune.features to its columns, or name its own model",
        )
    network.load_state_dict(state)
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, out / _CHECKPOINT)
    original.write(out, base, encoder, kind, _CHECKPOINT, values)
    parameters = sum(value.numel() for value in network.parameters())
    extra = tuple(getattr(model, "extra_outputs", ()))
    found_original = original.Network(encoder, network.to(device).eval(), workload.head(encoder), extra)
    return found_original, {_CHECKPOINT: "checkpoint"}, values, parameters


def fixed_values(tune: Tune) -> dict[str, Any]:
    """The hyperparameters that the network is built from.

    Raises:
        UsageError: naming every one that is not a fixed value; those of the training do not matter.
    """
    options = {name: getattr(tune.space, name) for name in type(tune.space).model_fields}
    open_ones = [
        f"{name} ({'a list of choices' if isinstance(option, Choice) else 'a range'})"
        for name, option in options.items()
        if isinstance(option, FloatRange | Choice) and name not in _OF_TRAINING
    ]
    if open_ones:
        raise UsageError(
            "with weights under tune.start_from, tune.space says what the trained network is: one value for each",
            f"not fixed: {', '.join(open_ones)}",
            "give each the value that the network was trained with (defaults of tune.space may be ranges)",
        )
    return {name: option for name, option in options.items() if not isinstance(option, FloatRange | Choice)}


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Name -> tensor, on the CPU, out of ``.safetensors`` or of a state dict saved by torch; no code is ever run.

    Raises:
        UsageError: if there is no such file, or it is no plain state dict.
        IntegrityError: if it is damaged, or holds code.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError("tune.start_from must name a file", f"{path} does not exist", "correct the path")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise IntegrityError("a .safetensors file must be whole", f"{path}: {error}", "save it anew") from error
    except Exception as error:  # torch raises a dozen types: a broken archive, a pickle that is more than tensors
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise IntegrityError(
            "a .pt file must be a whole state dict: tensors and no code (it is read with weights_only)",
            f"{path}: {told[0][:300]}",
            "save it with torch.save(network.state_dict(), ...), or better as .safetensors",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        held = (
            f"a dict with {', '.join(map(str, list(state)[:8]))}" if isinstance(state, dict) else type(state).__name__
        )
        raise UsageError(
            "a .pt file must be a state dict: parameter name -> tensor, nothing around it",
            f"{path} holds {held}",
            "save network.state_dict() alone",
        )
    return dict(state)


def misfits(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Everything in which weights differ from what a network needs: names, shapes, dtypes, numbers that are none."""
    problems = [f"missing: {name} {list(wanted[name].shape)}" for name in wanted if name not in found]
    problems += [f"unexpected: {name} {list(found[name].shape)}" for name in found if name not in wanted]
    for name in (name for name in wanted if name in found):
        mine, theirs = wanted[name], found[name]
        if mine.shape != theirs.shape:
            problems.append(f"wrong shape: {name} is {list(theirs.shape)}, the network's {list(mine.shape)}")
        if mine.dtype != theirs.dtype:
            problems.append(f"wrong dtype: {name} is {theirs.dtype}, the network's {mine.dtype}")
        elif theirs.is_floating_point() and not theirs.isfinite().all():
            problems.append(f"not finite: {name}")
    return problems
