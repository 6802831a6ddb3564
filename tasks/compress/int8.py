"""int8 by static quantization of the exported network: QDQ, per channel, activations QUInt8, weights QInt8."""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tasks.core import devices

_BATCH = 256
_OPSET = 13
#: onnxruntime's severities.
_WARNING, _ERROR = 2, 3
#: Where the weights are. Quantizing the cheap operators between them only adds conversions.
_OPERATORS = ["MatMul", "Gemm", "Conv", "Gather"]
#: Below this many weights the conversions around an operator cost more than its int8 kernel saves.
_LEAST_WEIGHTS = 1024


def quantize(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Quantize an exported network with calibration rows from train.

    Weights use 7 bits on processors without VNNI, where the 8-bit product of U8 and S8 can saturate.

    Args:
        core: float network, inputs as the keys of ``calibration``.
        calibration: encoded rows, each array [rows, ...].
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            count = len(next(iter(calibration.values())))
            self._starts = iter(range(0, count, _BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._starts, None)
            if start is None:
                return None
            return {name: array[start : start + _BATCH] for name, array in calibration.items()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        plain, prepared, result = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "result"))
        onnx.save(_recent(core), plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            result,
            Rows(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not devices.has_vnni(),
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_left_in_float(onnx.load(prepared)),
            extra_options=_options(core),
        )
        model: onnx.ModelProto = onnx.load(result)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return core  # nothing in it is worth it (trees, for example): no smaller file may bear the name int8
    _forget_unused_domains(model)
    return model


def _options(core: onnx.ModelProto) -> dict[str, Any]:
    """Scores that are sorted stay float: 256 levels would tie, and an order of ties is no ranking."""
    ranks = any(node.op_type == "TopK" for node in core.graph.node)
    return {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]} if ranks else {}


def _recent(core: onnx.ModelProto) -> onnx.ModelProto:
    """The model in an opset that can scale each channel of a weight by itself."""
    version = next((item.version for item in core.opset_import if item.domain in ("", "ai.onnx")), _OPSET)
    return core if version >= _OPSET else onnx.version_converter.convert_version(core, _OPSET)


def _forget_unused_domains(model: onnx.ModelProto) -> None:
    """onnxruntime writes every domain that it knows into a model that it has prepared."""
    used = {node.domain for nodes in (model.graph, *model.functions) for node in nodes.node} | {"", "ai.onnx"}
    kept = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer talks through the root logger, about models that it did not prepare itself."""
    import onnxruntime

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(_ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        root.setLevel(before)


def _left_in_float(model: onnx.ModelProto) -> list[str]:
    """Operators not worth it (few weights), and MatMuls of batched weights, which lack a per-channel kernel."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    excluded = []
    for node in model.graph.node:
        weights = [shapes[name] for name in node.input if name in shapes]
        small = max((math.prod(shape) for shape in weights), default=0) < _LEAST_WEIGHTS
        batched = node.op_type == "MatMul" and any(len(shape) > 2 for shape in weights)
        if node.op_type in _OPERATORS and (small or batched):
            excluded.append(node.name)
    return excluded
