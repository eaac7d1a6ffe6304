"""GET /v1/models and its one entry."""

from __future__ import annotations

import time
from typing import Literal

from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.schemas import (
    ModelCard,
    ModelList,
)
from rbee_worker.server.problems import json_response
from rbee_worker.server.served_models import served_model, served_models
from rbee_worker.server.worker import Worker


async def models(http: HttpRequest) -> Response:
    """Every name of what is served, even while the model is still loading."""
    worker = worker_of(http)
    names = [name for model in served_models(worker) for name in model.names]
    return json_response(ModelList(data=[_card(worker, name) for name in names]))


async def model(http: HttpRequest) -> Response:
    worker = worker_of(http)
    asked = http.path_params["model"]
    found = served_model(worker, asked)
    return json_response(_card(worker, asked if asked in found.names else found.name))


def _card(worker: Worker, name: str) -> ModelCard:
    info = worker.model
    modalities: list[Literal["text", "image"]] = ["text"]
    if info is not None and info.purpose.pictures:
        modalities.append("image")
    return ModelCard(
        id=name,
        created=int(time.time() - worker.age()),
        task=UNSET if info is None else info.purpose.task,
        input_modalities=UNSET if info is None else modalities,
    )
