"""The original's smaller relatives: which shapes there are, how each is made, and how it learns from the original."""

from __future__ import annotations

import copy
import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from tasks.compress.network import depth, distill, merge, structured
from tasks.compress.network.clock import Clock
from tasks.compress.problem import Problem
from tasks.compress.workshop import Workshop
from tasks.core import devices, files, manifest, original, workloads
from tasks.core.log import log
from tasks.core.original import Network
from tasks.core.settings import Compress, Tune
from tasks.core.stage import StageSettings
from tasks.core.training import Batch, Recipe, train

#: Methods that make smaller shapes.
_SHAPES = ("structured", "depth", "student")
#: Budget where params name none: so many trainings of the original.
_TRAININGS = 2.0
#: Share of the time left that the original may take to answer train.
_ANSWERING = 0.1
_WARM_UP_STEPS, _TIMED_STEPS, _EXAMPLE_ROWS = 2, 6, 4
#: Where the original's own is not known (brought weights).
_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-2
#: A network that holds most of the original's weights moves less; one that lost this share has much to learn anew.
_CAREFUL, _MUCH = 0.5, 0.5


@dataclass(frozen=True)
class Shape:
    """A smaller network that could be trained.

    Attributes:
        name: of its candidates.
        build: gives a network of this shape, with what is left of the original's weights, or fresh.
        fresh: whether it is fresh.
        report: what it is, as JSON; complete once it was built.
        sketch: gives one as large as that of ``build``, without training; None where that does not train either.
    """

    name: str
    build: Callable[[], nn.Module]
    fresh: bool
    report: dict[str, Any] = field(default_factory=dict)
    sketch: Callable[[], nn.Module] | None = None


class Family:
    """An original :class:`~tasks.core.original.Network`, its checkpoints, and everything that training takes."""

    def __init__(
        self, settings: StageSettings, inputs: Mapping[str, Path], problem: Problem, workshop: Workshop
    ) -> None:
        import pyarrow.parquet as pq

        whole = problem.model
        if not isinstance(whole, Network):
            raise TypeError("only an original that is a torch network has relatives")
        self.own: Compress = settings.own
        self.problem, self.workshop, self.seed = problem, workshop, settings.base.seed
        self.device = devices.prepare(settings.base)
        self.original = replace(whole, network=whole.network.to(self.device))
        self.encoder = whole.encoder
        self.folder = inputs["tune"]
        spec = files.read_json(self.folder / original.SPEC)
        self.values: dict[str, Any] = spec["values"]
        self.workload = workloads.find(settings.base.workload)
        self.model = workloads.model(self.workload, spec["model"])
        self.tune = _tune_section(manifest.read(self.folder).params["tune"])
        self.dtype = devices.autocast_dtype(self.tune.precision, self.device)
        rows = pq.read_table(inputs["validate"] / "train.parquet")
        self.examples: Batch = tuple(part.to(self.device) for part in self.workload.examples(self.encoder, rows))
        self.labels = torch.tensor(self.encoder.labels(rows)).to(self.device) if _has_one_right(problem) else None
        self.inputs = self.encoder.encode(problem.validation)
        one_pass = self._pass_seconds(self.original.network, self.examples, self._loss)
        #: About what one training of the original takes on this machine now: a few steps were timed.
        self.training_seconds = one_pass * self.tune.epochs
        minutes = self.own.budget_minutes
        self.clock = Clock(
            workshop.folder / "clock.json", _TRAININGS * self.training_seconds if minutes is None else 60 * minutes
        )
        #: What each recovery took, by shape and stage.
        self.seconds: dict[str, float] = {}
        self._networks: dict[str, nn.Module] = {}

    # What relatives there are.

    @property
    def methods(self) -> list[str]:
        """Those of the methods that params name which make smaller shapes."""
        return [name for name in _SHAPES if name in self.own.methods]

    def shapes(self, method: str) -> list[Shape]:
        """Smaller shapes by one of these methods."""
        made: dict[str, Callable[[], list[Shape]]] = {
            "structured": self._structured,
            "depth": self._shallower,
            "student": self._students,
        }
        return made[method]()

    def _structured(self) -> list[Shape]:
        """Cut by the dependency graph, or by the model's own way, which may find something to leave out at share 0."""
        reduces = hasattr(self.model, "reduced")
        shapes = []
        for share in [0.0] * reduces + sorted(self.own.pruning.shares):
            report = {"method": "structured", "share": share}
            name, make = f"structured-{100 * share:g}", self._reduced if reduces else self._cut
            sketch = None if reduces else functools.partial(self._cut, share, report, steps=1)
            shapes.append(
                Shape(name, functools.partial(make, share, report), fresh=False, report=report, sketch=sketch)
            )
        return shapes

    def _reduced(self, share: float, report: dict[str, Any]) -> nn.Module:
        """By the model's own way."""
        values, network = self.model.reduced(  # type: ignore[attr-defined]  # the caller looked
            self.original.network, self.encoder, self.values, 1 - share, self.examples
        )
        report["values"] = _plain(values)
        smaller: nn.Module = network.to(self.device)
        return smaller

    def _cut(self, share: float, report: dict[str, Any], steps: int | None = None) -> nn.Module:
        """By the dependency graph; it learns between the steps."""
        own, lessons = self.own.pruning, self.lessons
        recipe = self._recipe(share < _MUCH, 1)
        smaller, kept = structured.cut(
            self.original.network,
            self._example(),
            share,
            own.importance,
            own.scope,
            lessons.pool,
            lessons.loss,
            steps or own.steps,
            lambda network: distill.teach(network, lessons, recipe, self.evaluate, self.seed),
        )
        report |= {"importance": own.importance, "scope": own.scope, "steps": own.steps, "kept": kept}
        return smaller

    def _shallower(self) -> list[Shape]:
        blocks = depth.removable(self.original.network, self._example())
        if not blocks:
            return []
        whole = self.evaluate(self.original.network)
        damage = depth.by_damage(
            self.original.network, blocks, self.evaluate, lambda score: self.problem.metric.loss(whole, score)
        )
        order = list(damage)
        shapes = []
        for count in sorted({max(1, len(order) // 2), len(order)}):
            report = {"method": "depth", "without": order[:count], "damage_alone": _finite(damage)}
            build = functools.partial(depth.without, self.original.network, order[:count])
            shapes.append(Shape(f"depth-{count}", build, fresh=False, report=report))
        return shapes

    def _students(self) -> list[Shape]:
        """Smaller networks of the original's kind, the largest first, as its model names them."""
        shapes: dict[str, Shape] = {}
        students: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = getattr(self.model, "students", None)
        for values in students(self.values) if students else []:
            count = sum(value.numel() for value in self.model.build(self.encoder, values).parameters())
            name = f"student-{count / 1000:.0f}k"
            name = name if name not in shapes else f"{name}-{len(shapes)}"
            report = {"method": "student", "values": _plain(values), "parameters": count}
            shapes[name] = Shape(name, functools.partial(self._student, values), fresh=True, report=report)
        return list(shapes.values())

    def _student(self, values: Mapping[str, Any]) -> nn.Module:
        torch.manual_seed(self.seed)
        network: nn.Module = self.model.build(self.encoder, values).to(self.device)
        return network

    def sketched(self, shape: Shape) -> nn.Module:
        """A network as large as a trained one: a fresh one's biases are all equal, and would be stored once."""
        network = (shape.sketch or shape.build)()
        with torch.no_grad():
            for values in (*network.parameters(), *network.buffers()):
                if values.is_floating_point() and values.dim() == 1:
                    values.add_(0.1 * torch.rand_like(values))
        return network

    # How they learn.

    def prepare(self) -> None:
        """Let the teachers answer train, once."""
        log.info("compress: the original answered train in %d passes", self.lessons.passes)

    @functools.cached_property
    def lessons(self) -> distill.Lessons:
        """Train with the answers of the original, or of all checkpoints together where these are better."""
        lessons = distill.prepare(
            self.workload,
            self.encoder,
            self.tune,
            self.teachers,
            self.examples,
            self.dtype,
            self.problem.task,
            self.seed,
            _ANSWERING * self.clock.left,
            self.labels,
        )
        self.clock.save()
        return lessons

    @functools.cached_property
    def teachers(self) -> list[nn.Module]:
        """The original, or the ensemble of the checkpoints if it is better on validation."""
        networks = [self.original.network, *(self._checkpoint(item) for item in self.checkpoints[1:])]
        if len(networks) == 1:
            return networks
        together = distill.Ensemble(networks)
        gain = self.problem.metric.loss(self.evaluate(together), self.evaluate(self.original.network))
        log.info("compress: %d checkpoints together are better by %.5f", len(networks), gain)
        return networks if gain > 0 else networks[:1]

    @property
    def checkpoints(self) -> list[dict[str, Any]]:
        """What `tune` kept, the original first."""
        found: list[dict[str, Any]] = files.read_json(self.folder / "models.json")
        return found

    def _checkpoint(self, item: Mapping[str, Any]) -> nn.Module:
        from safetensors.torch import load_file

        network = self.model.build(self.encoder, item["values"]).to(self.device)
        network.load_state_dict(load_file(self.folder / item["file"]))
        return network.eval()

    def has_learnt(self, shape: Shape, stage: str) -> bool:
        """Whether :meth:`recover` has nothing left to do."""
        return self.workshop.has_weights(f"{shape.name}-{stage}")

    def recover(self, shape: Shape, stage: str, passes: int) -> float:
        """Train a shape from where it stands, once for each name of a stage.

        Returns:
            Its metric on validation; NaN if training diverged.
        """
        network = self.network(shape)
        kept = self.workshop.weights(f"{shape.name}-{stage}")
        if kept is not None and _fits(network, kept[0]):
            state, facts = kept
            network.load_state_dict(state)
            shape.report.update(facts["report"])
            self.seconds[f"{shape.name}-{stage}"] = float(facts["seconds"])
            return float(facts["score"])
        began = time.monotonic()
        self.clock.save()
        log.info("compress: %s learns: %d passes, %.0f s left", shape.name, passes, self.clock.left)
        try:
            score = self._taught(network, shape, passes)
        except FloatingPointError as reason:
            log.warning("compress: %s: %s", shape.name, reason)
            return math.nan
        seconds = time.monotonic() - began
        self.seconds[f"{shape.name}-{stage}"] = seconds
        self.workshop.keep_weights(
            f"{shape.name}-{stage}", network.state_dict(), {"score": score, "report": shape.report, "seconds": seconds}
        )
        self.clock.save()
        log.info("compress: %s: %s %.5f on validation", shape.name, self.problem.metric.name, score)
        return score

    def _taught(self, network: nn.Module, shape: Shape, passes: int) -> float:
        """Train in place; a network that was better before, as one made in closed form may be, stays as it was."""
        before = self.evaluate(network)
        state = copy.deepcopy(network.state_dict())
        try:
            recipe = self._recipe(not shape.fresh and shape.report.get("share", 0.0) < _MUCH, passes)
            score, made = distill.teach(network, self.lessons, recipe, self.evaluate, self.seed)
        except FloatingPointError:
            network.load_state_dict(state)
            raise
        if self.problem.metric.loss(before, score) > 0:
            network.load_state_dict(state)
            return before
        shape.report["passes"] = shape.report.get("passes", 0) + made
        return score

    def network(self, shape: Shape) -> nn.Module:
        """The shape's network as far as it has learnt."""
        if shape.name not in self._networks:
            self._networks[shape.name] = shape.build()
        return self._networks[shape.name]

    def passes(self, shape: Shape, seconds: float) -> int:
        """How many passes over train fit into a time, at least one."""
        lessons = self.lessons
        return max(1, int(seconds / self._pass_seconds(self.network(shape), lessons.first(1), lessons.loss)))

    def _recipe(self, mostly_original: bool, passes: int) -> Recipe:
        rate = float(self.values.get("learning_rate", _LEARNING_RATE))
        decay = float(self.values.get("weight_decay", _WEIGHT_DECAY))
        rate = _CAREFUL * rate if mostly_original else max(rate, _LEARNING_RATE)
        return Recipe(rate, decay, passes, self.tune.batch_size, self.dtype)

    def _pass_seconds(
        self, network: nn.Module, examples: Batch, loss: Callable[[nn.Module, Batch], torch.Tensor]
    ) -> float:
        """Seconds of one pass with its figure on validation, from a few steps of a copy."""
        count = min(self.tune.batch_size, len(examples[0]))
        part = tuple(tensor[:count] for tensor in examples)
        recipe = Recipe(_LEARNING_RATE, 0.0, 1, count, self.dtype)
        trial = copy.deepcopy(network)

        def seconds(steps: int) -> float:
            began = time.perf_counter()
            train(trial, replace(recipe, epochs=steps), part, loss, lambda _: 0.0, self.seed, lambda *_: None)
            return time.perf_counter() - began

        seconds(_WARM_UP_STEPS)
        began = time.perf_counter()
        self.evaluate(network)
        judging = time.perf_counter() - began
        return seconds(_TIMED_STEPS) / _TIMED_STEPS * max(1, len(examples[0]) // count) + judging

    def _loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        return self.workload.loss(network, batch, self.encoder, self.tune)

    def evaluate(self, network: nn.Module) -> float:
        """The metric on validation.

        Raises:
            FloatingPointError: if an answer is not finite.
        """
        answers = replace(self.original, network=network).predict_encoded(self.inputs)
        score = self.problem.score(answers)
        if not math.isfinite(score):
            raise FloatingPointError("the network's answers are not finite")
        return score

    def core(self, network: nn.Module) -> onnx.ModelProto:
        """A network as float ONNX without its preprocessing."""
        return replace(self.original, network=network).core(self.problem.rows)

    def soup(self) -> tuple[nn.Module, dict[str, Any]] | None:
        """The greedy soup of the checkpoints that have the original's shape; None if it holds the original alone."""
        others = [item for item in self.checkpoints[1:] if item["values"] == self.values]
        if "merge" not in self.own.methods or not others:
            return None
        candidates = [self.original.network, *(self._checkpoint(item) for item in others)]
        mixed = copy.deepcopy(self.original.network)

        def evaluate(state: merge.State) -> float:
            mixed.load_state_dict(state)
            _estimate_norms(mixed, self.examples, self._loss, self.tune.batch_size)
            return self.evaluate(mixed)

        state, members, score = merge.greedy_soup(
            [network.state_dict() for network in candidates], evaluate, self.problem.metric.loss
        )
        log.info("compress: a soup of %d of %d checkpoints, %.5f", len(members), len(candidates), score)
        if len(members) == 1 or self.problem.metric.loss(self.evaluate(self.original.network), score) > 0:
            return None
        evaluate(state)
        return mixed.eval(), {"method": "merge", "checkpoints": [self.checkpoints[i]["file"] for i in members]}

    def _example(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(part[:_EXAMPLE_ROWS], device=self.device) for part in self.inputs)


def _has_one_right(problem: Problem) -> bool:
    """Whether answers are judged by their likeliest class alone: elsewhere the teacher's doubt is worth more."""
    return problem.task == "multiclass" and problem.metric.name == "accuracy"


def _estimate_norms(
    network: nn.Module, examples: Batch, loss: Callable[[nn.Module, Batch], torch.Tensor], batch: int
) -> None:
    """Running statistics of batch norms anew, as the averaged weights need (Izmailov et al. 2018, section 3.3)."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
    network.train()
    with torch.no_grad():
        count = len(examples[0])
        for start in range(0, max(batch, count - count % batch), batch):  # as in training, whole batches alone
            loss(network, tuple(part[start : start + batch] for part in examples))
    network.eval()


def _tune_section(raw: Mapping[str, Any]) -> Tune:
    """The settings that the original was trained with, without its hyperparameters, which are chosen by now."""
    return Tune.model_validate_json(json.dumps({key: value for key, value in raw.items() if key != "space"}))


def _fits(network: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether kept weights are of this very shape: rebuilding it may have come out otherwise."""
    own = network.state_dict()
    return own.keys() == state.keys() and all(value.shape == state[name].shape for name, value in own.items())


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
