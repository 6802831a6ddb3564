"""The session that all of them share, and the protocol's JSON as arrays."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime

DTYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
          "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}  # fmt: skip


def session() -> onnxruntime.InferenceSession:
    """The bundle's file, with one thread, as Assay's server opens it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])


def arrays(inputs: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The inputs of a request as the graph takes them."""
    return {i["name"]: np.array(i["data"], DTYPES[i["datatype"]]).reshape(i["shape"]) for i in inputs}
