"""What one file does when it runs: its answers, its memory, and which provider ran which operator."""

from __future__ import annotations

import contextlib
import json
import resource
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploy.predictor import Predictor
from deploy.runtime import open_session
from deploy.signature import Signature
from tasks.core.errors import MachineError

if TYPE_CHECKING:
    import onnxruntime

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Probe:
    """What a process saw that ran one model and nothing else.

    Attributes:
        answers: the judged output for the given rows.
        peak_mib: by how much the process's memory grew, at most, to load the model and to answer the largest batch.
        providers: provider -> number of graph nodes that it ran.
    """

    answers: np.ndarray
    peak_mib: float
    providers: dict[str, int]


def probe(
    model: Path,
    signature: Signature,
    raw: dict[str, np.ndarray],
    sample: dict[str, np.ndarray],
    device: str,
    threads: int,
) -> Probe:
    """Load and run a model.

    Args:
        model: the ONNX file.
        signature: what it takes and gives; its first output is judged.
        raw: rows to answer, as :meth:`deploy.predictor.Predictor.predict` takes them.
        sample: graph inputs of the largest batch that is raced.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of a session.

    Raises:
        MachineError: if ``cuda`` was asked for and is not used, or the runtime's profile was cut off.
        IntegrityError: if the file does not load.
    """
    _forget_peak()
    before = _peak_bytes()
    session = open_session(model, device, threads)
    session.run(None, sample)
    peak = (_peak_bytes() - before) / 2**20
    answers = Predictor(open_session(model, device), signature).predict(raw)[signature.outputs[0].name]
    return Probe(answers, peak, _providers(model, sample, device))


def _forget_peak() -> None:
    """What importing and unpickling once took is not the model's; only Linux lets a process forget it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """The largest resident size so far. Linux' getrusage counts the parent's in, so its own figure is read there."""
    if _STATUS.is_file():
        line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _providers(model: Path, sample: dict[str, np.ndarray], device: str) -> dict[str, int]:
    """Which provider ran each node, out of the runtime's own profile of one call."""
    with tempfile.TemporaryDirectory() as folder:
        session: onnxruntime.InferenceSession = open_session(model, device, profile=Path(folder) / "profile")
        session.run(None, sample)
        events = _events(Path(session.end_profiling()))
    ran = {event["name"]: event["args"]["provider"] for event in events if event.get("args", {}).get("provider")}
    return dict(sorted(Counter(ran.values()).items()))


def _events(profile: Path) -> list[dict[str, Any]]:
    """What the runtime wrote down; it does not say so when the disk is full."""
    try:
        found: list[dict[str, Any]] = json.loads(profile.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MachineError(
            "the runtime's profile of a call must be whole",
            f"{profile}: {error}",
            f"make room in {profile.parent.parent}, or set TMPDIR to another folder",
        ) from error
    return found
