"""Health, metadata and metrics, with FastAPI; its OpenAPI tells of the predictions, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from deploy.server import metrics, openapi
from deploy.server.drift import Drift
from deploy.server.lineup import Lineup
from deploy.server.metrics import Metrics
from deploy.server.version import Version
from deploy.signature import Tensor

_PLATFORM = "onnxruntime_onnx"


@dataclass(frozen=True)
class Live:
    """The process answers."""

    live: bool


@dataclass(frozen=True)
class Ready:
    """The model answers."""

    ready: bool


@dataclass(frozen=True)
class Server:
    """What serves."""

    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True)
class TensorMetadata:
    """An input or output; ``parameters`` has what else the signature knows."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model; ``versions`` has the current one first, ``parameters`` says which one this is about."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


def pages(
    model: str, release: str, lineup: Lineup, counters: Metrics, drift: Drift, draining: Callable[[], bool]
) -> FastAPI:
    """The application behind the door.

    Args:
        model: its name.
        release: of the server.
        lineup: the loaded versions.
        counters: for ``/metrics``.
        drift: counts what it was given before ``/metrics`` tells.
        draining: whether the server is about to stop.
    """
    app = FastAPI(title=f"Assay: {model}", version=release, docs_url=None, redoc_url=None)
    app.add_exception_handler(AnyHTTPException, _error)
    app.openapi = lambda: openapi.document(app, model, lineup.loaded)  # type: ignore[method-assign]

    def named(name: str, version: str | None = None) -> Version:
        loaded = lineup.loaded
        found = loaded.current if version is None else loaded.named(version)
        if name != model or found is None:
            there = ", ".join(one.name for one in loaded.both)
            raise HTTPException(404, f"this server has the model {model} in the versions {there}")
        return found

    def described(version: Version) -> Model:
        facts = {"version": version.name, "digest": version.digest, "provider": version.provider}
        facts |= {} if version.target is None else {"target": version.target}
        signature, names = version.signature, [one.name for one in lineup.loaded.both]
        return Model(model, names, _PLATFORM, _described(signature.inputs), _described(signature.outputs), facts)

    missing: dict[int | str, dict[str, Any]] = {404: {"description": "No such model or version", **openapi.ERROR}}
    stopping: dict[int | str, dict[str, Any]] = {503: {"description": "The server is about to stop"}}

    @app.get("/v2/health/live")
    async def live() -> Live:
        return Live(True)

    @app.get("/v2/health/ready", responses=stopping)
    async def ready(response: Response) -> Ready:
        response.status_code = 503 if draining() else 200
        return Ready(not draining())

    @app.get("/v2")
    async def server() -> Server:
        return Server("assay", release, ["binary_tensor_data"])

    @app.get("/v2/models/{name}", responses=missing)
    async def model_metadata(name: str) -> Model:
        return described(named(name))

    @app.get("/v2/models/{name}/versions/{version}", responses=missing)
    async def version_metadata(name: str, version: str) -> Model:
        return described(named(name, version))

    @app.get("/v2/models/{name}/ready", responses=missing)
    async def model_ready(name: str) -> Ready:
        named(name)
        return Ready(True)

    @app.get("/v2/models/{name}/versions/{version}/ready", responses=missing)
    async def version_ready(name: str, version: str) -> Ready:
        named(name, version)
        return Ready(True)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        drift.count()
        return Response(counters.page(), media_type=metrics.CONTENT_TYPE)

    return app


def _described(tensors: tuple[Tensor, ...]) -> list[TensorMetadata]:
    def more(tensor: Tensor) -> dict[str, Any]:
        known = {
            "description": tensor.description,
            "range": tensor.range,
            "labels": tensor.labels,
            "format": tensor.format,
        }
        return {key: value for key, value in known.items() if value}

    return [TensorMetadata(one.name, one.datatype, list(one.shape), more(one)) for one in tensors]


async def _error(request: Request, error: Exception) -> Response:
    """Every error has the protocol's form."""
    assert isinstance(error, AnyHTTPException)  # noqa: S101 (it is registered for nothing else)
    said = error.detail
    if error.status_code == 404 and said == "Not Found":
        said = f"there is nothing at {request.url.path}; the models are under /v2/models/NAME"
    return JSONResponse({"error": said}, error.status_code, error.headers)
