"""The application: routes as a list, the gate in front of them, errors in one shape."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request as HttpRequest
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rbee_worker.errors import WorkerError
from rbee_worker.server.auth import IGNORED, Gate, cors_origins
from rbee_worker.server.page_files import page_routes
from rbee_worker.server.problems import on_http_exception, on_worker_error
from rbee_worker.server.routes import OPERATIONS, Endpoint
from rbee_worker.server.worker import Worker

EXPOSED = ["X-Correlation-ID", "Retry-After", IGNORED, "Deprecation"]


def build_app(worker: Worker, token: str) -> ASGIApp:
    """The ASGI application that serves `worker`. token: "" in local mode."""
    page = page_routes()
    router = Router([*_routes(), *page], redirect_slashes=False)
    inner = ExceptionMiddleware(
        router, {WorkerError: on_worker_error, HTTPException: on_http_exception}
    )
    public = {route.path for route in page} | {"/health"}
    gate = Gate(inner, worker, token, public)
    origins = cors_origins(worker.settings)
    if not origins:
        return gate
    return CORSMiddleware(
        gate,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-Correlation-ID"],
        expose_headers=EXPOSED,
    )


def _routes() -> list[Route]:
    """One route for each path, so that 405 names every method it has."""
    by_path: dict[str, dict[str, Endpoint]] = {}
    for op in OPERATIONS:
        by_path.setdefault(op.path, {})[op.method] = op.endpoint
    return [Route(path, _by_method(ends), methods=list(ends)) for path, ends in by_path.items()]


def _by_method(endpoints: dict[str, Endpoint]) -> Endpoint:
    async def endpoint(http: HttpRequest) -> ASGIApp:
        method = "GET" if http.method == "HEAD" else http.method
        return await endpoints[method](http)

    return endpoint
