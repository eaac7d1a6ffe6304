"""The application: the list of routes, the gate in front of them, one form for all errors."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from rbee_worker.errors import MOST_FAULTS, FieldError, InvalidRequest, WorkerError
from rbee_worker.server.auth import IGNORED, UNREAD, WORKER, Gate, cors_origins
from rbee_worker.server.body import refuse_body
from rbee_worker.server.error_forms import ErrorForms
from rbee_worker.server.headers import has_body, without_effect
from rbee_worker.server.operation import Endpoint, Operation
from rbee_worker.server.page_files import page_routes
from rbee_worker.server.problems import (
    Refusal,
    answer,
    not_found,
    on_http_exception,
    on_worker_error,
)
from rbee_worker.server.routes import OPERATIONS
from rbee_worker.server.worker import Worker

EXPOSED = ["X-Correlation-ID", "Retry-After", IGNORED, "Deprecation", "Idempotent-Replayed"]


def build_app(worker: Worker) -> ASGIApp:
    """The ASGI application that serves `worker`."""
    page = page_routes()
    router = Router([*_routes(), *page], redirect_slashes=False)
    paths = sorted({op.path for op in OPERATIONS})
    inner = ExceptionMiddleware(
        router,
        {WorkerError: on_worker_error, HTTPException: on_http_exception, 404: not_found(paths)},
    )
    public = {route.path for route in page} | {"/health", "/v1/health"}
    gate = ErrorForms(Gate(inner, worker, public))
    origins = cors_origins(worker.settings)
    if not origins:
        return gate
    return Cors(
        gate,
        allow_origins=origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # clients send headers of their own, which have no effect here
        expose_headers=EXPOSED,
    )


class Cors(CORSMiddleware):
    """Starlette's CORS middleware, with errors in this server's form."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        kept = {k: v for k, v in response.headers.items() if not k.startswith("content-")}
        message = f"{bytes(response.body).decode()}."
        fix = "name the page's origin with --cors-origin; methods are GET, POST and DELETE."
        return answer(Refusal(400, "cors_refused", message, fix=fix, headers=kept))


def _routes() -> list[Route]:
    """One route per path, so that a 405 lists every method of the path."""
    by_path: dict[str, dict[str, Operation]] = {}
    for op in OPERATIONS:
        by_path.setdefault(op.path, {})[op.method] = op
    return [Route(path, _by_method(ops), methods=list(ops)) for path, ops in by_path.items()]


def _by_method(operations: dict[str, Operation]) -> Endpoint:
    async def endpoint(http: HttpRequest) -> ASGIApp:
        operation = operations["GET" if http.method == "HEAD" else http.method]
        if operation.body is None and has_body(http.headers):
            await refuse_body(http)
        _refuse_unread(http, operation)
        return await operation.endpoint(http)

    return endpoint


def _refuse_unread(http: HttpRequest, operation: Operation) -> None:
    """What would be dropped is refused, or named by --lenient: a query, which no route reads, and
    headers that ask for what this route does not do."""
    message = "is in the query, which no route reads; parameters belong in the JSON body"
    faults = [FieldError(n[:64], "absent", message) for n in dict.fromkeys(http.query_params)]
    meant = without_effect(http.headers, http.method, read=operation.headers, work=operation.works)
    faults += [FieldError(n, "absent", f"is a header without effect here; {i}") for n, i in meant]
    if faults and http.scope[WORKER].settings.lenient and len(faults) <= MOST_FAULTS:
        http.scope[UNREAD] = [fault.field for fault in faults]
    elif faults:
        raise InvalidRequest(faults)
