"""Where the model will run: what may be used there, and how it is raced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

#: How :mod:`tasks.compress.treatments` names a method that left some layers in float.
_FLOAT_LAYERS = re.compile(r"_\d+_float$")


@dataclass(frozen=True)
class Target:
    """A profile.

    Attributes:
        device: of :func:`deploy.runtime.open_session`.
        threads: of a session there; None leaves it to ``compress.race_threads``.
        batch_sizes: of the race; None leaves them to ``compress.batch_sizes``.
        refused: method -> why it is no use there.
        max_size_kib: largest file, unless params name a limit; None for any.
        max_memory_mib: largest memory, likewise.
        members: the targets that this one stands for in a search for several of them.
    """

    device: str
    threads: int | None = None
    batch_sizes: tuple[int, ...] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    max_size_kib: float | None = None
    max_memory_mib: float | None = None
    members: tuple[Target, ...] = ()

    def refusal(self, method: str) -> str:
        """Why a candidate of this method is no use there, or nothing; layers left in float do not change that."""
        return self.refused.get(plain(method), "")

    def served(self, tried: Sequence[str], ways: Sequence[str]) -> bool:
        """Whether each member that takes any of the ways takes one of those tried so far."""
        open_to = [[way for way in ways if not member.refusal(way)] for member in self.members]
        return all(not taken or set(taken) & set(tried) for taken in open_to)


_CONTRIB = "its operators are onnxruntime's own, which runtimes on devices often lack"
_ON_CPU = "8-bit operators mostly fall back to the CPU under CUDA"
_INT4 = ("int4_weights", "int4_weights_128")
_INT8 = ("int8", "int8_percentile", "int8_entropy", "int8_s8s8", "int8_smooth", "int8_dynamic")

TARGETS: Mapping[str, Target] = {
    "cpu": Target("cpu"),
    "edge": Target(
        "cpu",
        threads=1,
        batch_sizes=(1,),
        refused=dict.fromkeys(_INT4, _CONTRIB),
        max_size_kib=32 * 1024,
        max_memory_mib=256,
    ),
    "cuda": Target("cuda", refused=dict.fromkeys((*_INT8, *_INT4), _ON_CPU)),
    "tensorrt": Target(
        "tensorrt",
        refused=dict.fromkeys(
            ("int8", "int8_percentile", "int8_entropy", "int8_smooth", "int8_dynamic", *_INT4),
            "TensorRT takes symmetric 8-bit numbers only: use int8_s8s8",
        ),
    ),
}


def plain(method: str) -> str:
    """A method's name without the layers that it left in float."""
    return _FLOAT_LAYERS.sub("", method)


def together(names: Sequence[str]) -> Target:
    """The profile of one search for several targets: the first one's, that refuses only what all of them refuse.

    Its limits are the widest: each target's own choice keeps to its own.
    """
    members = tuple(TARGETS[name] for name in names)
    first = members[0]
    refused = {method: why for method, why in first.refused.items() if all(one.refusal(method) for one in members)}
    sizes, memories = ([getattr(one, name) for one in members] for name in ("max_size_kib", "max_memory_mib"))
    return replace(
        first, refused=refused, max_size_kib=_widest(sizes), max_memory_mib=_widest(memories), members=members
    )


def _widest(limits: Sequence[float | None]) -> float | None:
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None
