"""Compression of a finished ONNX graph: one small file a method, each a model in and a model out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tasks.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import onnx

#: (core, calibration as input name -> array [rows, ...], settings by keyword) -> what became of it.
Method = Callable[..., "Treated"]

#: Name of a method -> module of this folder, function in it, and the settings that make it this method.
METHODS: Mapping[str, tuple[str, str, Mapping[str, Any]]] = {
    "fuse": ("fuse", "fuse", {}),
    "int8": ("static", "quantize", {}),
    "int8_percentile": ("static", "quantize", {"calibrate": "percentile"}),
    "int8_entropy": ("static", "quantize", {"calibrate": "entropy"}),
    "int8_s8s8": ("static", "quantize", {"activations": "s8"}),
    "int8_smooth": ("smooth", "quantize", {}),
    "int8_dynamic": ("dynamic", "quantize", {}),
    "int8_weights": ("weights", "quantize", {"bits": 8}),
    "int4_weights": ("weights", "quantize", {"bits": 4}),
    "int4_weights_128": ("weights", "quantize", {"bits": 4, "block": 128}),
    "fp16": ("halves", "convert", {"kind": "fp16"}),
    "bf16": ("halves", "convert", {"kind": "bf16"}),
    "fp16_weights": ("halves", "store", {}),
    "magnitude": ("magnitude", "prune", {"ratio": 0.5}),
    "neurons": ("neurons", "neurons", {"ratio": 0.25}),
}


@dataclass(frozen=True)
class Treated:
    """What a method made of a model.

    Attributes:
        model: inputs and outputs as those of the given one, which is left as it was.
        report: JSON. ``quantized``/``pruned``/...: names of layers; ``kept``: layer -> why it was left alone;
            ``nothing``: why the method found nothing to do, where that is so.
    """

    model: onnx.ModelProto
    report: dict[str, Any]


def find(name: str) -> Method:
    """The method of a name.

    Raises:
        UsageError: if there is none of this name.
    """
    if name not in METHODS:
        raise UsageError("a method of compression has a known name", repr(name), f"choose from {', '.join(METHODS)}")
    module, function, settings = METHODS[name]
    found: Method = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return partial(found, **settings)


def apply(
    name: str, core: onnx.ModelProto, calibration: Mapping[str, np.ndarray], settings: Mapping[str, Any]
) -> Treated:
    """What the method of a name makes of a model: a function that another process can be told to call."""
    return find(name)(core, calibration, **settings)
