"""Where the model will run: what may be used there, and how it is raced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """A profile.

    Attributes:
        device: of :func:`deploy.runtime.open_session`; None leaves it to ``base.device``.
        threads: of a session in the race; None leaves it to ``compress.race_threads``.
        refused: method -> why it is no use there.
    """

    device: str | None = None
    threads: int | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


_CONTRIB = "its operators are onnxruntime's own, which runtimes on devices often lack"
_ON_CPU = "8-bit operators mostly fall back to the CPU under CUDA"
_INT4 = ("int4_weights", "int4_weights_128")
_INT8 = ("int8", "int8_percentile", "int8_entropy", "int8_s8s8", "int8_smooth", "int8_dynamic")

TARGETS: Mapping[str, Target] = {
    "cpu": Target(),
    "edge": Target(device="cpu", threads=1, refused=dict.fromkeys(_INT4, _CONTRIB)),
    "cuda": Target(device="cuda", refused=dict.fromkeys((*_INT8, *_INT4), _ON_CPU)),
    "tensorrt": Target(
        device="tensorrt",
        refused=dict.fromkeys(
            ("int8", "int8_percentile", "int8_entropy", "int8_dynamic", *_INT4),
            "TensorRT takes symmetric 8-bit numbers only: use int8_s8s8",
        ),
    ),
}
