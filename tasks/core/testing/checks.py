"""What only a run can show of a plug-in; each check raises AssertionError with what was expected and found."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import torch
from torch import nn

from deploy.predictor import Predictor
from deploy.runtime import open_session
from tasks.core import original
from tasks.core.original import Network
from tasks.core.sections import Section
from tasks.core.settings import Features, Tune
from tasks.core.space import Choice, FloatRange, whole
from tasks.core.workloads.contract import Encoder, Model, Workload
from tasks.core.workloads.onnx_export import WithHead, finish

#: Batches at which the exported file is compared with the network.
BATCHES = (1, 7)
_ROUNDING = 1e-4


def require(fits: bool, told: str) -> None:
    """Raise AssertionError with ``told`` unless ``fits``."""
    if not fits:
        raise AssertionError(told)


def first_values(space: type[Section]) -> dict[str, Any]:
    """A value for every hyperparameter: the fixed one, the least of a range, the first choice."""
    section, rounded = space(), whole(space)
    values: dict[str, Any] = {}
    for name in space.model_fields:
        option = getattr(section, name)
        if isinstance(option, FloatRange):
            values[name] = int(option.low) if name in rounded else option.low
        else:
            values[name] = option.choices[0] if isinstance(option, Choice) else option
    return values


@dataclass(frozen=True)
class Bench:
    """A model of a workload on some training rows.

    Attributes:
        workload: the family.
        model: the kind of network.
        tune: settings for fitting and for the loss.
        encoder: fitted on ``rows``.
        rows: training rows.
    """

    workload: Workload
    model: Model
    tune: Tune
    encoder: Encoder
    rows: pa.Table

    @staticmethod
    def of(workload: Workload, model: Model, name: str, rows: pa.Table, facts: Mapping[str, Any]) -> Bench:
        """With an encoder fitted on the rows."""
        tune = Tune(model=name, features=Features(min_count=2, bins=4))
        return Bench(workload, model, tune, workload.fit(rows, facts, tune), rows)

    def network(self, seed: int = 0) -> nn.Module:
        """A fresh network, with the least values of the space."""
        torch.manual_seed(seed)
        return self.model.build(self.encoder, first_values(self.model.space))

    def original(self, network: nn.Module) -> Network:
        """The network as an original model."""
        extra = tuple(getattr(self.model, "extra_outputs", ()))
        return Network(self.encoder, network.eval(), self.workload.head(self.encoder), extra)


def encoder_survives_json(bench: Bench) -> None:
    """What is stored of an encoder gives the same encoder: equal inputs for the network and for the exported file."""
    again = bench.workload.restore(json.loads(json.dumps(bench.encoder.as_dict())))
    rows = bench.rows.slice(0, 5)
    pairs = zip(bench.encoder.encode(rows), again.encode(rows), strict=True)
    require(all(_same(a, b) for a, b in pairs), "a restored encoder must encode as the one that was stored")
    raw, raw_again = bench.encoder.raw_inputs(rows), again.raw_inputs(rows)
    require(raw.keys() == raw_again.keys(), "a restored encoder must take the same inputs")
    inputs = {tensor.name for tensor in bench.encoder.signature().inputs}
    require(set(raw) == inputs, f"raw_inputs gives {sorted(raw)}, and the signature's inputs are {sorted(inputs)}")


def network_learns(bench: Bench) -> None:
    """Logits have the shape that is asked for, the loss is finite, and its gradient reaches the weights."""
    network = bench.network()
    found = network.eval()(*(torch.tensor(array) for array in bench.encoder.encode(bench.rows.slice(0, 7))))
    logits = found[0] if isinstance(found, tuple) else found
    wanted = (7, bench.encoder.width)
    require(tuple(logits.shape) == wanted, f"logits must be [rows, width] = {wanted}, and are {tuple(logits.shape)}")
    require(logits.is_floating_point(), f"logits must be floats, and are {logits.dtype}")
    network.train()
    examples = bench.workload.examples(bench.encoder, bench.rows)
    loss = bench.workload.loss(network, tuple(tensor[:32] for tensor in examples), bench.encoder, bench.tune)
    require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss must be a finite scalar, and is {loss}")
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    require(bool(gradients), "the loss must have a gradient for some parameter")
    require(all(bool(torch.isfinite(grad).all()) for grad in gradients), "gradients must be finite")
    require(any(bool(grad.any()) for grad in gradients), "all gradients are 0: nothing would be learnt")


def a_seed_decides(bench: Bench) -> None:
    """Two networks of one seed are equal, and answer twice alike once training is over."""
    first, second = bench.network(3).state_dict(), bench.network(3).state_dict()
    require(first.keys() == second.keys(), "two networks of one seed must have the same parameters")
    differ = [name for name in first if not torch.equal(first[name], second[name])]
    require(not differ, f"build must draw from torch's generator alone; of one seed differ {', '.join(differ[:5])}")
    network, rows = bench.original(bench.network(3)), bench.rows.slice(0, 7)
    require(_same(network.predict(rows), network.predict(rows)), "answers in evaluation mode must not be random")


def state_survives(bench: Bench) -> None:
    """Weights saved as safetensors and loaded into a fresh network give the same answers."""
    from safetensors.torch import load, save

    network, other = bench.network(1), bench.network(2)
    state = {name: value.detach().contiguous().clone() for name, value in network.state_dict().items()}
    other.load_state_dict(load(save(state)))
    rows = bench.rows.slice(0, 7)
    same = _same(bench.original(network).predict(rows), bench.original(other).predict(rows))
    require(same, "a network with another's weights must answer as that one: keep all state in parameters and buffers")


def export_agrees(bench: Bench) -> None:
    """The exported file answers as the network does, at every batch size; extra outputs too."""
    model = bench.original(bench.network())
    core = model.core(bench.rows)
    signature = original.signature(bench.encoder, core)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(finish(bench.encoder.wrap(core), {}), path)
        predictor = Predictor(open_session(path, "cpu"), signature)
        for batch in BATCHES:
            rows = bench.rows.slice(0, batch)
            found, wanted = predictor.predict(bench.encoder.raw_inputs(rows)), _answers(bench, model, rows)
            for name, array in wanted.items():
                require(name in found, f"the exported file has no output {name}: it has {sorted(found)}")
                require(_same(found[name], array, _ROUNDING), f"at batch {batch} the exported file's {name} differs")


def _answers(bench: Bench, model: Network, rows: pa.Table) -> dict[str, np.ndarray]:
    """Every output by torch."""
    with torch.no_grad():
        found = WithHead(model.network, model.head).eval()(
            *(torch.tensor(array) for array in bench.encoder.encode(rows))
        )
    arrays = [tensor.numpy() for tensor in found]
    count = len(bench.encoder.core_outputs)
    core = dict(zip(bench.encoder.core_outputs, arrays[:count], strict=True))
    return bench.encoder.answers(core) | dict(zip(model.extra_outputs, arrays[count:], strict=True))


def _same(first: np.ndarray, second: np.ndarray, rounding: float = 0.0) -> bool:
    if first.shape != second.shape:
        return False
    if first.dtype.kind == "f":
        return bool(np.allclose(first, second, rtol=rounding, atol=rounding, equal_nan=True))
    return bool((first == second).all())
