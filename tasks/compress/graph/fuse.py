"""Folding that changes no answer: batch norms into convolutions, constants into constants, no-ops away."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from tasks.compress.graph import Treated
from tasks.compress.graph.compact import compact, forget_unused_domains
from tasks.compress.graph.nodes import opened
from tasks.compress.graph.rows import quiet

#: What onnxruntime appends to the name of a MatMul that it joins with the Add after it.
_GEMM = "/MatMulAddFusion"


def fuse(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray] | None = None) -> Treated:  # noqa: ARG001
    """The folded model, compact; ``calibration`` is not needed."""
    folded = fused(core)
    small = compact(folded)
    counts = [len(core.graph.node), len(folded.graph.node)]
    sizes = [core.ByteSize(), small.ByteSize()]
    report = {"nodes": counts, "bytes": sizes}
    if sizes[1] >= sizes[0] and counts[0] == counts[1]:
        return Treated(small, report | {"nothing": "no operator folds, and no byte is saved"})
    return Treated(small, report)


def fused(core: onnx.ModelProto) -> onnx.ModelProto:
    """The model after onnxruntime's basic optimisation, names kept; in ONNX's own operators or the model's.

    The basic level rewrites within standard ONNX. Should a version of onnxruntime leave an operator of its own all
    the same, the model stays unfolded: the file must load elsewhere, too.
    """
    model = opened(core)
    with tempfile.TemporaryDirectory() as folder, quiet():
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded: onnx.ModelProto = onnx.load(options.optimized_model_filepath)
    forget_unused_domains(folded)
    for node in folded.graph.node:
        node.name = node.name.removesuffix(_GEMM)
    domains = {item.domain for item in folded.opset_import} - {item.domain for item in model.opset_import}
    return opened(folded) if domains <= {"", "ai.onnx"} else model
