"""The OpenAPI document: FastAPI's own part, and the two routes that predict, with the model's signature as schemas."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from deploy.signature import Signature, Tensor

_TEXT = {"type": "string"}
ERROR: dict[str, Any] = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {name: _TEXT for name in ("error", "expected", "found", "way_out")},
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
    **dict.fromkeys(("FP16", "FP32", "FP64"), {"type": ["number", "null"]}),
    "BYTES": {"type": ["string", "null"]},
}


def document(app: FastAPI, model: str, signature: Signature) -> dict[str, Any]:
    """The whole document, for the current version's signature."""
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components = whole.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR_SCHEMA
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    whole["security"] = [{"token": []}, {}]
    for operations in whole["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own way to say 400, which no route of these has
    routes = {"infer": (_infer(signature), _inferred(signature)), "rows": (_rows(signature), {"type": "object"})}
    for route, (asked, told) in routes.items():
        whole["paths"][f"/v2/models/{{name}}/{route}"] = {"post": _operation(route, asked, told, {"name": model})}
        both = {"name": model, "version": None}
        path = f"/v2/models/{{name}}/versions/{{version}}/{route}"
        whole["paths"][path] = {"post": _operation(f"version_{route}", asked, told, both)}
    return whole


def _operation(name: str, asked: Any, told: Any, parameters: dict[str, str | None]) -> dict[str, Any]:
    refusals = {str(code): {"description": text, **ERROR} for code, text in _REFUSALS.items()}
    return {
        "operationId": name,
        "parameters": [
            {"name": key, "in": "path", "required": True, "schema": _TEXT if value is None else {"enum": [value]}}
            for key, value in parameters.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": asked}}},
        "responses": {"200": {"description": "Answered", "content": {"application/json": {"schema": told}}}, **refusals},
    }


def _infer(signature: Signature) -> dict[str, Any]:
    names = [tensor.name for tensor in signature.outputs]
    output = {"type": "object", "required": ["name"], "properties": {"name": {"enum": names}}}
    properties = {"id": _TEXT, "parameters": {"type": "object"}, "outputs": {"type": "array", "items": output}}
    return {"type": "object", "required": ["inputs"], "properties": {"inputs": _tensors(signature.inputs), **properties}}


def _inferred(signature: Signature) -> dict[str, Any]:
    names = {"model_name": _TEXT, "model_version": _TEXT, "id": _TEXT}
    return {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {**names, "outputs": _tensors(signature.outputs, least=1)},
    }


def _tensors(tensors: tuple[Tensor, ...], least: int | None = None) -> dict[str, Any]:
    least = len(tensors) if least is None else least
    return {"type": "array", "minItems": least, "maxItems": len(tensors), "items": {"anyOf": [_tensor(t) for t in tensors]}}


def _tensor(tensor: Tensor) -> dict[str, Any]:
    sizes = [{"type": "integer", "minimum": 0} if size == -1 else {"const": size} for size in tensor.shape]
    properties = {
        "name": {"const": tensor.name},
        "datatype": {"const": tensor.datatype},
        "shape": {"type": "array", "prefixItems": sizes, "minItems": len(sizes), "maxItems": len(sizes)},
        "data": {"type": "array", "items": _VALUES[tensor.datatype]},
        "parameters": {"type": "object"},
    }
    return {"type": "object", "required": ["name", "datatype", "shape"], "properties": properties}


def _rows(signature: Signature) -> dict[str, Any]:
    def column(tensor: Tensor) -> dict[str, Any]:
        return {"type": "array", "items": _VALUES[tensor.datatype] if tensor.is_column and not tensor.format else {}}

    names = [tensor.name for tensor in signature.inputs]
    columns = {"type": "object", "required": names, "properties": {t.name: column(t) for t in signature.inputs}}
    return {"type": "object", "required": ["columns"], "properties": {"columns": columns}}
