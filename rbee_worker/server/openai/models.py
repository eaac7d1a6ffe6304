"""GET /v1/models and its one entry; POST /v1/embeddings, which a decoder cannot answer."""

from __future__ import annotations

import time

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from rbee_worker.server.body import envelope, read_object, refuse
from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.schemas import (
    EmbeddingEnvelope,
    ModelCard,
    ModelList,
)
from rbee_worker.server.problems import Refusal, json_response
from rbee_worker.server.requests import check_model, model_names
from rbee_worker.server.worker import Worker


async def models(http: HttpRequest) -> Response:
    """The served model, even while it is still loading."""
    worker = worker_of(http)
    return json_response(ModelList(data=[_card(worker, model_names(worker)[0])]))


async def model(http: HttpRequest) -> Response:
    worker = worker_of(http)
    return json_response(_card(worker, check_model(worker, http.path_params["model"])))


async def embeddings(http: HttpRequest) -> Response:
    """Refused until an encoder is served: a decoder's hidden states are not embeddings."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.serving()
    given, _, faults = envelope(body, EmbeddingEnvelope)
    check_model(worker, given.model)
    refuse(faults)
    raise Refusal(
        400,
        "not_an_encoder",
        f"The loaded model {worker.settings.model} is not an encoder: it has no embeddings.",
        fix="serve an encoder model for /v1/embeddings.",
        param="model",
    )


def _card(worker: Worker, name: str) -> ModelCard:
    return ModelCard(id=name, created=int(time.time() - worker.age()))
