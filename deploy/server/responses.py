"""Answers into bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from deploy.server.requests import Request
from deploy.server.tensors import to_bytes, to_json

JSON = (b"content-type", b"application/json")
_BINARY = (b"content-type", b"application/octet-stream")

Headers = list[tuple[bytes, bytes]]


def infer(
    request: Request, outputs: dict[str, np.ndarray], datatypes: dict[str, str], head: dict[str, Any]
) -> tuple[bytes, Headers]:
    """Body and headers of a response of the Open Inference Protocol.

    Args:
        request: says which outputs are wanted as bytes, and its id.
        outputs: name -> array [rows, ...].
        datatypes: of the outputs.
        head: ``model_name`` and ``model_version``.
    """
    message = _named(head, request)
    entries, binary = [], []
    for name, array in outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": array.shape}
        if request.outputs[name]:
            data = to_bytes(array)
            binary.append(data)
            entry["parameters"] = {"binary_data_size": len(data)}
        else:
            entry["data"] = to_json(array)
        entries.append(entry)
    body = dumps(message | {"outputs": entries})
    if not binary:
        return body, [JSON]
    length = (b"inference-header-content-length", str(len(body)).encode())
    return b"".join((body, *binary)), [_BINARY, length]


def columns(request: Request, outputs: dict[str, np.ndarray], head: dict[str, Any]) -> tuple[bytes, Headers]:
    """Body and headers of ``{"columns": {output: [value, ...]}}``; a row of several values is a list."""
    plain = {name: array[:, 0] if array.shape[1:] == (1,) else array for name, array in outputs.items()}
    given = {
        name: array.tolist() if array.dtype.hasobject else np.ascontiguousarray(array) for name, array in plain.items()
    }
    return dumps(_named(head, request) | {"columns": given}), [JSON]


def _named(head: dict[str, Any], request: Request) -> dict[str, Any]:
    return head if request.id is None else head | {"id": request.id}


def dumps(message: Any) -> bytes:
    """JSON; NaN and infinity are ``null``."""
    return orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
