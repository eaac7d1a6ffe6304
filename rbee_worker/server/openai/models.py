"""GET /v1/models and its one entry."""

from __future__ import annotations

import time

from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.schemas import (
    ModelCard,
    ModelList,
)
from rbee_worker.server.problems import json_response
from rbee_worker.server.requests import check_model, model_names
from rbee_worker.server.worker import Worker


async def models(http: HttpRequest) -> Response:
    """The served model, even while it is still loading."""
    worker = worker_of(http)
    return json_response(ModelList(data=[_card(worker, model_names(worker)[0])]))


async def model(http: HttpRequest) -> Response:
    worker = worker_of(http)
    return json_response(_card(worker, check_model(worker, http.path_params["model"])))


def _card(worker: Worker, name: str) -> ModelCard:
    info = worker.model
    return ModelCard(
        id=name,
        created=int(time.time() - worker.age()),
        task=UNSET if info is None else info.purpose.task,
    )
