"""Makes candidate files, each judged in a process of its own, and keeps them: a killed search goes on from there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from tasks.compress import describe
from tasks.compress.isolated import Crashed, call
from tasks.compress.probe import Probe, probe
from tasks.compress.problem import Problem
from tasks.compress.targets import Target
from tasks.core import files
from tasks.core.errors import NotProven
from tasks.core.log import log

if TYPE_CHECKING:
    import torch

#: Gives a treated core and a report of what was done.
Treat = Callable[[], tuple[onnx.ModelProto, dict[str, Any]]]
#: Seconds within which any model must load and answer validation.
PATIENCE = 600.0


@dataclass(frozen=True)
class Built:
    """A candidate file that was made and answered validation, or the reason why it did not.

    Attributes:
        name: of the file, without ending.
        network: name of the network in it.
        method: what treated the network's file.
        score: metric on validation; NaN where there is none.
        bound: of its loss against the original there (:meth:`Problem.bound`); None where that is not asked for.
        bytes: size of the file.
        compressed_bytes: after zlib.
        parameters: values of the float network.
        macs: multiply-accumulate operations of a row in it; None if not known.
        peak_mib: memory it took.
        providers: provider -> graph nodes that it ran.
        seconds: that making it took.
        origin: how the network was made.
        report: what the method did to its file.
        problem: why it cannot be shipped.
    """

    name: str
    network: str
    method: str
    score: float = math.nan
    bound: float | None = None
    bytes: int = 0
    compressed_bytes: int = 0
    parameters: int = 0
    macs: int | None = None
    peak_mib: float = math.nan
    providers: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    origin: Mapping[str, Any] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


class Workshop:
    """Makes candidates of a problem in a folder that survives a kill."""

    def __init__(self, problem: Problem, folder: Path, device: str, target: Target, threads: int) -> None:
        self.problem, self.folder, self.device, self.target, self.threads = problem, folder, device, target, threads
        self.built: dict[str, Built] = {}

    def path(self, name: str) -> Path:
        """Where the file of a candidate lies."""
        return self.folder / "candidates" / f"{name}.onnx"

    def make(self, network: str, method: str, core: onnx.ModelProto, treat: Treat, origin: Mapping[str, Any]) -> Built:
        """Make, judge and keep a candidate; a kept one is taken as it is.

        Args:
            network: name of the network, empty for the original.
            method: name of the treatment, empty for none.
            core: the float core.
            treat: gives the treated core and a report; raises :class:`Unsuitable` where it cannot.
            origin: how the network was made.
        """
        name = "-".join(part for part in (network, method) if part) or "fp32"
        kept = self.path(name).with_suffix(".json")
        kept.parent.mkdir(exist_ok=True)
        if kept.is_file():
            found = Built(**_with_nan(files.read_json(kept)))
        else:
            found = replace(self._made(name, network, method, core, treat), origin=dict(origin))
            if not (found.problem and name == "fp32"):  # or one bad moment would refuse the original for good
                files.write_json(kept, files.without_nan(asdict(found)))
        self.built[name] = found
        log.info("compress: %s", _line(found, self.problem.metric.name))
        return found

    def _made(self, name: str, network: str, method: str, core: onnx.ModelProto, treat: Treat) -> Built:
        started = time.perf_counter()
        facts: dict[str, Any] = {"parameters": describe.parameters(core), "macs": describe.macs(core)}
        try:
            treated, report = treat()
            facts["report"] = files.without_nan(report)
            if method == "neurons":  # still float, and smaller: what is left of it counts
                facts |= {"parameters": describe.parameters(treated), "macs": describe.macs(treated)}
            onnx.save(self.problem.packaged(treated, name), self.path(name))
        except Unsuitable as reason:
            return Built(name, network, method, **facts, problem=str(reason))
        facts |= {
            "bytes": self.path(name).stat().st_size,
            "compressed_bytes": describe.compressed_bytes(self.path(name)),
        }
        try:
            found = call(
                probe,
                self.path(name),
                self.problem.signature,
                self.problem.raw,
                self.problem.sample,
                self.device,
                self.threads,
                seconds=PATIENCE,
            )
        except Crashed as reason:
            return Built(name, network, method, **facts, problem=f"it does not run: {reason}")
        facts |= self.judged(name, found)
        return Built(name, network, method, **facts, seconds=time.perf_counter() - started)

    def judged(self, name: str, found: Probe) -> dict[str, Any]:
        """What is known of a candidate that ran."""
        score = self.problem.score(found.answers)
        # The original itself loses nothing: its answers as a file are what all others are compared with.
        bound = self.problem.bound(found.answers) if math.isfinite(score) and name != "fp32" else None
        facts = {"score": score, "bound": bound, "peak_mib": found.peak_mib, "providers": found.providers}
        if bound is not None and not math.isfinite(bound):
            return facts | {"bound": None, "problem": "what it may lose on validation has no bound"}
        return facts

    # Weights of networks that are being trained.

    def keep_weights(self, name: str, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
        """Keep a trained state; its facts last, so that facts without weights never exist.

        Raises:
            MachineError: if there is no room for it.
        """
        from safetensors.torch import save_file

        contiguous = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with files.machine_errors(self.folder):
            save_file(contiguous, self.folder / f"{name}.safetensors")
            files.write_json(self._facts(name), dict(facts))

    def has_weights(self, name: str) -> bool:
        """Whether :meth:`keep_weights` kept something."""
        return self._facts(name).is_file()

    def weights(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What :meth:`keep_weights` kept, or None."""
        from safetensors.torch import load_file

        if not self.has_weights(name):
            return None
        return load_file(self.folder / f"{name}.safetensors"), files.read_json(self._facts(name))

    def _facts(self, name: str) -> Path:
        return self.folder / f"{name}.weights.json"


def original_must_run(found: str) -> NotProven:
    """The refusal where the original itself does not run."""
    return NotProven(
        "the original as float ONNX must run: every candidate is compared with it",
        found,
        "correct the model, or the device that params name",
    )


class Unsuitable(Exception):
    """A treatment that this model cannot have; the text says why."""


def _line(found: Built, metric: str) -> str:
    if found.problem:
        return f"{found.name}: {found.problem}"
    return f"{found.name} has {found.bytes / 1024:.1f} KiB and {metric} {found.score:.5f}"


def _with_nan(raw: dict[str, Any]) -> dict[str, Any]:
    return raw | {key: math.nan for key in ("score", "peak_mib") if raw[key] is None}
