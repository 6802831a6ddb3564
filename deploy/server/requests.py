"""Bodies of requests into tensors. Everything that is wrong with one is told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from deploy.errors import DataRejected
from deploy.server.refusal import bad_request, too_large
from deploy.server.settings import Limits
from deploy.server.tensors import from_bytes, from_json
from deploy.signature import Signature, Tensor

_INFER = "a request is an object with `inputs`, a list of objects with name, shape, datatype and data"
_COLUMNS = "a request is an object with `columns`, an object of one list a column"
#: A text, or the word that clients (NVIDIA's among them) write for a missing number, though JSON has none.
_NAN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|NaN', re.DOTALL)


@dataclass(frozen=True)
class Request:
    """What a model is asked.

    Attributes:
        id: the client's own name of it, given back.
        tensors: name -> array [rows, ...] of the graph's own datatype.
        rows: their common length.
        outputs: wanted output -> whether as bytes.
    """

    id: str | None
    tensors: dict[str, np.ndarray]
    rows: int
    outputs: dict[str, bool]


def infer(body: bytes, json_length: int | None, signature: Signature, limits: Limits) -> Request:
    """Parse a request of the Open Inference Protocol.

    Args:
        body: JSON, and after it the inputs that come as bytes.
        json_length: bytes of the JSON; None for all of them.
        signature: what the model takes and gives.
        limits: of the rows.

    Raises:
        Refusal: 400 naming everything that is wrong, 413 for too many rows.
    """
    head, rest = _cut(body, json_length)
    raw = _object(head, _INFER)
    problems: list[str] = []
    name, parameters, entries = raw.get("id"), raw.get("parameters") or {}, raw.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise bad_request(_INFER, "`inputs` is absent, or no list of objects", _takes(signature))
    if not isinstance(parameters, dict) or not (name is None or isinstance(name, str)):
        raise bad_request(_INFER, "`parameters` that is no object, or an `id` that is no text")
    tensors = _inputs(entries, rest, signature, limits, problems)
    outputs = _outputs(raw.get("outputs") or [], bool(parameters.get("binary_data_output")), signature, problems)
    _raise_all(problems, signature)
    return Request(name, tensors, _rows(tensors, problems, signature), outputs)


def columns(body: bytes, signature: Signature, limits: Limits) -> Request:
    """Parse ``{"columns": {name: [value, ...], ...}}``; values are as :meth:`deploy.signature.Signature.tensors` takes
    them: numbers, texts, booleans, moments in ISO 8601, ``null`` for missing. Columns of other names are ignored.
    An ``id``, a text, may stand beside them.

    Raises:
        Refusal: 400 naming everything that is wrong, 413 for too many rows.
    """
    raw = _object(body, _COLUMNS)
    name, given = raw.get("id"), raw.get("columns")
    if not isinstance(given, dict) or not all(isinstance(values, list) for values in given.values()):
        raise bad_request(_COLUMNS, "`columns` is absent, or no object of lists", _takes(signature))
    if not (name is None or isinstance(name, str)):
        raise bad_request(_COLUMNS, "an `id` that is no text")
    longest = max(map(len, given.values()), default=0)
    if longest > limits.rows:
        raise _too_many(longest, limits)
    try:
        tensors = signature.tensors(given)
    except DataRejected as error:
        raise bad_request(error.rule, error.found, error.way_out) from None
    problems = [f"{name}: no axis may be empty" for name, array in tensors.items() if 0 in array.shape[1:]]
    _raise_all(problems, signature)
    return Request(name, tensors, longest, dict.fromkeys((tensor.name for tensor in signature.outputs), False))


def _cut(body: bytes, json_length: int | None) -> tuple[bytes | memoryview, memoryview]:
    view = memoryview(body)
    if json_length is None:
        return body, view[len(body) :]
    if not 0 <= json_length <= len(body):
        rule = "Inference-Header-Content-Length is the number of bytes of the JSON before the binary data"
        raise bad_request(rule, f"{json_length} of {len(body)} bytes")
    return view[:json_length], view[json_length:]


def _object(body: bytes | memoryview, rule: str) -> dict[str, Any]:
    try:
        plain = bytes(body)
        raw = orjson.loads(_NAN.sub(_null, plain) if b"NaN" in plain else plain)
    except orjson.JSONDecodeError as error:
        way_out = "send JSON in UTF-8; Infinity is none, and null is a missing value"
        raise bad_request(rule, f"no JSON: {error}", way_out) from None
    if not isinstance(raw, dict):
        raise bad_request(rule, f"JSON of type {type(raw).__name__}")
    return raw


def _null(found: re.Match[bytes]) -> bytes:
    return b"null" if found[0] == b"NaN" else found[0]


def _inputs(
    entries: list[dict[str, Any]], rest: memoryview, signature: Signature, limits: Limits, problems: list[str]
) -> dict[str, np.ndarray]:
    known = signature.input_by_name
    tensors: dict[str, np.ndarray] = {}
    for entry in entries:
        name = entry.get("name")
        tensor = known.get(name) if isinstance(name, str) else None
        if tensor is None or name in tensors:
            problems.append(f"{name!r}: {'no input of this model' if tensor is None else 'given twice'}")
            continue
        try:
            shape = _shape(entry, tensor, limits)
            data, rest = _binary(entry, rest)
            tensors[tensor.name] = (
                from_json(entry.get("data"), shape, tensor) if data is None else from_bytes(data, shape, tensor)
            )
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if not problems and len(tensors) < len(known):
        problems += [f"{name}: not given" for name in known if name not in tensors]
    if not problems and len(rest):
        problems.append(f"{len(rest)} bytes after the JSON belong to no input")
    return tensors


def _shape(entry: Mapping[str, Any], tensor: Tensor, limits: Limits) -> tuple[int, ...]:
    shape = entry.get("shape")
    if entry.get("datatype") != tensor.datatype:
        raise ValueError(f"datatype {tensor.datatype} expected, got {entry.get('datatype')!r}")
    if type(shape) is not list or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"shape must be a list of sizes, got {shape!r}")
    wanted = tensor.shape
    fits = len(shape) == len(wanted) and all(
        found == size or (size == -1 and found > 0) for size, found in zip(wanted[1:], shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(f"shape {_shown(tensor)} expected, got {shape}")
    if shape[0] > limits.rows:
        raise _too_many(shape[0], limits)
    return tuple(shape)


def _binary(entry: Mapping[str, Any], rest: memoryview) -> tuple[memoryview | None, memoryview]:
    """The bytes of an input, None if it comes as JSON; and what is left for the others."""
    parameters = entry.get("parameters")
    if not parameters:
        return None, rest
    if not isinstance(parameters, dict):
        raise ValueError("parameters must be an object")
    if "shared_memory_region" in parameters:
        raise ValueError("shared memory is not supported: send the data")
    size = parameters.get("binary_data_size")
    if size is None:
        return None, rest
    if type(size) is not int or size < 0 or "data" in entry:
        raise ValueError("binary_data_size must be a number of bytes, and there must be no data beside it")
    if size > len(rest):
        raise ValueError(
            f"{size} bytes expected after the JSON, got {len(rest)} (the header Inference-Header-Content-Length says "
            "where the JSON ends)"
        )
    return rest[:size], rest[size:]


def _outputs(entries: Any, binary: bool, signature: Signature, problems: list[str]) -> dict[str, bool]:
    if not entries:
        return dict.fromkeys((tensor.name for tensor in signature.outputs), binary)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        problems.append("`outputs` must be a list of objects")
        return {}
    known = {tensor.name for tensor in signature.outputs}
    wanted: dict[str, bool] = {}
    for entry in entries:
        name, parameters = entry.get("name"), entry.get("parameters") or {}
        if not isinstance(name, str) or name not in known or name in wanted:
            problems.append(f"output {name!r}: asked for twice, or none of {', '.join(sorted(known))}")
        elif not isinstance(parameters, dict) or parameters.keys() & {"classification", "shared_memory_region"}:
            problems.append(f"output {name}: only the parameter binary_data is supported")
        else:
            wanted[name] = bool(parameters.get("binary_data", binary))
    return wanted


def _rows(tensors: dict[str, np.ndarray], problems: list[str], signature: Signature) -> int:
    lengths = {len(array) for array in tensors.values()}
    if len(lengths) > 1:
        problems.append(f"inputs have different numbers of rows: {sorted(lengths)}")
        _raise_all(problems, signature)
    return lengths.pop()


def _raise_all(problems: list[str], signature: Signature) -> None:
    if problems:
        rule = "inputs and outputs must be those of the model's signature"
        raise bad_request(rule, "; ".join(problems), _takes(signature))


def _takes(signature: Signature) -> str:
    return "this model takes " + ", ".join(f"{t.name} ({t.datatype} {_shown(t)})" for t in signature.inputs)


def _shown(tensor: Tensor) -> str:
    """The shape in words: ``[rows, 28, 28]``."""
    return f"[{', '.join(['rows', *('any' if size == -1 else str(size) for size in tensor.shape[1:])])}]"


def _too_many(rows: int, limits: Limits) -> Exception:
    return too_large(f"a request has at most {limits.rows} rows", str(rows), "send several requests")
