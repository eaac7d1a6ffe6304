"""Health: is the worker alive, can it serve, how far has it loaded, what is it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from rbee_worker.server.auth import WORKER
from rbee_worker.server.problems import json_response
from rbee_worker.server.sse import BEAT_S, DONE, MessageStream, frame
from rbee_worker.server.worker import RETRY_AFTER_S, Worker

STAGES = {"loading": "loading_to_vram"}  # the orchestrators' word for the engine's
MIB = 1 << 20


class Health(Struct, frozen=True):
    status: Literal["healthy"] = "healthy"


class Memory(Struct, frozen=True):
    """Sizes in bytes, as the engine reports them."""

    weight_bytes: int
    kv_bytes: int
    kv_tokens: int


class Ready(Struct, frozen=True, kw_only=True, omit_defaults=True):
    ready: bool
    state: str
    model: str
    uptime_s: float
    reason: str = ""
    load_s: dict[str, float] = {}  # phase -> seconds
    memory: Memory | None = None


class Gpu(Struct, frozen=True):
    """A GPU's memory in bytes: all, used by all processes, and by this worker, whose `workspace` is
    what it holds beside weights and cache. floor_share: time of reading weights and cache over the
    time of the last decoding steps."""

    memory_total_bytes: int
    memory_used_bytes: int
    memory_own_bytes: int
    workspace_bytes: int
    floor_share: float


class Stats(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the worker is doing now; the same figures as /metrics, for pages and dashboards."""

    state: str
    reason: str
    model: str
    jobs: int  # live ones, including streams of OpenAI clients
    queue_depth: int
    running: int
    kv_usage: float  # 0..1
    tokens_in: int
    tokens_out: int
    drafted_tokens: int
    accepted_tokens: int
    utilisation: float  # share of the time that the engine computes, 0..1
    gpu: Gpu | None = None  # absent without a GPU


class Progress(Struct, frozen=True, kw_only=True):
    stage: str
    item: str | UnsetType = UNSET  # the item finished last, such as a compiled kernel
    layers_loaded: int | UnsetType = UNSET
    layers_total: int | UnsetType = UNSET
    vram_mb: int | UnsetType = UNSET  # MiB of weights loaded
    bytes_loaded: int | UnsetType = UNSET
    bytes_total: int | UnsetType = UNSET
    reason: str | UnsetType = UNSET


def worker_of(request: HttpRequest) -> Worker:
    """The worker that this application serves."""
    worker = request.scope[WORKER]
    assert isinstance(worker, Worker)
    return worker


async def health(request: HttpRequest) -> Response:
    return json_response(Health())


async def ready(request: HttpRequest) -> Response:
    worker = worker_of(request)
    state = worker.state
    info = worker.model
    body = Ready(
        ready=state == "ready",
        state=state,
        model=worker.settings.model,
        uptime_s=round(worker.age(), 3),
        reason=worker.reason,
        load_s=info.load_s if info is not None else {},
        memory=None if info is None else Memory(info.weight_bytes, info.kv_bytes, info.kv_tokens),
    )
    if state == "ready":
        return json_response(body)
    return json_response(body, 503, {"Retry-After": str(RETRY_AFTER_S)})


async def stats(request: HttpRequest) -> Response:
    worker = worker_of(request)
    found = worker.stats
    total = max(1, found.kv_total_blocks) if found is not None else 1
    return json_response(
        Stats(
            state=worker.state,
            reason=worker.reason,
            model=worker.settings.model,
            jobs=len(worker.jobs.live()),
            queue_depth=found.waiting if found is not None else 0,
            running=found.running if found is not None else 0,
            kv_usage=found.kv_used_blocks / total if found is not None else 0.0,
            tokens_in=found.tokens_in if found is not None else 0,
            tokens_out=found.tokens_out if found is not None else 0,
            drafted_tokens=found.drafted_tokens if found is not None else 0,
            accepted_tokens=found.accepted_tokens if found is not None else 0,
            utilisation=found.utilisation if found is not None and found.running else 0.0,
            gpu=gpu_of(worker),
        )
    )


def gpu_of(worker: Worker) -> Gpu | None:
    """The GPU as the engine last reported it; None: there is none, or nothing was computed yet."""
    found, info = worker.stats, worker.model
    if found is None or info is None or not found.device_total_bytes:
        return None
    own = found.device_own_bytes
    return Gpu(
        found.device_total_bytes,
        found.device_used_bytes,
        own,
        max(own - info.weight_bytes - info.kv_bytes, 0),
        round(found.floor_share, 4),
    )


async def loading_progress(request: HttpRequest) -> ASGIApp:
    return MessageStream(progress_frames(worker_of(request)))


async def progress_frames(worker: Worker) -> AsyncIterator[bytes]:
    """The latest state first, then every change, until the model is ready or has failed."""
    last: Progress | None = None
    async for changed in worker.changes(BEAT_S):
        now = progress(worker)
        if now != last:
            last = now
            yield frame(msgspec.json.encode(now))
        elif not changed:
            yield b""
        if now.stage in ("ready", "failed"):
            break
    yield DONE


def progress(worker: Worker) -> Progress:
    """How far loading has come."""
    state = worker.state
    if state == "failed":
        return Progress(stage="failed", reason=worker.reason)
    if state not in ("loading", "restarting"):
        return Progress(stage="ready")
    step = worker.loading
    return Progress(
        stage=STAGES.get(step.stage, step.stage),
        item=step.item or UNSET,
        layers_loaded=step.layers_loaded,
        layers_total=step.layers_total,
        vram_mb=step.bytes_loaded // MIB,
        bytes_loaded=step.bytes_loaded,
        bytes_total=step.bytes_total,
    )


def worker_info(worker: Worker) -> dict[str, Any]:
    """The WorkerInfo that orchestrators expect: six fields and the version."""
    info = worker.model
    return {
        "id": worker.id,
        "model_id": worker.settings.model,
        "device": info.device if info is not None else device_asked(worker),
        "port": worker.port,
        "status": worker_status(worker),
        "implementation": "rbee-worker",
        "version": worker.version,
    }


def worker_status(worker: Worker) -> str:
    """starting, ready, busy or stopped."""
    state = worker.state
    if state in ("loading", "restarting", "stalled"):
        return "starting"
    if state in ("draining", "failed"):
        return "stopped"
    return "busy" if worker.jobs.live() else "ready"


def device_asked(worker: Worker) -> str:
    """The device that --backend and --device ask for, before the engine reports the real one."""
    settings = worker.settings
    return f"cuda:{settings.device}" if settings.backend == "cuda" else "cpu"
