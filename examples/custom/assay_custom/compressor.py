"""Half the size for next to no change: large weights are stored as float16 and computed with as float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

#: A smaller tensor saves less than the conversion costs.
_LEAST_VALUES = 256


def halve(core: onnx.ModelProto, calibration: Mapping[str, np.ndarray]) -> onnx.ModelProto:  # noqa: ARG001
    """`compress.methods: [fp16-weights]`; onnxruntime undoes the conversion once, when it loads the file.

    Args:
        core: the float network; it may be changed.
        calibration: inputs of training rows by name, for methods that need them.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    nodes = []
    for tensor in core.graph.initializer:
        values = numpy_helper.to_array(tensor)
        fits = values.dtype == np.float32 and np.abs(values).max(initial=0) <= np.finfo(np.float16).max
        if not fits or values.size < _LEAST_VALUES:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        nodes.append(helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/widen", to=TensorProto.FLOAT))
    rest = list(core.graph.node)
    del core.graph.node[:]
    core.graph.node.extend([*nodes, *rest])
    return core
