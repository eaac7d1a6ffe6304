"""The OpenAPI document, generated from the route table, the structs and the parameter table.

msgspec makes the JSON schemas. A request's schema is its envelope plus one field for every sampling
parameter of its surface, with the range that `resolve` enforces.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rbee_worker import wire
from rbee_worker.params import Parameter, names
from rbee_worker.server.error_forms import problem_type
from rbee_worker.server.examples import EVENTS, EXAMPLES
from rbee_worker.server.headers import IDEMPOTENCY, RESUME
from rbee_worker.server.health import Progress
from rbee_worker.server.openai.schemas import (
    ChatChunk,
    Completion,
)
from rbee_worker.server.operation import Operation
from rbee_worker.server.routes import OPERATIONS
from rbee_worker.server.worker import Worker

REF = "#/components/schemas/{name}"
EVERYWHERE = (400, 401, 403, 405, 415, 431)  # statuses of the gate and the parser, on any route
WORDS = {
    200: "Success",
    400: "A field is wrong; all are listed",
    401: "The token is missing or wrong",
    403: "Local mode: a foreign Host or Origin",
    404: "There is no such thing",
    405: "The path has no such method",
    408: "The body came too slowly",
    409: "The Idempotency-Key was given with another body",
    413: "The body is too large",
    415: "Local mode: the body is not application/json",
    429: "The queue is full",
    431: "Too many headers",
    500: "This request failed",
    503: "Not ready: loading, restarting, stalled, draining or failed",
    507: "Out of memory for this request",
}
# What is named in a route's path -> an example.
IN_PATHS = {
    "job_id": "job-1f0c2d",
    "slot": "0",
    "digest": "sha256:1f0c2d",
    "response_id": "resp_1f0c2d",
    "model": "smollm2",
    "name": "my-adapter",
}
HEADERS: dict[str, tuple[str, dict[str, Any], str]] = {  # name, schema, example
    RESUME: ("Last-Event-ID", {"type": "string", "pattern": "^[0-9]{1,9}$"}, "12"),
    IDEMPOTENCY: ("Idempotency-Key", {"type": "string", "pattern": "^[!-~]{1,255}$"}, "order-7"),
}
STREAMS = {
    "/v1/loading/progress": Progress,
    "/v1/completions": Completion,
    "/v1/chat/completions": ChatChunk,
    "/v1/audio/speech": dict[str, Any],
    "/v1/messages": dict[str, Any],
    "/v1/responses": dict[str, Any],
    "/completion": dict[str, Any],
    "/infill": dict[str, Any],
}


def document(worker: Worker) -> dict[str, Any]:
    """The whole document for this worker."""
    kinds = _kinds(worker.settings.lenient)
    schemas, components = msgspec.json.schema_components(list(kinds.values()), ref_template=REF)
    by_name = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for op in OPERATIONS:
        path = op.path.replace(":path", "")
        paths.setdefault(path, {})[op.method.lower()] = _operation(op, by_name)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rbee-worker",
            "version": worker.version,
            "summary": "One language model: jobs, streams, and OpenAI's routes.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [] if worker.settings.local_mode else [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _kinds(lenient: bool) -> dict[str, Any]:
    """Every type that the document uses, by a key of our own."""
    kinds: dict[str, Any] = {"event": wire.JobEvent}
    kinds |= {f"problem {op.path}": problem_type(op.path) for op in OPERATIONS}
    for path, kind in STREAMS.items():
        kinds[f"stream {path}"] = kind
    for op in OPERATIONS:
        if op.body is not None:
            kinds[f"body {op.method} {op.path}"] = request_type(op, lenient)
        if op.answer not in (None, dict):
            kinds[f"answer {op.method} {op.path}"] = op.answer
    return kinds


def request_type(op: Operation, lenient: bool = False) -> type:
    """The struct of a request body: the envelope's fields, then the parameters'."""
    assert op.body is not None
    fields: list[Any] = [
        (f.name, f.type, f.default_factory() if f.default_factory is list else _default(f))
        for f in msgspec.structs.fields(op.body)
    ]
    taken = {f[0] for f in fields}
    if op.params is not None:
        fields += [
            (key, _type(parameter), None)
            for key, parameter in names(op.params).items()
            if parameter.role in ("sampling", "constraint", "inert") and key not in taken
        ]
    return msgspec.defstruct(
        op.path.strip("/").replace("/", "_").replace("-", "_") + "_request",
        [f if f[2] is not msgspec.NODEFAULT else f[:2] for f in fields],
        kw_only=True,
        forbid_unknown_fields=not lenient,
    )


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def _type(parameter: Parameter) -> Any:
    """A parameter's JSON type with its range; null always means the default."""
    words = parameter.meaning
    if parameter.aliases:
        words += f" (also: {', '.join(parameter.aliases)})"
    kind: Any = Any
    match parameter.kind:
        case "integer":
            kind = Annotated[int, Meta(**_bounds(parameter))] | None
        case "number":
            kind = Annotated[float, Meta(**_bounds(parameter))] | None
        case "boolean":
            kind = bool | None
        case "strings":
            text = Annotated[str, Meta(min_length=1, max_length=256)]
            kind = text | Annotated[list[text], Meta(max_length=16)] | None
        case "ids":
            kind = Annotated[list[int], Meta(max_length=16)] | None
        case "biases":
            bias = Annotated[float, Meta(ge=parameter.low, le=parameter.high)]
            token = Annotated[str, Meta(pattern="^[0-9]+$")]
            kind = dict[token, bias] | None
    return Annotated[kind, Meta(description=words)]


def _bounds(parameter: Parameter) -> dict[str, Any]:
    low, high = parameter.low, parameter.high
    bounds: dict[str, Any] = {}
    if low is not None:
        low = min([low, *(v for v in parameter.off if isinstance(v, int | float))])
        bounds["gt" if parameter.above else "ge"] = int(low) if low == int(low) else low
    if high is not None and high < 1 << 63:
        bounds["le"] = int(high) if high == int(high) else high
    return bounds


def _operation(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "tags": [op.tag],
        "summary": op.summary,
        "operationId": op.endpoint.__name__,
        "responses": _responses(op, schemas),
    }
    if op.deprecated:
        entry["deprecated"] = True
    if op.path in ("/health", "/v1/health"):
        entry["security"] = []
    parameters = _path_and_headers(op)
    if parameters:
        entry["parameters"] = parameters
    if op.body is not None:
        content: dict[str, Any] = {"schema": schemas[f"body {op.method} {op.path}"]}
        examples = EXAMPLES.get(op.same_as or op.path)
        if examples is not None:
            content["examples"] = {k: {"value": v} for k, v in examples.items()}
        entry["requestBody"] = {"required": True, "content": {"application/json": content}}
    return entry


def _path_and_headers(op: Operation) -> list[dict[str, Any]]:
    inside = re.findall(r"\{(\w+)(?::path)?\}", op.path)
    found = [_parameter("path", name, {"type": "string"}, IN_PATHS[name]) for name in inside]
    return found + [_parameter("header", *HEADERS[name]) for name in op.headers]


def _parameter(where: str, name: str, schema: dict[str, Any], example: str) -> dict[str, Any]:
    return {
        "in": where,
        "name": name,
        "required": where == "path",
        "schema": schema,
        "example": example,
    }


def _server_sent(shape: dict[str, Any]) -> dict[str, Any]:
    """One server-sent event whose data is JSON of `shape`, or the closing "[DONE]"."""
    text = {"type": "string"}
    event = {**text, "contentMediaType": "application/json", "contentSchema": shape}
    data = {"anyOf": [{"const": "[DONE]"}, event]}
    return {
        "type": "object",
        "properties": {"data": data, "id": text, "event": text},
        "required": ["data"],
    }


def _responses(op: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    answer = schemas.get(f"answer {op.method} {op.path}")
    if answer is not None or op.answer is dict:
        content["application/json"] = {"schema": answer or {"type": "object"}}
    elif not op.events:
        content[op.media] = {"schema": {"type": "string"}}
    for media in op.sounds:  # bytes: the media type says all
        content[media] = {"schema": {}}
    if op.lines:  # each line is one
        content["application/x-ndjson"] = {"schema": answer}
    if op.events:
        shape = schemas.get(f"stream {op.same_as or op.path}", schemas["event"])
        stream: dict[str, Any] = {"schema": _server_sent(shape)}
        if op.path.endswith("{job_id}/stream"):
            stream["example"] = EVENTS
        content["text/event-stream"] = stream
    responses: dict[str, Any] = {"200": {"description": WORDS[200], "content": content}}
    for status in sorted({*EVERYWHERE, *op.errors}):
        schema = schemas[f"problem {op.path}"]
        if op.path == "/v1/ready" and status == 503:
            schema = answer
        responses[str(status)] = {
            "description": WORDS[status],
            "content": {"application/json": {"schema": schema}},
        }
    return responses
