"""A model for several targets: which file is whose, and which of them serves here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.errors import IntegrityError, UsageError

NAME = "variants.json"
#: The rule in words; ``order`` and ``otherwise`` beside it in the file are the same in data.
RULE = (
    "A target that is named is taken. Else the first one in `order` whose device is the wanted one, or, where none is "
    "wanted, whose device loads on this machine. Else `otherwise`."
)
#: The more special a device is, the earlier it is tried.
_DEVICES = ("tensorrt", "cuda", "cpu")


@dataclass(frozen=True)
class Variant:
    """What one target is served with.

    Attributes:
        target: its name.
        folder: where ``model.onnx`` and ``signature.json`` lie, relative to the file; ``.`` is beside it.
        candidate: name of the candidate that was chosen.
        device: of :func:`deploy.runtime.open_session`.
        threads: of a session, unless others are asked for; None leaves it to onnxruntime.
    """

    target: str
    folder: str
    candidate: str
    device: str
    threads: int | None

    @property
    def model(self) -> str:
        """Its file, relative like the folder."""
        return str(PurePosixPath(self.folder, "model.onnx"))


@dataclass(frozen=True)
class Variants:
    """All variants of a model.

    Attributes:
        first: the one that led the search: the ``model.onnx`` beside the file.
        order: all of them, in the order in which they are tried where no target is named.
    """

    first: Variant
    order: tuple[Variant, ...]

    @staticmethod
    def of(made: Sequence[Variant]) -> Variants:
        """Put them in order; the first given is the first."""
        return Variants(made[0], tuple(sorted(made, key=lambda one: _DEVICES.index(one.device))))

    @staticmethod
    def read(folder: Path) -> Variants:
        """Read ``variants.json``.

        Raises:
            IntegrityError: if it is not there, or is not what :meth:`as_dict` gives.
        """
        path = folder / NAME
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            known = {name: Variant(target=name, **entry) for name, entry in raw["targets"].items()}
            order = tuple(known[name] for name in raw["rule"]["order"])
            outside = [one.folder for one in known.values() if not _is_inside(one.folder)]
            if outside or len(set(order)) != len(known):
                raise ValueError(f"folders outside: {outside}" if outside else "the order must name each target")
            return Variants(known[raw["rule"]["otherwise"]], order)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"{path}: {type(error).__name__}: {error}"
            way_out = "fetch or build the bundle anew"
            raise IntegrityError("variants.json must name a folder for each target", found, way_out) from error

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        targets = {one.target: asdict(one) for one in self.order}
        for entry in targets.values():
            del entry["target"]
        order = [one.target for one in self.order]
        return {"targets": targets, "rule": {"words": RULE, "order": order, "otherwise": self.first.target}}

    def distinct(self) -> tuple[Variant, ...]:
        """The first one, then each other that is another file or runs on another device."""
        found: dict[tuple[str, str], Variant] = {}
        for one in (self.first, *self.order):
            found.setdefault((one.folder, one.device), one)
        return tuple(found.values())

    def suited(self, device: str, target: str | None) -> tuple[Variant, ...]:
        """What :data:`RULE` would try, in order.

        Raises:
            UsageError: if the target is none of them.
        """
        if target is None:
            return tuple(one for one in self.order if device in ("auto", one.device)) or (self.first,)
        return (self.named(target),)

    def named(self, target: str) -> Variant:
        """A target's own.

        Raises:
            UsageError: if the target is none of them.
        """
        for one in self.order:
            if one.target == target:
                return one
        names = ", ".join(one.target for one in self.order)
        raise UsageError("a target is one that the bundle was made for", target, f"choose one of {names}")


def _is_inside(folder: str) -> bool:
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts
