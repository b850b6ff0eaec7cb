"""The gateway: `create_app` puts the rooms together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from service import problems
from service.edge import Edge
from service.gateway import Gateway
from service.places import check_roots
from service.routes import health, jobs, releases, results, slides, uploads
from xmag.config import Settings
from xmag.errors import Code, XmagError

TITLE = "XMAG service"
DESCRIPTION = """Reads whole-slide images and returns predictions with heatmaps.

Send `Authorization: Bearer <key>`. Each operation names the scope it needs (`x-scope`). Errors are problem
details (RFC 9457) with a `code` of a closed set, explained in docs/errors.md."""

ROUTERS = (
    jobs.router,
    results.router,
    uploads.router,
    slides.router,
    releases.router,
    health.router,
)


def create_app(settings: Settings) -> FastAPI:
    """The app for one process. Raises PlaceError SETUP; touches neither database nor files."""
    check_roots(settings)
    app = FastAPI(
        title=TITLE,
        description=DESCRIPTION,
        version=_version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.gateway = gateway = Gateway(settings)
    app.add_middleware(Edge, metrics=gateway.metrics)
    app.add_exception_handler(XmagError, problems.on_xmag_error)
    app.add_exception_handler(RequestValidationError, problems.on_validation_error)
    app.add_exception_handler(HTTPException, problems.on_http_error)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    return app


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with the key's scheme and the one shape of all errors."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        parts = document["components"]
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        parts["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
        for operations in document["paths"].values():
            for operation in operations.values():
                _secure(operation)
        app.openapi_schema = document
    return app.openapi_schema


def _secure(operation: dict[str, Any]) -> None:
    """Name the key where one is needed, and let problems stand for the framework's own 422."""
    if operation["x-scope"] != "open":
        operation["security"] = [{"key": []}]
    if "requestBody" in operation:
        operation["responses"] |= {"400": problems.example(Code.INVALID_REQUEST, 400, "Unreadable")}
    refused = operation["responses"].get("422", {}).get("content", {})
    if "application/json" in refused:
        del refused["application/json"]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        app.state.gateway.close()


def _version() -> str:
    try:
        return version("xmag-service")
    except PackageNotFoundError:
        return "0"
