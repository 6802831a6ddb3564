"""Treats a network's file with every method that the params name, the cheap ones first, and int8 until it is good."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import onnx

from tasks.compress import targets
from tasks.compress.graph import Treated, apply, find
from tasks.compress.graph.compact import compact
from tasks.compress.isolated import Crashed, call
from tasks.compress.problem import interface
from tasks.compress.workshop import Built, Unsuitable, Workshop
from tasks.core import files, plugins
from tasks.core.contracts import GRAPH_METHODS, METHODS, Compressor
from tasks.core.errors import AssayError, MachineError
from tasks.core.log import log

if TYPE_CHECKING:
    from tasks.core.settings import Magnitude

#: Static int8 in several ways: the next way is tried only where the one before costs too much.
_STATIC = ("int8", "int8_percentile", "int8_entropy", "int8_s8s8", "int8_smooth")
#: Methods that leave a file as large as it was; a float weight's bytes.
_AS_LARGE, _FLOAT_BYTES = ("fuse", "magnitude"), 4
#: Layers that may stay in float where int8 costs too much.
_MOST_LAYERS = 4
#: Seconds that any treatment may take.
_PATIENCE = 3600.0
#: Calibration rows where only size and speed matter.
_SKETCH_ROWS = 32
#: A layer below this share of all damage is not worth a candidate.
_LEAST_SHARE = 0.05


class Treatments:
    """The methods on files that params name and the target allows.

    Attributes:
        sensitivity: a line for each layer of the networks that int8 cost too much, with its measured damage.
    """

    def __init__(self, workshop: Workshop, methods: tuple[str, ...], magnitude: Magnitude, tolerance: float) -> None:
        """``tolerance`` is the loss of the metric, against the same network in float, up to which int8 is good."""
        self.workshop, self.tolerance = workshop, tolerance
        self.settings = {"magnitude": _rule(magnitude)}
        refused = workshop.target.refused
        for name in (name for name in methods if name in refused):
            log.info("compress: no %s on this target: %s", name, refused[name])
        self.methods = [name for name in methods if name in GRAPH_METHODS or name not in METHODS]
        self.methods = [name for name in self.methods if name not in refused]
        self.sensitivity: list[dict[str, Any]] = []

    @property
    def int8(self) -> str | None:
        """The first way of static int8 among the methods."""
        return next((name for name in self.methods if name in _STATIC), None)

    def as_sketched(self, method: str) -> bool:
        """Whether a file of this method is about as small and as fast as :meth:`sketched` showed."""
        return self.int8 is None or targets.plain(method) in _STATIC

    @property
    def least_bytes(self) -> float:
        """What a parameter takes in a file, at the least; what a plug-in may do is not known."""
        return 1.0 if all(name in METHODS and not name.startswith("int4") for name in self.methods) else 0.5

    @property
    def least_share(self) -> float:
        """Size of the smallest file of a network as a share of what :meth:`sketched` makes, at the least."""
        return self.least_share_of_float if self.int8 is None else self.least_bytes

    @property
    def least_share_of_float(self) -> float:
        """The same as a share of its float file."""
        same = all(name in _AS_LARGE for name in self.methods)
        return 1.0 if same else self.least_bytes / _FLOAT_BYTES

    def all(self, network: str, core: onnx.ModelProto, origin: Mapping[str, Any]) -> list[Built]:
        """A candidate for the network in float, and one for every method; ``origin`` says how the network was made."""
        loss = self.workshop.problem.metric.loss
        plain = self.workshop.make(network, "", core, lambda: (compact(core), {}), origin)
        built = [plain]
        if plain.problem or not math.isfinite(plain.score):
            return built  # nothing made of it can be judged against it
        static_ways = [name for name in self.methods if name in _STATIC]
        for name in self.methods:
            if name not in static_ways:
                built.append(self._one(network, name, core, origin))
        best: Built | None = None
        for name in static_ways:
            found = self._one(network, name, core, origin)
            built.append(found)
            usable = not found.problem and math.isfinite(found.score)
            if usable and (best is None or loss(best.score, found.score) < 0):
                best = found
            served = self.workshop.target.served([one.method for one in built if not one.problem], static_ways)
            if best is not None and loss(plain.score, best.score) <= self.tolerance and served:
                break
        if best is not None and not loss(plain.score, best.score) <= self.tolerance:
            built += self._with_float_layers(core, plain, best.method)
        return built

    def sketched(self, core: onnx.ModelProto) -> onnx.ModelProto:
        """What static int8 would make of a core in size and speed, at little cost; without it the float core.

        Raises:
            Unsuitable: if the core cannot be quantized.
        """
        if self.int8 is None:
            return compact(core)
        rows = {name: array[:_SKETCH_ROWS] for name, array in self.workshop.problem.calibration.items()}
        return _checked(self.int8, core, lambda given: find("int8")(given, rows, correct_bias=False))[0]

    def treat(self, method: str, core: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """The treated core and the method's report.

        Raises:
            Unsuitable: if the method fails at it, or its result has other inputs or outputs.
        """
        if method in METHODS:
            return self._apart(method, core, self.settings.get(method, {}))
        function = cast("Compressor", plugins.load(plugins.COMPRESSORS, method))
        return _checked(method, core, lambda given: function(given, self.workshop.problem.calibration))

    def _apart(
        self, method: str, core: onnx.ModelProto, settings: Mapping[str, Any]
    ) -> tuple[onnx.ModelProto, dict[str, Any]]:
        """Treat in a process of its own: what corrects a quantized model runs it."""
        calibration = self.workshop.problem.calibration
        return _checked(
            method, core, lambda given: call(apply, method, given, calibration, settings, seconds=_PATIENCE)
        )

    def _one(self, network: str, method: str, core: onnx.ModelProto, origin: Mapping[str, Any]) -> Built:
        return self.workshop.make(network, method, core, lambda: self.treat(method, core), origin)

    def _with_float_layers(self, core: onnx.ModelProto, plain: Built, method: str) -> list[Built]:
        """int8 with the layers that it hurts most left in float, one more each time, until it is good."""
        from tasks.compress.graph.sensitivity import damage

        problem = self.workshop.problem
        method = method if method != "int8_smooth" else "int8"  # what smoothing divides is not a layer to leave out
        try:
            measured = call(damage, core, problem.calibration, find(method), seconds=_PATIENCE)
        except Crashed as reason:
            log.warning("compress: %s: no layer's damage could be measured: %s", plain.name, reason)
            return []
        damages = [item for item in measured if item.damage > 0]
        total = sum(item.damage for item in damages if math.isfinite(item.damage))
        worst = [item.name for item in damages if item.damage > _LEAST_SHARE * total][:_MOST_LAYERS]
        built: list[Built] = []
        kept: list[str] = []
        for name in worst:
            kept = [*kept, name]
            exclude = tuple(kept)

            def treated(exclude: tuple[str, ...] = exclude) -> tuple[onnx.ModelProto, dict[str, Any]]:
                model, report = self._apart(method, core, {"exclude": exclude})
                return model, report | {"kept_in_float_for_quality": list(exclude)}

            built.append(self.workshop.make(plain.network, f"{method}_{len(kept)}_float", core, treated, plain.origin))
            if problem.metric.loss(plain.score, built[-1].score) <= self.tolerance:
                break
        self.sensitivity += [
            files.without_nan({"network": plain.name, **asdict(item), "kept_in_float": item.name in kept})
            for item in damages
        ]
        return built


def _rule(own: Magnitude) -> dict[str, Any]:
    """What `magnitude` is told."""
    if own.threshold is not None:
        return {"ratio": None, "threshold": own.threshold}
    if own.pattern is not None:
        kept, of = own.pattern.split(":")
        return {"ratio": None, "pattern": (int(kept), int(of))}
    return {"ratio": own.share, "scope": own.scope}


def _checked(
    method: str, core: onnx.ModelProto, function: Callable[[onnx.ModelProto], Any]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """What a function makes of a core, and its report, if that is still a model of these inputs and outputs."""
    given = onnx.ModelProto()
    given.CopyFrom(core)
    try:
        result = function(given)
        model, report = (result.model, result.report) if isinstance(result, Treated) else (result, {})
        if isinstance(model, onnx.ModelProto):
            onnx.checker.check_model(model)
    except (MemoryError, MachineError):
        raise
    except Crashed as reason:
        raise Unsuitable(f"{method}: {reason}") from None
    except AssayError as error:
        raise Unsuitable(f"{method}: {error.rule}: {error.found}") from error
    except Exception as error:  # the quantizer of onnxruntime and a user's code raise anything
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unsuitable(f"{method} failed: {type(error).__name__}: {str(error)[:500]}") from error
    if not isinstance(model, onnx.ModelProto) or interface(model) != interface(core):
        found = interface(model) if isinstance(model, onnx.ModelProto) else type(model).__name__
        raise Unsuitable(f"{method} must keep the inputs and outputs {interface(core)}, and gives {found}")
    if "nothing" in report:
        raise Unsuitable(f"{method} found nothing to do: {report['nothing']}")
    return compact(model), dict(report)
