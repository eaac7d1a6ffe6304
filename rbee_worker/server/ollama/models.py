"""GET /api/tags, /api/ps and /api/version, POST /api/show; and what one worker has no use for."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.checkpoint.summary import summarize
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import defaults_of
from rbee_worker.server.body import envelope, read_object, refuse, unknown_faults
from rbee_worker.server.health import worker_of
from rbee_worker.server.infilling import gap_tokens
from rbee_worker.server.ollama.names import named
from rbee_worker.server.ollama.schemas import (
    Details,
    Processes,
    Running,
    ShowEnvelope,
    Shown,
    Tag,
    Tags,
    Version,
)
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.served_models import served_models
from rbee_worker.server.worker import Worker

_STAYS = timedelta(days=365 * 100)  # a model is never unloaded


async def tags(http: HttpRequest) -> Response:
    """Every name of what is served, once it is loaded."""
    worker = worker_of(http)
    return json_response(Tags([Tag(**_tag(worker, name)) for name in _names(worker)]))


async def processes(http: HttpRequest) -> Response:
    """The same: what is served is loaded."""
    worker = worker_of(http)
    info = worker.model
    if info is None:
        return json_response(Processes([]))
    until = datetime.now(UTC) + _STAYS
    more: dict[str, Any] = {
        "expires_at": until.isoformat(),
        "size_vram": 0 if info.device == "cpu" else info.weight_bytes,
        "context_length": info.context,
    }
    return json_response(Processes([Running(**_tag(worker, n), **more) for n in _names(worker)]))


async def version(http: HttpRequest) -> Response:
    """The worker's own version, which is not one of Ollama's."""
    return json_response(Version(worker_of(http).version))


async def show(http: HttpRequest) -> Response:
    """The endpoint of POST /api/show."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, ShowEnvelope)
    refuse(faults + unknown_faults(rest, ShowEnvelope))
    named(worker, given.model or given.name)
    info, rules = engine.info, engine.rules
    assert info is not None
    lines = [
        f"{name:<30} {told['value']}"
        for name, told in defaults_of(rules, "chat").items()
        if name in _SHOWN
    ]
    return json_response(
        Shown(
            modelfile=f"FROM {worker.settings.model}\n",
            parameters="\n".join(lines),
            template=rules.template or "",
            details=_details(worker, info),
            model_info=_model_info(info),
            capabilities=_capabilities(worker, info),
            modified_at=_since(worker),
        )
    )


async def refused(http: HttpRequest) -> Response:
    """Routes that fetch, make, copy or delete models."""
    raise Refusal(
        400,
        "not_implemented",
        "A worker serves one model, which is chosen when it starts.",
        fix="fetch it with `rbee-worker pull`, and start a worker with --model.",
    )


_SHOWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")


def _names(worker: Worker) -> list[str]:
    if worker.model is None:
        return []
    return [name for model in served_models(worker) for name in model.names]


def _tag(worker: Worker, name: str) -> dict[str, Any]:
    info = worker.model
    assert info is not None
    return {
        "name": name,
        "model": name,
        "modified_at": _since(worker),
        "size": info.weight_bytes,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": _details(worker, info),
    }


def _since(worker: Worker) -> str:
    """When the worker was started."""
    return (datetime.now(UTC) - timedelta(seconds=worker.age())).isoformat()


def _details(worker: Worker, info: ModelInfo) -> Details:
    """quantization_level: the format of most bytes of the weights, as they are in the files."""
    ckpt = None if worker.engine is None else worker.engine.ckpt
    return Details(
        format="unknown" if ckpt is None else ckpt.kind,
        family=info.arch,
        families=[info.arch],
        parameter_size=_counted(info.n_parameters),
        quantization_level="unknown" if ckpt is None else summarize(ckpt.source).formats[0].format,
    )


def _counted(parameters: int) -> str:
    """A number of parameters as Ollama writes it: 134.5M, 8.0B."""
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f}B"
    return f"{parameters / 10**6:.1f}M"


def _model_info(info: ModelInfo) -> dict[str, Any]:
    return {
        "general.architecture": info.arch,
        "general.parameter_count": info.n_parameters,
        f"{info.arch}.context_length": info.context,
        f"{info.arch}.embedding_length": info.dimensions,
        f"{info.arch}.block_count": info.n_layers,
    }


def _capabilities(worker: Worker, info: ModelInfo) -> list[str]:
    if info.purpose.task != "generate":
        return ["embedding"]
    engine = worker.serving()
    rules = engine.rules
    known = {
        "completion": True,
        "tools": rules.takes_tools,
        "vision": rules.pictures,
        "thinking": rules.form.reasons,
        "insert": gap_tokens(engine.tokenizer) is not None,
        "embedding": True,
    }
    return [name for name, has in known.items() if has]
