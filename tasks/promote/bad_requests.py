"""Requests that a server must refuse as the client's mistake: made from a good one, one mistake each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_JSON: Mapping[str, str] = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """A request, named after its mistake."""

    name: str
    method: str
    path: str
    body: bytes
    headers: Mapping[str, str]


def suite(model: str, good: Mapping[str, Any]) -> Iterator[Bad]:
    """All mistakes.

    Args:
        model: name of the model in the paths.
        good: a request that the server answers, as JSON values.
    """
    path = f"/v2/models/{model}/infer"
    for name, body in _no_requests():
        yield Bad(name, "POST", path, body, _JSON)
    for name, change in _MISTAKES.items():
        wrong = copy.deepcopy(dict(good))
        change(wrong)
        yield Bad(name, "POST", path, json.dumps(wrong).encode(), _JSON)
    body = json.dumps(good).encode()
    yield Bad("another method", "DELETE", path, b"", {})
    yield Bad("a model that is not there", "POST", f"/v2/models/{model}-not-there/infer", body, _JSON)
    yield Bad("a version that is not there", "POST", f"/v2/models/{model}/versions/0-none/infer", body, _JSON)
    yield Bad("a path that climbs", "POST", f"/v2/models/{model}/../../infer", body, _JSON)
    for name, value in (("a JSON length that is no number", "many"), ("a JSON length beyond the body", "99999999")):
        yield Bad(name, "POST", path, body, {**_JSON, "Inference-Header-Content-Length": value})


def _no_requests() -> Iterator[tuple[str, bytes]]:
    yield "no body", b""
    yield "no JSON", b"\x00\xff not json"
    yield "cut JSON", b'{"inputs": [{"name": '
    yield "a list", b"[]"
    yield "a number", b"7"
    yield "null", b"null"
    yield "an empty object", b"{}"
    yield "deep nesting", b"[" * 50_000
    yield "deep objects", b'{"inputs":' * 20_000
    yield "a pickle", b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x04evil\x94."


def _first(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """The change of the first input."""

    def whole(request: dict[str, Any]) -> None:
        change(request["inputs"][0])

    return whole


def _set(**values: Any) -> Callable[[dict[str, Any]], None]:
    return _first(lambda tensor: tensor.update(values))


_MISTAKES: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "no inputs": lambda request: request.update(inputs=[]),
    "inputs that are text": lambda request: request.update(inputs="all of them"),
    "inputs that are numbers": lambda request: request.update(inputs=[1, 2]),
    "an input left out": lambda request: request["inputs"].pop(),
    "an input twice": lambda request: request["inputs"].append(request["inputs"][0]),
    "an output that is not there": lambda request: request.update(outputs=[{"name": "not there"}]),
    "outputs that are text": lambda request: request.update(outputs="all of them"),
    "an unknown name": _set(name="not_there"),
    "a name that is a number": _set(name=7),
    "no shape": _first(lambda tensor: tensor.pop("shape")),
    "no data": _first(lambda tensor: tensor.pop("data")),
    "an unknown datatype": _set(datatype="COMPLEX64"),
    "a datatype that is a list": _set(datatype=[]),
    "a shape that is text": _set(shape="all"),
    "a shape of fractions": _set(shape=[1.5, 1]),
    "a negative shape": _set(shape=[-1, 1]),
    "a shape beyond memory": _set(shape=[2**40, 2**40]),
    "a shape of another length": _set(shape=[1, 1, 1, 1, 1, 1]),
    "data that is an object": _set(data={"a": 1}),
    "data that is text": _set(data="all of it"),
    "data of objects": _first(lambda tensor: tensor.update(data=[{} for _ in tensor["data"]])),
    "too little data": _first(lambda tensor: tensor.update(data=tensor["data"][:-1])),
    "too much data": _first(lambda tensor: tensor.update(data=tensor["data"] * 2 + tensor["data"][:1])),
    "ragged data": _first(lambda tensor: tensor.update(data=[[*tensor["data"]], []])),
    "bytes that are not there": _first(lambda tensor: tensor.update(parameters={"binary_data_size": 64}, data=None)),
    "a negative size of bytes": _set(parameters={"binary_data_size": -8}),
}
