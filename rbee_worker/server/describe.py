"""The worker's descriptions of itself: /info, /metrics, and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response

from rbee_worker.config import Settings
from rbee_worker.model_info import ModelInfo, Purpose
from rbee_worker.params import defaults_of
from rbee_worker.params import describe as describe_parameters
from rbee_worker.params.parameter import SURFACES
from rbee_worker.server.health import Gpu, Memory, gpu_of, worker_info, worker_of
from rbee_worker.server.problems import json_response
from rbee_worker.server.served_models import served_models
from rbee_worker.server.worker import Worker
from rbee_worker.session.vectors import longest
from rbee_worker.types import EosToken

PROMISE = (
    "The same request with the same seed gives the same tokens: alone, in any batch, with or "
    "without cached prefix, after preemption, after a restart of the engine."
)
DETERMINISM = {"cpu": "bitwise", "reference": "bitwise", "cuda": "measured"}


class Limits(Struct, frozen=True, kw_only=True):
    prompt_characters: int
    body_bytes: int
    headers: int
    connections: int
    queue: int
    sequences: int
    request_timeout_s: int  # 0 = none
    jobs_kept: int
    jobs_kept_s: int
    pictures: int  # of one request
    picture_bytes: int
    picture_pixels: int
    stop_strings: int = 16
    stop_characters: int = 256


class Determinism(Struct, frozen=True):
    kind: str  # "bitwise", or "measured" if the hardware's arithmetic is not reproducible
    promise: str = PROMISE


class Info(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """WorkerInfo and capabilities; what only the loaded model can tell is absent until it is
    ready."""

    id: str
    model_id: str
    device: str
    port: int
    status: str
    implementation: str
    version: str
    state: str
    operations: tuple[str, ...]
    parameters: list[dict[str, Any]]  # every accepted key with role, range, default, meaning
    inert: list[str]  # keys that are accepted without effect
    names: tuple[str, ...] = ()  # that clients may call the model by; answers show the first
    # what a request has that gives nothing: surface -> parameter -> {"value", "origin"}
    defaults: dict[str, dict[str, Any]] = {}
    journal: str | None = None  # "loading", "working", "behind"; absent: jobs end with the worker
    limits: Limits | None = None
    determinism: Determinism | None = None
    arch: str | None = None
    backend: str | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    speculate: str | None = None
    draft_model: str | None = None  # absent: none
    context: int | None = None
    vocab_size: int | None = None
    n_parameters: int | None = None
    purpose: Purpose | None = None  # what the model is for, and how it makes vectors
    dimensions: int | None = None  # numbers of a vector
    longest_text: int | None = None  # tokens of a text that becomes a vector
    prompts: dict[str, str] = {}  # what may be put before such a text, by name
    default_prompt: str = ""
    default_dimensions: int = 0  # numbers of a vector that are kept; 0: all
    memory: Memory | None = None
    gpu: Gpu | None = None
    chat_template: bool | None = None
    tool_format: str | None = None  # how the model writes tool calls; absent: it takes no tools
    reasons: bool | None = None  # marks of reasoning are known for this model
    eos: tuple[EosToken, ...] = ()
    notes: tuple[str, ...] = ()


async def info(http: HttpRequest) -> Response:
    worker = worker_of(http)
    base = worker_info(worker)
    engine = worker.engine
    loaded = engine.info if engine is not None else None
    parameters = describe_parameters()
    extra: dict[str, Any] = {}
    if engine is not None and loaded is not None:
        extra = _model(loaded, worker.settings)
        extra["gpu"] = gpu_of(worker)
        extra["eos"] = tuple(engine.eos)
        extra["chat_template"] = engine.chat is not None
        extra["prompts"] = dict(engine.sentence.prompts)
        extra["default_prompt"] = engine.sentence.prompt
        extra["default_dimensions"] = engine.sentence.dimensions
        extra["longest_text"] = longest(engine.sentence, loaded.context)
        rules = engine.rules
        extra["defaults"] = {surface: defaults_of(rules, surface) for surface in SURFACES}
        extra["reasons"] = rules.form.reasons
        if rules.takes_tools and rules.form.tools is not None:
            extra["tool_format"] = rules.form.tools.name
    return json_response(
        Info(
            **base,
            state=worker.state,
            operations=("infer", "status"),
            parameters=[p for p in parameters if p["role"] != "unsupported"],
            inert=[p["name"] for p in parameters if p["role"] == "inert"],
            names=tuple(name for model in served_models(worker) for name in model.names),
            journal=None if worker.journal is None else worker.journal.state,
            **extra,
        )
    )


def _model(loaded: ModelInfo, settings: Settings) -> dict[str, Any]:
    return {
        "arch": loaded.arch,
        "backend": loaded.backend,
        "dtype": loaded.dtype,
        "kv_dtype": loaded.kv_dtype,
        "speculate": loaded.speculate,
        "draft_model": loaded.draft_model or None,
        "context": loaded.context,
        "vocab_size": loaded.vocab_size,
        "n_parameters": loaded.n_parameters,
        "purpose": loaded.purpose,
        "dimensions": loaded.dimensions,
        "memory": Memory(loaded.weight_bytes, loaded.kv_bytes, loaded.kv_tokens),
        "notes": loaded.notes,
        "determinism": Determinism(
            "bitwise" if settings.deterministic else DETERMINISM.get(loaded.backend, "measured")
        ),
        "limits": Limits(
            prompt_characters=settings.max_prompt_ratio * loaded.context,
            body_bytes=settings.max_body_kb * 1024,
            pictures=settings.max_pictures,
            picture_bytes=settings.max_picture_kb << 10,
            picture_pixels=settings.max_picture_mp * 1_000_000,
            headers=settings.max_headers,
            connections=settings.max_connections,
            queue=settings.max_queue,
            sequences=settings.max_seqs,
            request_timeout_s=settings.request_timeout,
            jobs_kept=settings.keep_jobs,
            jobs_kept_s=settings.keep_jobs_s,
        ),
    }


async def metrics(http: HttpRequest) -> Response:
    found = worker_of(http).observers.metrics()
    return Response(found.text(), media_type=None, headers={"Content-Type": found.content_type})


async def openapi(http: HttpRequest) -> Response:
    body = await _once(worker_of(http), "/openapi.json", _document)
    return Response(body, media_type="application/json")


async def docs(http: HttpRequest) -> Response:
    body = await _once(worker_of(http), "/docs", _page)
    policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return HTMLResponse(body, headers=policy)


async def _once(worker: Worker, path: str, make: Callable[[Worker], bytes]) -> bytes:
    """A page that never changes while the worker runs; made outside the event loop on first
    request."""
    if path not in worker.pages:
        worker.pages[path] = await asyncio.to_thread(make, worker)
    return worker.pages[path]


def _document(worker: Worker) -> bytes:
    from rbee_worker.server.openapi import document

    return msgspec.json.encode(document(worker))


def _page(worker: Worker) -> bytes:
    from rbee_worker.server.openapi import document
    from rbee_worker.server.reference import reference_page

    return reference_page(document(worker)).encode()
