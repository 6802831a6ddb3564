"""The OpenAPI document: FastAPI's own part, and the two routes that predict, with the model's signature as schemas."""

from __future__ import annotations

import math
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deploy.server.lineup import Loaded
from deploy.signature import Signature, Tensor

_TEXT = {"type": "string"}
ERROR: dict[str, Any] = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": dict.fromkeys(("error", "expected", "found", "way_out"), _TEXT),
}
_REFUSALS = {
    400: "The request does not fit the model's signature",
    401: "No accepted token",
    404: "No such model or version",
    408: "The body did not arrive in time",
    413: "Too many bytes or rows",
    415: "A body of another type",
    429: "Too many requests at once",
    503: "The answer took too long",
}
_VALUES: dict[str, dict[str, Any]] = {
    "BOOL": {"type": "boolean"},
    "UINT8": {"type": "integer", "minimum": 0, "maximum": 255},
    "INT8": {"type": "integer", "minimum": -128, "maximum": 127},
    "INT32": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "INT64": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    "FP16": {"type": ["number", "null"]},
    "FP32": {"type": ["number", "null"]},
    "FP64": {"type": ["number", "null"]},
    "BYTES": {"type": ["string", "null"]},
}


def document(app: FastAPI, model: str, loaded: Loaded) -> dict[str, Any]:
    """The whole document, with the current version's signature."""
    signature = loaded.current.signature
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR_SCHEMA
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    whole["security"] = [{"token": []}, {}]
    for operations in whole["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own way to say 400, which no route of these has
    routes = {
        "infer": (_content(_infer(signature), _one_row(signature)), _inferred(signature)),
        "rows": (_content(_rows(signature), _one_row_of_columns(signature)), {"type": "object"}),
    }
    for route, (asked, told) in routes.items():
        whole["paths"][f"/v2/models/{{name}}/{route}"] = {"post": _operation(route, asked, told, {"name": [model]})}
        both = {"name": [model], "version": [one.name for one in loaded.both]}
        path = f"/v2/models/{{name}}/versions/{{version}}/{route}"
        whole["paths"][path] = {"post": _operation(f"version_{route}", asked, told, both)}
    return whole


def _operation(name: str, asked: Any, told: Any, parameters: dict[str, list[str]]) -> dict[str, Any]:
    refusals = {str(code): {"description": text, **ERROR} for code, text in _REFUSALS.items()}
    return {
        "operationId": name,
        "parameters": [
            {"name": key, "in": "path", "required": True, "schema": {"enum": values}}
            for key, values in parameters.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": asked}},
        "responses": {
            "200": {"description": "Answered", "content": {"application/json": {"schema": told}}},
            **refusals,
        },
    }


def _content(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"schema": schema, "example": example}


def _one_row(signature: Signature) -> dict[str, Any]:
    """A request that the model answers."""

    def entry(tensor: Tensor) -> dict[str, Any]:
        shape = [1, *(1 if size == -1 else size for size in tensor.shape[1:])]
        values = [_likely(tensor)] * math.prod(shape)
        return {"name": tensor.name, "datatype": tensor.datatype, "shape": shape, "data": values}

    return {"id": "example", "inputs": [entry(tensor) for tensor in signature.inputs]}


def _one_row_of_columns(signature: Signature) -> dict[str, Any]:
    def column(tensor: Tensor) -> list[Any]:
        value: Any = _likely(tensor)
        for size in reversed(tensor.shape[1:] if not tensor.is_column else ()):
            value = [value] * (1 if size == -1 else size)
        return [value]

    return {"columns": {tensor.name: column(tensor) for tensor in signature.inputs}}


def _likely(tensor: Tensor) -> Any:
    if tensor.datatype in ("BOOL", "BYTES"):
        return "" if tensor.datatype == "BYTES" else False
    return tensor.range[0] if tensor.range is not None and tensor.datatype.startswith("FP") else 0


def _infer(signature: Signature) -> dict[str, Any]:
    names = [tensor.name for tensor in signature.outputs]
    output = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    properties = {"id": _TEXT, "parameters": {"type": "object"}, "outputs": {"type": "array", "items": output}}
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {"inputs": _tensors(signature.inputs), **properties},
    }


def _inferred(signature: Signature) -> dict[str, Any]:
    names = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT}
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {**names, "outputs": _tensors(signature.outputs, least=1)},
    }


def _tensors(tensors: tuple[Tensor, ...], least: int | None = None) -> dict[str, Any]:
    least = len(tensors) if least is None else least
    return {
        "type": "array",
        "minItems": least,
        "maxItems": len(tensors),
        "items": {"anyOf": [_tensor(t) for t in tensors]},
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    axes, size = len(tensor.shape), {"type": "integer", "minimum": 0}
    properties = {
        "name": {"const": tensor.name},
        "datatype": {"const": tensor.datatype},
        "shape": {"type": "array", "items": size, "minItems": axes, "maxItems": axes},
        "data": {"type": "array", "items": _VALUES[tensor.datatype]},
        "parameters": {"type": "object"},
    }
    return {"type": "object", "required": ["name", "datatype", "shape"], "properties": properties}


def _rows(signature: Signature) -> dict[str, Any]:
    def column(tensor: Tensor) -> dict[str, Any]:
        return {"type": "array", "items": _VALUES[tensor.datatype] if tensor.is_column and not tensor.format else {}}

    names = [tensor.name for tensor in signature.inputs]
    columns = {"type": "object", "required": names, "properties": {t.name: column(t) for t in signature.inputs}}
    return {"type": "object", "required": ["columns"], "properties": {"id": _TEXT, "columns": columns}}
